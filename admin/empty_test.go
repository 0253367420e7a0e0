package admin

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// TestAFieldThatIsEmptyIsNotOneThatIsLeftOut sends every field of every body
// with nothing in it.
func TestAFieldThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.mint(`{"name":"one","upstream":"openai","max_activations":5,"models":["gpt-5-mini"],"owner":"ops"}`)
	before := w.do("GET", "/keys", "").body
	for pattern, op := range operations {
		if op.body == nil {
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", m.ID, "{name}", "openai").Replace(path)
		for _, f := range fieldsOf(reflect.TypeOf(op.body)) {
			if _, ok := blankable[f.name]; ok {
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
				a := w.do(method, path, "{"+strings.Join(parts, ",")+"}")
				if a.status != 400 || !strings.Contains(a.body, f.name) && empty != `[""]` {
					t.Errorf("%s with %s: %s answered %d: %s", pattern, f.name, empty, a.status, a.body)
				}
			}
		}
	}
	if after := w.do("GET", "/keys", "").body; after != before {
		t.Errorf("something was done:\n%s\n%s", before, after)
	}
}

// TestAZeroIsNoRuleThatIsLeftOut sends the zero of every field that a program may
// send without having set it. Of an amount it is the smallest there is.
func TestAZeroIsNoRuleThatIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.mint(`{"upstream":"openai","max_activations":5,"idle_timeout":"1h","first_use_within":"1h","max_concurrency":2,"expires_in":"1h"}`)
	before := w.do("GET", "/keys/"+m.ID, "").body
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
			if a := w.do(method, path, fmt.Sprintf(`{%s,%q:%s}`, others, name, zero)); a.status != 400 || !strings.Contains(a.body, name+" must be more than 0") {
				t.Errorf("%s with %s: %s answered %d: %s", call, name, zero, a.status, a.body)
			}
		}
	}
	if after := w.do("GET", "/keys/"+m.ID, "").body; after != before || tried != 12 {
		t.Errorf("%d were tried, and of\n%s came\n%s", tried, before, after)
	}
}

func TestAFieldOfAChildThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	parent := &limiter.Key{ID: "key_1", Upstream: "openai", Limit: limiter.NoLimits(), Delegate: true}
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
	m := w.mint(`{"upstream":"openai","max_activations":5,"models":null,"ips":null,"owner":null,"max_spend_usd":null}`)
	if m.Models != nil || m.IPs != nil || m.MaxSpendUSD != "" {
		t.Errorf("%+v", m)
	}
	w.do("PATCH", "/keys/"+m.ID, `{"models":["a"]}`)
	if k := get[wire.KeyObject](t, w.do("PATCH", "/keys/"+m.ID, `{"models":null}`)); k.Models != nil {
		t.Errorf("the models are %v", k.Models)
	}
}

// TestAParameterThatIsEmptyIsNotOneThatIsLeftOut asks for lists by nothing.
func TestAParameterThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.mint(`{"upstream":"openai","max_activations":5}`)
	for pattern, op := range operations {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", m.ID).Replace(path)
		for _, name := range op.query {
			name = strings.ReplaceAll(name, "label.NAME", "label.team")
			want := 400
			if name == "cursor" {
				want = 200
			}
			if a := w.do(method, path+"?"+name+"=", ""); a.status != want {
				t.Errorf("%s?%s= answered %d, want %d: %s", pattern, name, a.status, want, a.body)
			}
			if pattern == "GET /keys" && want == 400 {
				if a := w.do("POST", "/keys/revoke", fmt.Sprintf(`{"filter":{%q:""}}`, name)); a.status != 400 {
					t.Errorf("revoking by an empty %s answered %d: %s", name, a.status, a.body)
				}
			}
		}
	}
	if k := get[wire.KeyObject](t, w.do("GET", "/keys/"+m.ID, "")); k.Status != limiter.Active {
		t.Errorf("the key is %s", k.Status)
	}
}

// TestAFlagThatIsEmptyIsNotOneThatIsLeftOut gives every flag of every command
// with nothing in it, and every list with an entry that is empty.
func TestAFlagThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	for path, cmd := range tree() {
		if path == "" {
			continue
		}
		check := func(flag *pflag.Flag) {
			values := []string{"", " "}
			switch flag.Value.Type() {
			case "bool": // pflag itself refuses them
				values = []string{""}
			case "stringSlice":
				values = append(values, ",", "a,", ",a", "a,,b")
			case "stringToString":
				values = append(values, "=", "a=", "=a", "a=1,b=")
			}
			for _, value := range values {
				want := 2
				if path == runName {
					want = exitRun
				}
				r := till(t, append(strings.Fields(path), "--"+flag.Name+"="+value)...)
				// Numbers say so in pflag's words.
				says := strings.Contains(r.err, "empty") || !strings.HasPrefix(flag.Value.Type(), "string")
				if r.code != want || r.out != "" || !strings.Contains(r.err, "--"+flag.Name) || !says {
					t.Errorf("%s --%s=%q: exit %d, want %d: %s%s", path, flag.Name, value, r.code, want, r.out, r.err)
				}
			}
		}
		cmd.NonInheritedFlags().VisitAll(check)
		cmd.InheritedFlags().VisitAll(check)
	}
}

func TestAnArgumentThatIsEmptyIsUsage(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"show", "revoke", "leak", "backup", "restore", "prices", "token create", "token revoke", "audit verify", "audit export", "env", "run --"} {
		want := 2
		if strings.HasPrefix(line, runName) {
			want = exitRun
		}
		if r := till(t, append(strings.Fields(line), "", "--address", "127.0.0.1:1")...); r.code != want && line != "run --" || !strings.Contains(r.err, "must not be empty") {
			t.Errorf("%s: exit %d: %s%s", line, r.code, r.out, r.err)
		}
	}
}

// TestAZeroThatIsGivenIsALimit holds that a flag's own zero is not taken for a
// flag that is not there.
func TestAZeroThatIsGivenIsALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := till(t, "create", "--upstream", "openai", "--max-activations", "5", "--max-spend-cents", "0", "--json", "--address", w.serve())
	var k wire.KeyObject
	if err := json.Unmarshal([]byte(r.out), &k); err != nil || k.MaxSpendUSD == "" {
		t.Errorf("%v: %+v: %s", err, k, r.err)
	}
}
