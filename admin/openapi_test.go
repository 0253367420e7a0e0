package admin

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
)

// eachType calls fn for every struct that the operations read or write.
func eachType(fn func(t reflect.Type)) {
	seen := map[reflect.Type]bool{}
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if seen[t] || texts[t] != nil || t.Kind() != reflect.Struct {
			return
		}
		seen[t] = true
		fn(t)
		for _, f := range fieldsOf(t) {
			walk(f.typ)
		}
	}
	for _, op := range operations {
		types := []any{op.body, op.answer, op.replay}
		for _, other := range op.others {
			types = append(types, other.answer)
		}
		for _, v := range types {
			if v != nil {
				walk(reflect.TypeOf(v))
			}
		}
	}
}

func TestEveryRouteIsDescribedAsItIs(t *testing.T) {
	t.Parallel()
	for pattern, op := range operations {
		if (op.call == nil) == (op.stream == nil) {
			t.Errorf("%s needs a call or a stream, and not both", pattern)
		}
		if call, ok := calls[pattern]; ok && call.permission != op.permission {
			t.Errorf("%s takes %q, and is described with %q", pattern, call.permission, op.permission)
		}
	}
}

// repeatable lists the calls that can safely be made twice, or that work without the store
// in which it is kept which calls were made.
var repeatable = []string{"POST /leaks", "POST /fingerprint", "POST /store/repair", "POST /lockdown", "POST /console/link"}

func TestEveryPostIsCarriedOutOnceUnlessItCanBeRepeated(t *testing.T) {
	t.Parallel()
	for pattern, op := range operations {
		if once := strings.HasPrefix(pattern, "POST ") && !slices.Contains(repeatable, pattern); once != (op.replay != nil) {
			t.Errorf("%s: an Idempotency-Key is looked at: %t", pattern, op.replay != nil)
		}
	}
}

func TestEveryFieldAndParameterIsDescribed(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	eachType(func(typ reflect.Type) {
		for _, f := range fieldsOf(typ) {
			used[f.name] = true
			if fieldDocs[f.name] == "" {
				t.Errorf("%s.%s is not described: say what it means in fielddocs.go", typ, f.name)
			}
		}
	})
	for name := range fieldDocs {
		if !used[name] {
			t.Errorf("the field %s is described, and is nowhere", name)
		}
	}
	used = map[string]bool{}
	braces := regexp.MustCompile(`\{\w+\}`)
	for pattern, op := range operations {
		headers := op.headers
		if op.replay != nil {
			headers = append(slices.Clone(headers), idempotencyHeader)
		}
		for _, name := range slices.Concat(op.query, headers, braces.FindAllString(pattern, -1)) {
			used[name] = true
			if parameterDocs[name] == "" {
				t.Errorf("%s: the parameter %s is not described", pattern, name)
			}
		}
	}
	for name := range parameterDocs {
		if !used[name] {
			t.Errorf("the parameter %s is described, and is nowhere", name)
		}
	}
}

// TestEveryDescribedFieldAndParameterIsTaken sends each by itself: unknown ones are
// refused as unknown.
func TestEveryDescribedFieldAndParameterIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	for pattern, op := range operations {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", m.ID, "{name}", "openai").Replace(path)
		for _, name := range op.query {
			name = strings.ReplaceAll(name, "label.NAME", "label.team")
			if a := w.Do(method, path+"?"+name+"=1", ""); strings.Contains(a.Body, "unknown") {
				t.Errorf("%s?%s: %s", pattern, name, a.Body)
			}
		}
		if len(op.query) > 0 && pattern != "GET /prices" && pattern != "GET /backup" {
			if a := w.Do(method, path+"?nosuch=1", ""); a.Status != http.StatusBadRequest {
				t.Errorf("%s?nosuch: %d", pattern, a.Status)
			}
		}
		if op.body == nil {
			continue
		}
		for _, f := range fieldsOf(reflect.TypeOf(op.body)) {
			// No field takes an object with this member, so nothing is done.
			if a := w.Do(method, path, fmt.Sprintf(`{%q:{"x":[[]]}}`, f.name)); a.Status < 400 || strings.Contains(a.Body, "unknown field") {
				t.Errorf("%s: %s: %d %s", pattern, f.name, a.Status, a.Body)
			}
		}
		if a := w.Do(method, path, `{"nosuch":1}`); !strings.Contains(a.Body, "unknown field") {
			t.Errorf("%s: an unknown field: %s", pattern, a.Body)
		}
	}
}

// matches returns how a real answer differs from its schema.
func matches(doc map[string]any, at string, s map[string]any, v any) (wrong []string) {
	if ref, ok := s["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/components/schemas/")
		s = doc["components"].(map[string]any)["schemas"].(map[string]any)[name].(map[string]any)
	}
	if either, ok := s["anyOf"].([]any); ok {
		for _, s := range either {
			other := matches(doc, at, s.(map[string]any), v)
			if len(other) == 0 {
				return nil
			}
			wrong = append(wrong, other...)
		}
		return wrong
	}
	kind, _ := s["type"].(string)
	switch v := v.(type) {
	case map[string]any:
		properties, listed := s["properties"].(map[string]any)
		for name, value := range v {
			switch p, ok := properties[name].(map[string]any); {
			case ok:
				wrong = append(wrong, matches(doc, at+"."+name, p, value)...)
			case listed:
				wrong = append(wrong, at+"."+name+" is not described")
			case s["additionalProperties"] != nil:
				wrong = append(wrong, matches(doc, at+"."+name, s["additionalProperties"].(map[string]any), value)...)
			}
		}
		required, _ := s["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				wrong = append(wrong, at+"."+name.(string)+" is missing")
			}
		}
		if kind != "object" {
			wrong = append(wrong, at+" is an object, not "+kind)
		}
	case []any:
		if kind != "array" {
			return []string{at + " is a list, not " + kind}
		}
		for _, value := range v {
			wrong = append(wrong, matches(doc, at+"[]", s["items"].(map[string]any), value)...)
		}
	case string:
		if values, ok := s["enum"].([]any); ok && !slices.Contains(values, any(v)) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, which is none of %v", at, v, values))
		}
		if kind != "string" {
			wrong = append(wrong, at+" is text, not "+kind)
		}
	case bool:
		if kind != "boolean" {
			wrong = append(wrong, at+" is true or false, not "+kind)
		}
	case float64:
		if kind != "integer" {
			wrong = append(wrong, at+" is a number, not "+kind)
		}
	case nil:
		wrong = append(wrong, at+" is null")
	}
	return wrong
}

func TestRealAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	full := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":500,"max_tokens":1000,"max_spend_usd":"5.00","expires_in":"1d",
		"idle_timeout":"90m","first_use_within":"24h","rate":"60/m","max_concurrency":4,"paths":["/v1/chat/completions"],"renews":"day",
		"models":["m"],"methods":["POST"],"ips":["192.0.2.7"],"pin_ip":true,"role":"ci","owner":"ops","purpose":"tests",
		"labels":{"team":"search"},"metadata":{"ticket":"7"},"upstream_key":"sk-real-1"}`)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	w.Use(m, 2)
	w.newToken("ann", "ci")
	tok := admintest.Get[wire.TokenObject](t, w.Do("POST", "/tokens", `{"name":"bob","role":"ci"}`))
	left := map[string]bool{} // not yet tried
	for pattern := range operations {
		left[pattern] = true
	}
	check := func(pattern, path, body string) {
		t.Helper()
		method, route, _ := strings.Cut(pattern, " ")
		if path == "" {
			path = route
		}
		var once []string
		if operations[pattern].replay != nil {
			once = []string{idempotencyHeader, fmt.Sprint(len(left), path)}
		}
		// The world compares each answer with its schema.
		if a := w.Do(method, path, body, once...); a.Status >= 400 {
			t.Errorf("%s answered %d: %s", pattern, a.Status, a.Body)
		}
		if once != nil {
			if a := w.Do(method, path, body, once...); a.Status != http.StatusOK || !strings.Contains(a.Body, `"replayed":true`) {
				t.Errorf("%s, made again, answered %d: %s", pattern, a.Status, a.Body)
			}
		}
		delete(left, pattern)
	}
	key := "/keys/" + m.ID
	check("POST /keys", "", `{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-2"}`)
	check("GET /keys", "", "")
	check("GET /keys/{id}", "/keys/"+full.ID, "")
	check("PATCH /keys/{id}", key, `{"name":"x"}`)
	check("GET /keys/{id}/usage", key+"/usage", "")
	check("POST /keys/{id}/grant", key+"/grant", `{"activations":5}`)
	check("POST /keys/{id}/suspend", key+"/suspend", "")
	check("POST /keys/{id}/resume", key+"/resume", "")
	check("POST /keys/{id}/rotate", key+"/rotate", `{"grace":"1h"}`)
	check("GET /keys/{id}", key, "")
	w.SetStale(1, false)
	check("GET /stale", "", "")
	check("POST /leaks", "", mustJSON(t, object{"text": full.ScopedKey}))
	check("POST /fingerprint", "", `{"upstream_key":"sk-real-1"}`)
	check("GET /spend", "", "")
	check("GET /webhooks", "", "")
	check("POST /keys/{id}/revoke", key+"/revoke", `{"reason":"done"}`)
	check("DELETE /keys/{id}", key, "")
	check("POST /keys/revoke", "", `{"filter":{"upstream":"openai"}}`)
	check("POST /keys/revoke", "", `{"filter":{"upstream":"openai"},"wait":false}`)
	check("GET /jobs", "", "")
	check("GET /jobs/{id}", "/jobs/1", "")
	check("POST /tokens", "", `{"name":"eve","role":"ci","expires_in":"1d"}`)
	check("GET /tokens", "", "")
	check("POST /tokens/{id}/revoke", "/tokens/"+tok.ID+"/revoke", "")
	check("GET /audit", "", "")
	check("GET /audit/verify", "", "")
	check("GET /roles", "", "")
	check("GET /upstreams", "", "")
	check("GET /upstreams/{name}/clients", "/upstreams/openai/clients", "")
	check("GET /prices", "", "")
	check("GET /stats", "", "")
	check("GET /doctor", "", "")
	check("POST /lockdown", "", `{"reason":"drill"}`)
	check("GET /lockdown", "", "")
	check("DELETE /lockdown", "", "")
	check("GET /nodes", "", "")
	check("GET /seal", "", "")
	w.SealKeys = append(w.SealKeys, w.Live(w.NewKey(`{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-3"}`)).Key().SealKey)
	check("POST /seal/rotate", "", "")
	check("POST /store/repair", "", `{"clock":true}`)
	// The document itself is not an object with fields; the others are not JSON, or
	// need something that this world lacks.
	for _, pattern := range []string{"GET /openapi.json", "GET /audit/export", "GET /backup", "GET /events", "DELETE /keys/{id}", "POST /console/link", "DELETE /nodes/{name}", "GET /live", "GET /ready"} {
		delete(left, pattern)
	}
	if len(left) > 0 {
		t.Errorf("not tried: %v", slices.Sorted(maps.Keys(left)))
	}
}

func TestTheDocumentIsSoundOpenAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.Do("GET", "/openapi.json", "")
	doc := admintest.Get[map[string]any](t, a)
	if doc["openapi"] != "3.1.0" || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%v, %s", doc["openapi"], a.Header.Get("Content-Type"))
	}
	components := doc["components"].(map[string]any)["schemas"].(map[string]any)
	for _, ref := range regexp.MustCompile(`"#/components/schemas/(\w+)"`).FindAllStringSubmatch(a.Body, -1) {
		if components[ref[1]] == nil {
			t.Errorf("%s leads nowhere", ref[0])
		}
	}
	ids := map[string]bool{}
	for path, item := range doc["paths"].(map[string]any) {
		for method, v := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			op := v.(map[string]any)
			id, _ := op["operationId"].(string)
			if id == "" || ids[id] || op["summary"] == "" || op["responses"] == nil {
				t.Errorf("%s %s: operationId %q", method, path, id)
			}
			ids[id] = true
		}
	}
	if strings.Contains(a.Body, "till_sk_") || strings.Contains(a.Body, "Secret") {
		t.Error("the document shows what is no business of callers")
	}
}
