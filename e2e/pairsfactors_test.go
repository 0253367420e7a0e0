package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// factors are what a life is made of: its key's fields, how it is minted, what its
// requests are like, and what happens meanwhile.
var factors = []factor{
	{"event", []string{
		"none", "suspended", "parent suspended", "granted", "patched", "narrowed", "parent narrowed", "rotated", "rotated at once", "exhausted",
		"expired", "idle", "revoked", "parent revoked", "revoked by a filter", "self revoked", "leaked", "forgotten", "token revoked", "child's end",
		"seal rotated", "repaired", "locked down", "reloaded", "restart", "kill -9", "restored",
	}},
	{"during", []string{"idle", "before", "mid"}}, // where a request of the key is when the event comes
	{"kind", []string{"chat", "responses", "messages", "gemini", "embeddings", "models", "multipart", "websocket", "self", "get", "post"}},
	{"answer", []string{"whole", "stream"}},
	{"wire", []string{"plain", "expect", "chunked", "large", "h2"}},
	{"through", []string{"till", "guard proxy", "guard answer"}},
	{"slot", []string{"bearer", "basic user", "basic password", "x-api-key", "api-key", "x-goog-api-key", "query", "subprotocol", "sk-"}},
	{"string", []string{"first", "former", "new"}},
	{"custody", []string{"held", "sealed"}},
	{"minter", []string{"operator", "token", "holder", "grandholder"}},
	{"states", []string{"all", "little"}}, // of what a child could leave out, it states
	{"role", []string{"none", "ceilings", "amounts", "scope", "budget", "money"}},
	{"max_activations", []string{"none", "few", "many"}},
	{"max_tokens", []string{"none", "some"}},
	{"max_spend", []string{"none", "some", "cents"}},
	{"max_request_spend_usd", []string{"none", "some"}},
	{"renews", []string{"none", "some"}},
	{"fit", []string{"none", "true", "false"}},
	{"unknown_price", []string{"none", "refuse", "count_only"}},
	{"expires", []string{"none", "in", "at"}},
	{"idle_timeout", []string{"none", "some"}},
	{"first_use_within", []string{"none", "some"}},
	{"rate", []string{"none", "some"}},
	{"max_concurrency", []string{"none", "one"}},
	{"models", []string{"none", "names", "beginning"}},
	{"paths", []string{"none", "exact", "pattern"}},
	{"methods", []string{"none", "own"}},
	{"ips", []string{"none", "one", "network"}},
	{"pin_ip", []string{"none", "true"}},
	{"notes", []string{"none", "some"}},
	{"self_revoke", []string{"none", "false"}},
	{"charge", []string{"none", "success"}},
	{"delegate", []string{"none", "true"}},
}

// fieldFactors is which factor stands for a field of a mint, where it is not one of
// the same name.
var fieldFactors = map[string]string{
	"max_spend_usd": "max_spend", "max_spend_cents": "max_spend", "expires_in": "expires", "expires_at": "expires",
	"name": "notes", "owner": "notes", "purpose": "notes", "labels": "notes", "metadata": "notes",
	"upstream": "kind", "provider": "kind", "upstream_key": "custody",
}

// fieldsWithoutFactor are those that no factor needs to stand for, and why.
var fieldsWithoutFactor = map[string]string{
	"unlimited": "is said by each life that nothing else ends, and has no effect later",
}

// callsWithoutEvent are calls that change something and are no event, and why.
var callsWithoutEvent = map[string]string{
	"POST /keys":           "is how lives begin",
	"POST /tokens":         "is how lives with the minter token begin",
	"POST /console/link":   "signs a person in, and touches no key",
	"POST /fingerprint":    "names a real key, and changes nothing",
	"DELETE /nodes/{name}": "is about a server that is gone, and the lives have one",
}

// life is one row of the array.
type life []int

func (l life) of(name string) string {
	i := slices.IndexFunc(factors, func(f factor) bool { return f.name == name })
	if i < 0 {
		panic("there is no factor " + name)
	}
	return factors[i].levels[l[i]]
}

func (l life) is(name string, levels ...string) bool { return slices.Contains(levels, l.of(name)) }

// has reports whether the life's key has such an option.
func (l life) has(name string) bool { return !l.is(name, "none") }

// String names what is not the first level.
func (l life) String() string {
	var words []string
	for i, f := range factors {
		if l[i] > 0 {
			words = append(words, fmt.Sprintf("%s=%s", f.name, f.levels[l[i]]))
		}
	}
	return strings.Join(words, ", ")
}

// exclusion says that levels of one factor do not go with levels of another.
type exclusion struct {
	factor string
	levels []string
	other  string
	never  []string
	why    string
}

// exclusions are the pairs that cannot be, each with its reason. What till refuses to
// mint is tried by TestPairs itself: see refusedMints.
var exclusions = []exclusion{
	// What there is no such request of.
	{"kind", []string{"embeddings", "models", "multipart", "self"}, "answer", []string{"stream"}, "has no stream of events"},
	{"kind", []string{"websocket"}, "answer", []string{"whole"}, "is a stream"},
	{"kind", []string{"models", "self", "get"}, "wire", []string{"expect", "chunked", "large"}, "has no body"},
	{"kind", []string{"websocket"}, "wire", []string{"expect", "chunked", "large", "h2"}, "begins with one plain request"},
	{"kind", []string{"websocket"}, "through", []string{"guard proxy", "guard answer"}, "guards let no upgrade through"},
	{"kind", []string{"models"}, "through", []string{"guard proxy", "guard answer"}, "a guard knows no list of models"},
	{"kind", []string{"self"}, "through", []string{"guard proxy", "guard answer"}, "till itself answers"},
	{"kind", []string{"self"}, "during", []string{"before", "mid"}, "till itself answers, at once"},
	{"answer", []string{"whole"}, "during", []string{"mid"}, "its answer is sent at once"},
	{"through", []string{"guard answer"}, "during", []string{"before", "mid"}, "is answered at once"},
	{"through", []string{"guard answer"}, "answer", []string{"stream"}, "is answered by Caddy"},
	{"slot", []string{"subprotocol"}, "kind", []string{"chat", "responses", "messages", "gemini", "embeddings", "models", "multipart", "self", "get", "post"}, "is the slot of WebSockets"},
	// What cannot be judged or measured, and so has no request that passes.
	{"models", []string{"names", "beginning"}, "kind", []string{"websocket", "get"}, "names no model"},
	{"role", []string{"scope"}, "kind", []string{"websocket", "get"}, "names no model"},
	{"max_tokens", []string{"some"}, "kind", []string{"multipart"}, "cannot be metered"},
	{"max_spend", []string{"some", "cents"}, "kind", []string{"multipart"}, "cannot be metered"},
	{"role", []string{"amounts", "money"}, "kind", []string{"multipart"}, "cannot be metered"},
	{"max_tokens", []string{"some"}, "through", []string{"guard proxy", "guard answer"}, "cannot be metered"},
	{"max_spend", []string{"some", "cents"}, "through", []string{"guard proxy", "guard answer"}, "cannot be metered"},
	{"role", []string{"amounts", "money"}, "through", []string{"guard proxy", "guard answer"}, "cannot be metered"},
	// What is refused when it is minted.
	{"charge", []string{"success"}, "max_activations", []string{"none"}, "refused: needs max_activations"},
	{"max_tokens", []string{"some"}, "kind", []string{"websocket", "get", "post"}, "refused: no preset"},
	{"max_spend", []string{"some", "cents"}, "kind", []string{"websocket", "get", "post"}, "refused: no preset"},
	{"role", []string{"amounts", "money"}, "kind", []string{"websocket", "get", "post"}, "refused: no preset"},
	{"max_request_spend_usd", []string{"some"}, "max_spend", []string{"none"}, "refused: needs max_spend_usd"},
	{"renews", []string{"some"}, "role", []string{"ceilings", "amounts"}, "refused: above the ceiling"},
	{"minter", []string{"token"}, "role", []string{"none"}, "a token has a role"},
	{"states", []string{"little"}, "minter", []string{"operator", "token"}, "is about child keys"},
	// What events need.
	{"event", []string{"parent suspended", "parent revoked", "parent narrowed"}, "minter", []string{"operator", "token"}, "it has no parent"},
	{"event", []string{"token revoked"}, "minter", []string{"operator", "holder", "grandholder"}, "it was not minted with a token"},
	{"event", []string{"child's end"}, "delegate", []string{"none"}, "it has no child"},
	{"event", []string{"self revoked"}, "self_revoke", []string{"false"}, "may not"},
	{"event", []string{"granted", "exhausted"}, "max_activations", []string{"none"}, "there is nothing to add to"},
	{"event", []string{"exhausted"}, "kind", []string{"models", "self"}, "is free"},
	{"event", []string{"restart", "kill -9", "restored", "idle", "exhausted"}, "during", []string{"before", "mid"}, "is about a key that nothing uses"},
}

// forbidden is the table as pairs.
func forbidden() map[pair]bool {
	all := make(map[pair]bool)
	choices := func(name string, levels []string) (found []choice) {
		i := slices.IndexFunc(factors, func(f factor) bool { return f.name == name })
		for _, level := range levels {
			j := slices.Index(factors[i].levels, level)
			if j < 0 {
				panic(fmt.Sprintf("%s has no level %s", name, level))
			}
			found = append(found, choice{i, j})
		}
		return found
	}
	for _, e := range exclusions {
		for _, a := range choices(e.factor, e.levels) {
			for _, b := range choices(e.other, e.never) {
				all[pairOf(a, b)] = true
			}
		}
	}
	return all
}

// tied fails the test when the running server has a field of a key, or a call that
// changes something, that no factor and no event stands for.
func tied(t *testing.T, s *server) {
	t.Helper()
	status, document := s.api("GET", "/openapi.json", nil)
	if status != 200 {
		t.Fatalf("openapi.json: %d", status)
	}
	at := func(v any, names ...string) any {
		for _, name := range names {
			o, _ := v.(object)
			v = o[name]
		}
		return v
	}
	paths, _ := document["paths"].(object)
	schema := at(paths, "/keys", "post", "requestBody", "content", "application/json", "schema")
	if ref, ok := at(schema, "$ref").(string); ok {
		schema = at(document, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	fields, _ := at(schema, "properties").(object)
	if len(fields) == 0 || len(paths) == 0 {
		t.Fatal("openapi.json shows no fields of a mint, or no calls")
	}
	for field := range fields {
		stands := field
		if other, ok := fieldFactors[field]; ok {
			stands = other
		}
		if fieldsWithoutFactor[field] == "" && !slices.ContainsFunc(factors, func(f factor) bool { return f.name == stands }) {
			t.Errorf("field %s of a mint has no factor: add one to factors, or a reason to fieldsWithoutFactor", field)
		}
	}
	made := make(map[string]bool)
	var names []string
	for _, e := range happenings {
		names = append(names, e.name)
		for _, call := range e.calls {
			made[call] = true
		}
	}
	if !slices.Equal(names, factors[0].levels) {
		t.Errorf("the levels of event are not the happenings: %v", names)
	}
	for path, methods := range paths {
		for method := range methods.(object) {
			call := strings.ToUpper(method) + " " + path
			if method != "get" && method != "parameters" && !made[call] && callsWithoutEvent[call] == "" {
				t.Errorf("%s is no event: add one to happenings, or a reason to callsWithoutEvent", call)
			}
		}
	}
}
