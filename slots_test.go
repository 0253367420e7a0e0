package till

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

func TestTheKeyIsFoundInEverySlotAndTakenOut(t *testing.T) {
	t.Parallel()
	secret, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	k, o := secret.Reveal(), other.Reveal()
	basic := func(user, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	for _, test := range []struct {
		name   string
		header []string // name, value, …
		query  string
		code   record.Code // "" when the key is found
		left   string      // of the query
	}{
		{name: "bearer", header: []string{"Authorization", "Bearer " + k}},
		{name: "bearer in small letters", header: []string{"Authorization", "bearer " + k}},
		{name: "another scheme", header: []string{"Authorization", "token " + k}},
		{name: "no scheme", header: []string{"Authorization", k}},
		{name: "basic user", header: []string{"Authorization", basic(k, "")}},
		{name: "basic password", header: []string{"Authorization", basic("x", k)}},
		{name: "x-api-key", header: []string{"X-Api-Key", k}},
		{name: "api-key", header: []string{"Api-Key", k}},
		{name: "x-goog-api-key", header: []string{"X-Goog-Api-Key", k}},
		{name: "query", query: "alt=sse&key=" + k, left: "alt=sse"},
		{name: "query alone", query: "key=" + k},
		{name: "query, escaped", query: "key=" + strings.ReplaceAll(k, "_", "%5F") + "&a=b", left: "a=b"},
		{name: "subprotocol", header: []string{"Sec-Websocket-Protocol", "realtime, openai-insecure-api-key." + k}},
		{name: "sk- in front", header: []string{"Authorization", "Bearer sk-" + k}},
		{name: "the same in two slots", header: []string{"Authorization", "Bearer " + k, "X-Api-Key", "sk-" + k}},
		{name: "a foreign value beside it", header: []string{"Authorization", "Bearer " + k, "X-Api-Key", "sk-ant-other"}},

		{name: "none", code: record.CodeKeyMissing},
		{name: "a foreign credential", header: []string{"Authorization", "Bearer sk-proj-123"}, code: record.CodeKeyMissing},
		{name: "a foreign key parameter", query: "key=AIza123", left: "key=AIza123", code: record.CodeKeyMissing},
		{name: "two different keys", header: []string{"Authorization", "Bearer " + k, "X-Api-Key", o}, code: record.CodeKeyInvalid},
		{name: "two keys in header and query", header: []string{"Authorization", "Bearer " + k}, query: "key=" + o, code: record.CodeKeyInvalid},
		{name: "two Authorization headers", header: []string{"Authorization", "Bearer " + k, "Authorization", "Bearer " + k}, code: record.CodeKeyInvalid},
		{name: "cut short", header: []string{"Authorization", "Bearer " + k[:20]}, code: record.CodeKeyInvalid},
		{name: "one letter changed", header: []string{"X-Api-Key", k[:len(k)-1] + "!"}, code: record.CodeKeyInvalid},
		{name: "an admin token", header: []string{"Authorization", "Bearer " + token.AdminPrefix + k[8:]}, code: record.CodeKeyMissing},
		{name: "far too long", header: []string{"X-Api-Key", k + "." + strings.Repeat("a", 100_000)}, code: record.CodeKeyInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			target := "/v1/chat/completions"
			if test.query != "" {
				target += "?" + test.query
			}
			r := httptest.NewRequest("POST", target, nil)
			for i := 0; i+1 < len(test.header); i += 2 {
				r.Header.Add(test.header[i], test.header[i+1])
			}
			parsed, refusal := takeKey(r, keySlots{})
			switch {
			case test.code == "" && (refusal != nil || parsed.Lookup != lookup):
				t.Errorf("not found: %v", refusal)
			case test.code != "" && (refusal == nil || refusal.Code != test.code):
				t.Errorf("%v, want %s", refusal, test.code)
			case refusal != nil && strings.Contains(refusal.Message, "till_sk_"+k[8:16]):
				t.Error("the refusal quotes the key")
			}
			if r.URL.RawQuery != test.left {
				t.Errorf("query %q, want %q", r.URL.RawQuery, test.left)
			}
			var left strings.Builder
			if err := r.Header.Write(&left); err != nil {
				t.Fatal(err)
			}
			left.WriteString(r.URL.String() + r.RequestURI)
			if strings.Contains(left.String(), "till_sk_") {
				t.Errorf("a key is left in the request: %s", left.String())
			}
			for _, slot := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Proxy-Authorization"} {
				if _, ok := r.Header[slot]; ok {
					t.Errorf("slot %s is left", slot)
				}
			}
		})
	}
}

// TestNoSubprotocolChoosesTheAccount: the operator does, as with the headers.
func TestNoSubprotocolChoosesTheAccount(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]string{
		"realtime, openai-insecure-api-key.x, openai-organization.org_1, openai-project.proj_1": "realtime",
		"openai-project.proj_1": "", "openai-beta.realtime-v1, openai-projects": "openai-beta.realtime-v1, openai-projects",
	} {
		r := httptest.NewRequest("GET", "/v1/realtime", nil)
		r.Header.Set(protocolHeader, sent)
		takeProtocols(r, new(finder))
		if got := r.Header.Get(protocolHeader); got != want {
			t.Errorf("of %q there stays %q, want %q", sent, got, want)
		}
	}
}

func FuzzTakeKey(f *testing.F) {
	secret, _, err := token.MintKey()
	if err != nil {
		f.Fatal(err)
	}
	k := secret.Reveal()
	f.Add("Bearer "+k, "", "", "")
	f.Add("Basic "+base64.StdEncoding.EncodeToString([]byte(k+":")), "sk-"+k, "key="+k+"&a=%zz", "a, openai-insecure-api-key."+k)
	f.Fuzz(func(t *testing.T, authorization, apiKey, query, protocol string) {
		r := &http.Request{Method: "GET", URL: mustURL("/x"), Header: http.Header{
			"Authorization": {authorization}, "X-Api-Key": {apiKey}, "Sec-Websocket-Protocol": {protocol},
		}}
		r.URL.RawQuery = query
		_, refusal := takeKey(r, keySlots{})
		for _, slot := range []string{"Authorization", "X-Api-Key"} {
			if _, ok := r.Header[slot]; ok {
				t.Errorf("slot %s is left", slot)
			}
		}
		if strings.Contains(r.URL.RawQuery, k) {
			t.Errorf("the key is left in the query %q", r.URL.RawQuery)
		}
		_ = refusal
	})
}

// TestAKeyIsFoundWhereAnUpstreamExpectsItsCredential, of whatever upstream it is, and what
// else is in such a place stays where it is.
func TestAKeyIsFoundWhereAnUpstreamExpectsItsCredential(t *testing.T) {
	t.Parallel()
	slots := slotsOf(map[string]*target{
		"a": {auth: upstream.Auth{In: upstream.InHeader, Name: "PRIVATE-TOKEN"}},
		"b": {auth: upstream.Auth{In: upstream.InHeader, Name: "x-secret", Scheme: "Token"}},
		"c": {auth: upstream.Auth{In: upstream.InQuery, Name: "api_key"}},
		"d": {auth: upstream.Auth{In: upstream.InHeader, Name: "x-api-key"}},
		"e": {auth: upstream.Auth{In: upstream.InQuery, Name: "Key"}},
		"f": {auth: upstream.Auth{In: upstream.InBasicUser}},
		"g": {auth: upstream.Auth{In: upstream.InHeader, Name: "Private-Token"}},
	})
	if !slices.Equal(slots.headers, []string{"Private-Token", "X-Secret"}) || !slices.Equal(slots.parameters, []string{"api_key"}) {
		t.Fatalf("%+v", slots)
	}
	secret, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	k, o := secret.Reveal(), other.Reveal()
	for name, test := range map[string]struct {
		header, kept http.Header
		query, left  string
		code         record.Code
	}{
		"in a header":                {header: http.Header{"Private-Token": {k}}},
		"with sk-":                   {header: http.Header{"Private-Token": {" sk-" + k}}},
		"after a scheme":             {header: http.Header{"X-Secret": {"Token " + k}}},
		"after a scheme of its own":  {header: http.Header{"Private-Token": {"bearer  " + k}}},
		"without its scheme":         {header: http.Header{"X-Secret": {k}}},
		"in a parameter":             {query: "a=b&api_key=" + k, left: "a=b"},
		"in a parameter in capitals": {query: "API_KEY=" + k},
		"in both":                    {header: http.Header{"Private-Token": {k}}, query: "api_key=" + k},
		"beside another value":       {header: http.Header{"Private-Token": {"x", k}}},
		"beside what is no key":      {header: http.Header{"Private-Token": {k}, "X-Secret": {"Token abc"}}, kept: http.Header{"X-Secret": {"Token abc"}}, query: "api_key=y", left: "api_key=y"},
		"none":                       {header: http.Header{"X-Secret": {"abc"}}, kept: http.Header{"X-Secret": {"abc"}}, code: record.CodeKeyMissing},
		"in another parameter":       {query: "token=" + k, code: record.CodeKeyMissing},
		"two keys":                   {header: http.Header{"Private-Token": {k}, "X-Secret": {"Token " + o}}, code: record.CodeKeyInvalid},
		"two keys, one in Bearer":    {header: http.Header{"Private-Token": {k}, "Authorization": {"Bearer " + o}}, code: record.CodeKeyInvalid},
		"two keys, one in the query": {header: http.Header{"Private-Token": {k}}, query: "api_key=" + o, code: record.CodeKeyInvalid},
	} {
		r := httptest.NewRequest("GET", "/x?"+test.query, nil)
		r.Header = test.header.Clone()
		if r.Header == nil {
			r.Header = make(http.Header)
		}
		parsed, refusal := takeKey(r, slots)
		switch {
		case test.code == "" && (refusal != nil || parsed.Lookup != lookup):
			t.Errorf("%s: %v", name, refusal)
		case test.code != "" && (refusal == nil || refusal.Code != test.code):
			t.Errorf("%s: %v, want %s", name, refusal, test.code)
		}
		if len(r.Header) != len(test.kept) || len(test.kept) > 0 && !reflect.DeepEqual(r.Header, test.kept) || r.URL.RawQuery != test.left {
			t.Errorf("%s: %v and %q are left", name, r.Header, r.URL.RawQuery)
		}
	}
}
