package limiter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

// fill gives everything in v a value; another n, another value.
func fill(v reflect.Value, n int) {
	switch at := v.Addr().Interface().(type) {
	case *time.Time:
		*at = time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC)
		return
	case *netip.Prefix:
		*at = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
		return
	case *record.Rate:
		*at = record.Rate{N: int64(n), Per: time.Minute}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", n))
	case reflect.Bool:
		v.SetBool(n%2 == 1)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n) * int64(time.Second))
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"name": fmt.Sprint("value ", n)}))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("no value for " + v.Type().String())
	}
}

// filled is a key with something in every field.
func filled(n int) *record.Key {
	key := new(record.Key)
	fill(reflect.ValueOf(key).Elem(), n)
	return key
}

// of is a field of a key, which can be set.
func of(f *record.Field, key *record.Key) reflect.Value {
	return reflect.ValueOf(f.Address(key)).Elem()
}

func fieldNames(picked func(f *record.Field) bool) (names []string) {
	for i := range record.KeyFields {
		if f := &record.KeyFields[i]; picked(f) {
			names = append(names, f.Name)
		}
	}
	return names
}

func TestEveryFieldOfAKeyHasOneRow(t *testing.T) {
	t.Parallel()
	key := new(record.Key)
	rows := make(map[any]int) // by address
	for i := range record.KeyFields {
		rows[record.KeyFields[i].Address(key)]++
	}
	var covered int
	var look func(path string, v reflect.Value)
	look = func(path string, v reflect.Value) {
		n := rows[v.Addr().Interface()]
		switch {
		case n > 0:
			covered += n
			if n > 1 {
				t.Errorf("%s has %d rows", path, n)
			}
		case v.Kind() == reflect.Struct && v.NumField() > 0:
			for i := range v.NumField() {
				look(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case v.Kind() == reflect.Array:
			for i := range v.Len() {
				look(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		default:
			t.Errorf("%s has no row in KeyFields", path)
		}
	}
	look("Key", reflect.ValueOf(key).Elem())
	if covered != len(record.KeyFields) {
		t.Errorf("%d rows are about fields of a key, of %d", covered, len(record.KeyFields))
	}
	names := fieldNames(func(f *record.Field) bool { return f.Name != "" })
	if slices.Sort(names); len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("a name stands twice in %s", names)
	}
	for _, f := range record.KeyFields {
		if chosen := f.Choice != record.Noted; chosen != (f.Doc != "") || chosen && f.Name == "" {
			t.Errorf("%q: what is chosen has a name and is described, and nothing besides", f.Name)
		}
	}
}

// TestTheAuditLogShowsEveryFieldInItsForm: entries are kept for years, and their
// hashes are over this text.
func TestTheAuditLogShowsEveryFieldInItsForm(t *testing.T) {
	t.Parallel()
	facts, err := json.Marshal(filled(1).Facts())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"charge":"text 1","custody":"text 1","delegate":true,"ended_reason":"text 1","expires_at":"2026-11-01T00:00:00Z","first_use_within":"1s","fit":false,"grace_ends_at":"2026-11-01T00:00:00Z","idle_timeout":"1s","ips":["10.1.0.0/16"],"labels":{"name":"value 1"},"max_activations":1000000000,"max_concurrency":1000000000,"max_request_spend_usd":"1.00","max_spend_usd":"1.00","max_tokens":1000000000,"metadata":{"name":"value 1"},"methods":["text 1"],"models":["text 1"],"name":"text 1","owner":"text 1","parent":"text 1","paths":["text 1"],"pin_ip":true,"purpose":"text 1","rate":"1/m","renews":"text 1","role":"text 1","rotations":1000000000,"self_revoke":true,"stale_told_at":"2026-11-01T00:00:00Z","status":"text 1","suspended_by":"text 1","unknown_price":"count_only","upstream":"text 1"}`
	if string(facts) != want {
		t.Errorf("the facts of a key are\n%s, want\n%s", facts, want)
	}
	bare, err := json.Marshal((&record.Key{Limit: record.NoLimits()}).Facts())
	if err != nil || string(bare) != `{"self_revoke":false,"status":"active"}` {
		t.Errorf("of a key with nothing set: %s, %v", bare, err)
	}
}

func TestACopyOfAKeySharesNothing(t *testing.T) {
	t.Parallel()
	key := filled(1)
	copied := key.Clone()
	if !reflect.DeepEqual(key, copied) {
		t.Fatalf("%+v, want %+v", copied, key)
	}
	shared("Key", reflect.ValueOf(key).Elem(), reflect.ValueOf(copied).Elem(), func(path string) { t.Errorf("%s is the same in both", path) })
}

// shared finds the maps and slices that two values have in common.
func shared(path string, a, b reflect.Value, found func(path string)) {
	switch a.Kind() {
	case reflect.Map, reflect.Slice:
		if a.Pointer() == b.Pointer() {
			found(path)
		}
	}
	switch a.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range a.Len() {
			shared(fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i), found)
		}
	case reflect.Struct:
		for i := range a.NumField() {
			shared(path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i), found)
		}
	}
}

// another returns a change that gives a field of a key another value, which is valid.
func another(f *record.Field, now time.Time) func(key *record.Key) error {
	valid := map[string]any{
		"charge": record.ChargeSuccess, "renews": record.Daily, "expires_at": now.Add(time.Hour).UTC(),
		"max_concurrency": 2, "paths": []string{"/v1/models"}, "methods": []string{"GET"},
	}
	return func(key *record.Key) error {
		v := of(f, key)
		if v.Kind() == reflect.Bool {
			v.SetBool(!v.Bool())
		} else if fill(v, 2); valid[f.Name] != nil {
			v.Set(reflect.ValueOf(valid[f.Name]))
		}
		return nil
	}
}

// TestAChangeOfAFieldChangesThatAlone changes each field of a key. What may be chosen
// then is changed, alone, and stands in the audit log; nothing else is.
func TestAChangeOfAFieldChangesThatAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range record.KeyFields {
		f := &record.KeyFields[i]
		k := w.mint(func(key *record.Key) { key.Limit = record.Amounts{500, 500, 500, record.NoLimit} })
		before := k.view().Key
		if _, err := w.Change(ctx, limiter.Operator, k.id, 0, another(f, w.clock.time())); err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		after := k.view().Key
		for j := range record.KeyFields {
			g := &record.KeyFields[j]
			changed := !reflect.DeepEqual(of(g, &before).Interface(), of(g, &after).Interface())
			if want := i == j && f.Choice >= record.WhileAlive; g.Name != "" && changed != want {
				t.Errorf("a change of %q: %s changed: %t, want %t", f.Name, g.Name, changed, want)
			}
		}
		var names []string
		for _, line := range w.auditLines() {
			e, err := limiter.ParseAuditLine([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			if changes, ok := e["changes"].(map[string]any); ok && e["key"] == k.id && e["action"] == audit.ActKeyUpdate {
				for name := range changes {
					names = append(names, name)
				}
			}
		}
		var want []string
		if f.Choice >= record.WhileAlive {
			want = []string{f.Name}
		}
		if !slices.Equal(names, want) {
			t.Errorf("a change of %q: the audit log has changes of %v, want %v", f.Name, names, want)
		}
	}
}

// decidesNothing are the fields that do not decide what a key may do.
var decidesNothing = []string{"name", "owner", "purpose", "labels", "metadata"}

// strict is a key with a rule in every field, and loose takes that of one field away.
func strict() *record.Key {
	return &record.Key{
		ID: "key_parent", Upstream: "openai", Custody: "held", Role: "ci",
		Limit: record.Amounts{500, 500, 500, record.NoLimit}, Charge: record.ChargeForwarded, MaxRequestSpend: 5,
		ExpiresAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), IdleTimeout: time.Hour, FirstUseWithin: time.Hour,
		Rate: record.Rate{N: 10, Per: time.Minute}, MaxConcurrency: 2,
		Scope: scope.Scope{
			Models: []string{"gpt-5-mini"}, Paths: []string{"/v1/models"}, Methods: []string{"GET"},
			IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, PinIP: true,
		},
	}
}

func loose(f *record.Field, key *record.Key) {
	switch v := of(f, key); {
	case f.Name == "renews":
		key.Renews = record.Daily
	case f.Name == "charge":
		key.Charge = record.ChargeSuccess
	case f.Name == "upstream", f.Name == "custody", f.Name == "role":
		v.SetString("other")
	case v.Kind() == reflect.Bool:
		v.SetBool(!v.Bool())
	default:
		f.Clear(key)
	}
}

// TestNoFieldOfAChildIsWiderThanItsParents, when it is minted and when it is changed, and
// what would make it so widens a key that has no parent.
func TestNoFieldOfAChildIsWiderThanItsParents(t *testing.T) {
	t.Parallel()
	parent := strict()
	for i := range record.KeyFields {
		f := &record.KeyFields[i]
		if f.Choice == record.Noted {
			continue
		}
		child := parent.Child()
		child.Limit = parent.Limit
		if err := child.Within(nil, parent); err != nil {
			t.Fatalf("a child that has what its parent has: %v", err)
		}
		before := child.Clone()
		loose(f, child)
		free := slices.Contains(decidesNothing, f.Name)
		for name, old := range map[string]*record.Key{"minted": nil, "changed": before} {
			var wrong *record.InvalidError
			if err := child.Within(old, parent); free && err != nil || !free && (!errors.As(err, &wrong) || wrong.Field != f.Name) {
				t.Errorf("%s, %s: %v", f.Name, name, err)
			}
		}
		if err := child.Within(child, parent); err != nil && f.Name != "renews" {
			t.Errorf("%s was as wide before: %v", f.Name, err)
		}
		if got, want := child.Widens(before), !free && f.Name != "fit"; got != want {
			t.Errorf("%s: it widens the key: %t, want %t", f.Name, got, want)
		}
	}
}

// TestAChangeOfOneListLeavesTheOthersOfAChild: a list of its parent's that became
// shorter since binds at each use, and does not keep the child from changing another.
func TestAChangeOfOneListLeavesTheOthersOfAChild(t *testing.T) {
	t.Parallel()
	parent := strict()
	parent.Scope.Models = []string{"gpt-5-mini", "gpt-5"}
	child := parent.Child()
	child.Limit, child.Scope.Models = parent.Limit, []string{"gpt-5-mini"}
	parent.Scope.Paths = []string{"/v1/embeddings"}
	before := child.Clone()
	child.Scope.Models = []string{"gpt-5"}
	if err := child.Within(before, parent); err != nil {
		t.Errorf("a model that the parent has: %v", err)
	}
}

func TestAChildBeginsAsItsParentIsButForWhatIsItsOwn(t *testing.T) {
	t.Parallel()
	parent, bare := filled(1), &record.Key{Limit: record.NoLimits()}
	child := parent.Child()
	for i := range record.KeyFields {
		f := &record.KeyFields[i]
		same := reflect.DeepEqual(of(f, parent).Interface(), of(f, child).Interface())
		if same != f.Inherited || !f.Inherited && !reflect.DeepEqual(f.Fact(child), f.Fact(bare)) {
			t.Errorf("%q of a new child: %v", f.Name, of(f, child))
		}
		if f.Inherited && f.Choice == record.Noted {
			t.Errorf("%q is inherited, and nobody chooses it", f.Name)
		}
	}
	want := []string{"name", "purpose", "labels", "metadata", "max_activations", "max_tokens", "max_spend_usd", "renews", "delegate"}
	if own := fieldNames(func(f *record.Field) bool { return f.Choice != record.Noted && !f.Inherited }); !slices.Equal(own, want) {
		t.Errorf("a child's own are %q, want %q", own, want)
	}
}
