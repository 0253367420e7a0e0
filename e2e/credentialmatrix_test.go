package e2e

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// row is one upstream of the matrix.
type row struct {
	name, preset, auth string
	slot               upstream.Auth
	asked              string // path
	path               string // at the upstream
}

func rows() []row {
	var all []row
	for _, p := range upstream.All() {
		if p.Name != "gemini" {
			all = append(all, row{name: p.Name, preset: p.Name, slot: p.Auth, asked: "/chat/completions", path: p.Canonical("/chat/completions")})
		}
	}
	// Gemini's own API and its API in OpenAI's form each refuse the other's place.
	own, bearer := upstream.Auth{In: upstream.InHeader, Name: "X-Goog-Api-Key"}, upstream.Auth{In: upstream.InHeader, Name: "Authorization", Scheme: "Bearer"}
	for i, r := range []row{
		{asked: "/v1beta/models/g:generateContent", path: "/v1beta/models/g:generateContent", slot: own},
		{asked: "/models/g:generateContent", path: "/v1beta/models/g:generateContent", slot: own},
		{asked: "/v1/models/openai", path: "/v1/models/openai", slot: own},
		{asked: "/openai/chat/completions", path: "/v1beta/openai/chat/completions", slot: bearer},
		{asked: "/v1beta/openai/embeddings", path: "/v1beta/openai/embeddings", slot: bearer},
		{asked: "/v1beta/open%61i/models", path: "/v1beta/openai/models", slot: bearer},
		{asked: "/v1/openai/chat/completions", path: "/v1/openai/chat/completions", slot: bearer},
		{asked: "/chat/completions", path: "/v1beta/chat/completions", slot: bearer},
		{asked: "/v1beta/openai/chat/completions", path: "/v1beta/openai/chat/completions", slot: own, auth: "header X-Goog-Api-Key"},
	} {
		r.name, r.preset = fmt.Sprint("gemini-", i), "gemini"
		all = append(all, r)
	}
	for name, auth := range map[string]upstream.Auth{
		"header X-Auth-Key":            {In: upstream.InHeader, Name: "X-Auth-Key"},
		"header Authorization token":   {In: upstream.InHeader, Name: "Authorization", Scheme: "token"},
		"header X-Api-Key":             {In: upstream.InHeader, Name: "X-Api-Key"},
		"query key":                    {In: upstream.InQuery, Name: "key"},
		"query access_token":           {In: upstream.InQuery, Name: "access_token"},
		"basic user":                   {In: upstream.InBasicUser},
		"basic password":               {In: upstream.InBasicPassword},
		"header Proxy-Authorization x": {In: upstream.InHeader, Name: "Proxy-Authorization", Scheme: "x"},
	} {
		all = append(all, row{name: "any-" + strings.ToLower(strings.ReplaceAll(name, " ", "-")), auth: name, slot: auth, asked: "/chat/completions", path: "/chat/completions"})
	}
	return all
}

// wrote is what the credential looks like in its slot: header and value, or
// the query.
func (r row) wrote(credential string) (header, value, query string) {
	switch a := r.slot; a.In {
	case upstream.InQuery:
		return "", "", a.Name + "=" + credential
	case upstream.InBasicUser:
		return "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(credential+":")), ""
	case upstream.InBasicPassword:
		return "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(":"+credential)), ""
	default:
		return http.CanonicalHeaderKey(a.Name), strings.TrimSpace(a.Scheme + " " + credential), ""
	}
}

// TestEverySlotReachesEveryUpstreamInItsOwn is the matrix of slot, upstream and
// custody: the upstream sees its own slot only, with its own credential only,
// and nothing about the client.
func TestEverySlotReachesEveryUpstreamInItsOwn(t *testing.T) {
	t.Parallel()
	var last atomic.Pointer[http.Request]
	recorder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last.Store(r.Clone(r.Context()))
		fmt.Fprint(w, "{}")
	}))
	t.Cleanup(recorder.Close)
	credentials := t.TempDir()
	var more strings.Builder
	for _, r := range rows() {
		file := filepath.Join(credentials, r.name)
		if err := os.WriteFile(file, []byte("held-credential-of-"+r.name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&more, "upstream %s %s {\n\tto %s\n\tcredential {file.%s}\n", r.name, r.preset, recorder.URL, file)
		if r.auth != "" {
			fmt.Fprintf(&more, "\tauth %s\n", r.auth)
		}
		more.WriteString("}\n")
	}
	s := newServer(t, options{more: more.String()})
	slots := maps.Clone(slotsOf)
	slots["x-auth-key"] = func(r *http.Request, key string) { r.Header.Set("X-Auth-Key", key) }
	slots["?access_token="] = func(r *http.Request, key string) { r.URL.RawQuery = "a=b&access_token=" + key }
	s.says("X-Auth-Key or ?key=, ?access_token=")
	n := 0
	for _, row := range rows() {
		for _, custody := range []string{"held", "sealed"} {
			fields := object{"upstream": row.name, "max_activations": len(slots)}
			if custody == "sealed" {
				fields["upstream_key"] = "sealed-credential-of-" + row.name
			}
			id, key := s.mint(fields)
			for slot, set := range slots {
				where := row.name + ", " + custody + ", " + slot
				r := s.bare("POST", row.asked, "{}")
				r.Header.Set("X-Forwarded-For", "192.0.2.9")
				r.Header.Set("Forwarded", "for=192.0.2.9")
				r.Header.Set("Cookie", "session=1")
				r.Header.Set("Api-Key", "a-foreign-value")
				set(r, key)
				last.Store(nil)
				if res, body := s.must(r); res.StatusCode != http.StatusOK {
					t.Fatalf("%s: %d %s", where, res.StatusCode, body)
				}
				seen := last.Load()
				header, value, query := row.wrote(custody + "-credential-of-" + row.name)
				if seen.URL.Path != row.path {
					t.Errorf("%s: path %s, want %s", where, seen.URL.Path, row.path)
				}
				wantQuery := query
				if strings.HasPrefix(slot, "?") {
					wantQuery = strings.TrimSuffix("a=b&"+query, "&")
				}
				if seen.URL.RawQuery != wantQuery {
					t.Errorf("%s: query %q, want %q", where, seen.URL.RawQuery, wantQuery)
				}
				for _, name := range append(upstream.Slots(), "X-Auth-Key", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via", "Cookie", "X-Real-Ip") {
					got := strings.Join(seen.Header[name], " | ")
					if want := map[bool]string{true: value}[name == header]; got != want {
						t.Errorf("%s: %s is %q, want %q", where, name, got, want)
					}
				}
				for name, values := range seen.Header {
					if all := strings.Join(values, " "); strings.Contains(all, "till_sk_") || name != header && strings.Contains(all, "credential-of") {
						t.Errorf("%s: %s is %q", where, name, all)
					}
				}
				n++
			}
			if used := s.used(id); used != int64(len(slots)) {
				t.Errorf("%s, %s: used %d, want %d", row.name, custody, used, len(slots))
			}
		}
	}
	t.Logf("%d requests: %d slots, %d upstreams, 2 custodies", n, len(slots), len(rows()))
}
