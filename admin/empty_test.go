package admin

import (
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// TestAFieldThatIsEmptyIsNotOneThatIsLeftOut sends an empty value for every field
// of every body.
func TestAFieldThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"name":"one","upstream":"openai","max_activations":5,"models":["gpt-5-mini"],"owner":"ops"}`)
	before := w.Do("GET", "/keys", "").Body
	for pattern, op := range operations {
		if op.body == nil {
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", m.ID, "{name}", "openai").Replace(path)
		for _, f := range fieldsOf(reflect.TypeOf(op.body)) {
			if _, ok := mayBeEmpty[f.name]; ok {
				continue
			}
			for _, empty := range []string{`""`, `" "`, "[]", "[ ]", "{}", `[""]`} {
				others := map[string]string{"upstream": `"openai"`, "max_activations": "5"}
				if pattern != "POST /keys" {
					others = map[string]string{}
				}
				others[f.name] = empty
				var parts []string
				for name, value := range others {
					parts = append(parts, fmt.Sprintf("%q:%s", name, value))
				}
				a := w.Do(method, path, "{"+strings.Join(parts, ",")+"}")
				if a.Status != 400 || !strings.Contains(a.Body, f.name) && empty != `[""]` {
					t.Errorf("%s with %s: %s answered %d: %s", pattern, f.name, empty, a.Status, a.Body)
				}
			}
		}
	}
	if after := w.Do("GET", "/keys", "").Body; after != before {
		t.Errorf("something was done:\n%s\n%s", before, after)
	}
}

// TestAFieldThatIsNullIsLeftOut: in a change it is removed instead.
func TestAFieldThatIsNullIsLeftOut(t *testing.T) {
	t.Parallel()
	for pattern, op := range operations {
		if op.body == nil || pattern == "PATCH /keys/{id}" {
			continue
		}
		for _, f := range fieldsOf(reflect.TypeOf(op.body)) {
			into := reflect.New(reflect.TypeOf(op.body))
			r := httptest.NewRequest("POST", "/", strings.NewReader(`{"`+f.name+`":null}`))
			if err := readBody(r, into.Interface()); err != nil || !into.Elem().IsZero() {
				t.Errorf("%s: %s: %v, %+v", pattern, f.name, err, into.Elem())
			}
		}
	}
}

// TestNoParameterIsLeftOut: a filter that is left out picks every key.
func TestNoParameterIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"100%"}`)
	for _, path := range []string{"/keys?owner=100%", "/keys?status=active;owner=x", "/keys?owner=%zz", "/backup?with_seal=true", "/backup?seal=true&seal=false", "/backup?seal=%zz", "/prices?modle=gpt-5", "/spend?owner=x"} {
		if a := w.Do("GET", path, ""); a.Status != 400 {
			t.Errorf("%s: %d %.200s", path, a.Status, a.Body)
		}
	}
	if list := admintest.Get[wire.Listed](t, w.Do("GET", "/keys?owner=100%25", "")); len(list.Keys) != 1 {
		t.Errorf("escaped, it picks %d keys", len(list.Keys))
	}
}

// TestATimeThatCannotBeWrittenIsRefused: JSON has four digits for a year, and a time
// zone or a grant leads beyond them.
func TestATimeThatCannotBeWrittenIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const last, beyond = "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00"
	m := w.NewKey(`{"upstream":"openai","max_activations":5,"expires_at":"` + last + `"}`)
	for _, call := range [][3]string{
		{"POST", "/keys", `{"upstream":"openai","max_activations":5,"expires_at":"` + beyond + `"}`},
		{"PATCH", "/keys/" + m.ID, `{"expires_at":"` + beyond + `"}`},
		{"POST", "/keys/" + m.ID + "/grant", `{"expires_in":"1h"}`},
		{"POST", "/tokens", `{"name":"anna","role":"ci","expires_at":"` + beyond + `"}`},
	} {
		if a := w.Do(call[0], call[1], call[2]); a.Status != 400 || !strings.Contains(a.Body, "expires_at must be before the year 10000") {
			t.Errorf("%q: %d %s", call, a.Status, a.Body)
		}
	}
}

// TestAZeroIsNoRuleThatIsLeftOut sends a zero for every field that a program may
// send without having set it. For an amount, zero is the smallest limit.
func TestAZeroIsNoRuleThatIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5,"idle_timeout":"1h","first_use_within":"1h","max_concurrency":2,"expires_in":"1h"}`)
	before := w.Do("GET", "/keys/"+m.ID, "").Body
	zeros := map[reflect.Type]string{reflect.TypeFor[*wire.Span](): `"0s"`, reflect.TypeFor[*time.Time](): `"0001-01-01T00:00:00Z"`, reflect.TypeFor[*int](): "0"}
	tried := 0
	for call, others := range map[string]string{
		"POST /keys": `"upstream":"openai","max_activations":5`, "PATCH /keys/" + m.ID: `"owner":"ops"`, "POST /tokens": `"name":"anna","role":"*"`,
	} {
		method, path, _ := strings.Cut(call, " ")
		body := reflect.TypeFor[wire.Settable]()
		if path == "/tokens" {
			body = reflect.TypeFor[wire.TokenBody]()
		}
		for i := range body.NumField() {
			zero, ok := zeros[body.Field(i).Type]
			if !ok {
				continue
			}
			tried++
			name := body.Field(i).Tag.Get("json")
			if a := w.Do(method, path, fmt.Sprintf(`{%s,%q:%s}`, others, name, zero)); a.Status != 400 || !strings.Contains(a.Body, name+" must be more than 0") {
				t.Errorf("%s with %s: %s answered %d: %s", call, name, zero, a.Status, a.Body)
			}
		}
	}
	if after := w.Do("GET", "/keys/"+m.ID, "").Body; after != before || tried != 12 {
		t.Errorf("%d were tried, and of\n%s came\n%s", tried, before, after)
	}
}

func TestAFieldOfAChildThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	parent := &record.Key{ID: "key_1", Upstream: "openai", Limit: record.NoLimits(), Delegate: true}
	for _, f := range fieldsOf(reflect.TypeFor[childBody]()) {
		for _, empty := range []string{`""`, "[]", "{}"} {
			r := httptest.NewRequest("POST", "/till/self/keys", strings.NewReader(fmt.Sprintf(`{"unlimited":true,%q:%s}`, f.name, empty)))
			if f.name == "unlimited" {
				r = httptest.NewRequest("POST", "/till/self/keys", strings.NewReader(fmt.Sprintf(`{%q:%s}`, f.name, empty)))
			}
			if _, _, err := ReadChild(r, parent, "openai", time.Now()); err == nil || StatusOf(err) != 400 || !strings.Contains(err.Error(), f.name) {
				t.Errorf("%s: %s gives %v", f.name, empty, err)
			}
		}
	}
}

func TestNullAndAbsentAreNoRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5,"models":null,"ips":null,"owner":null,"max_spend_usd":null}`)
	if m.Models != nil || m.IPs != nil || m.MaxSpendUSD != "" {
		t.Errorf("%+v", m)
	}
	w.Do("PATCH", "/keys/"+m.ID, `{"models":["a"]}`)
	if k := admintest.Get[wire.KeyObject](t, w.Do("PATCH", "/keys/"+m.ID, `{"models":null}`)); k.Models != nil {
		t.Errorf("the models are %v", k.Models)
	}
}

// TestAParameterThatIsEmptyIsNotOneThatIsLeftOut filters lists by empty values.
func TestAParameterThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	for pattern, op := range operations {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", m.ID).Replace(path)
		for _, name := range op.query {
			name = strings.ReplaceAll(name, "label.NAME", "label.team")
			want := 400
			if name == "cursor" {
				want = 200
			}
			if a := w.Do(method, path+"?"+name+"=", ""); a.Status != want {
				t.Errorf("%s?%s= answered %d, want %d: %s", pattern, name, a.Status, want, a.Body)
			}
			if pattern == "GET /keys" && want == 400 {
				if a := w.Do("POST", "/keys/revoke", fmt.Sprintf(`{"filter":{%q:""}}`, name)); a.Status != 400 {
					t.Errorf("revoking by an empty %s answered %d: %s", name, a.Status, a.Body)
				}
			}
		}
	}
	if k := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+m.ID, "")); k.Status != record.Active {
		t.Errorf("the key is %s", k.Status)
	}
}
