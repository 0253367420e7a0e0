package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// TestTheOperatorChoosesTheAccount with header_up, and no client does: the headers by
// which a vendor knows whose project a request is billed to.
func TestTheOperatorChoosesTheAccount(t *testing.T) {
	t.Parallel()
	var last atomic.Pointer[http.Request]
	recorder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last.Store(r.Clone(r.Context()))
		fmt.Fprint(w, "{}")
	}))
	t.Cleanup(recorder.Close)
	var more strings.Builder
	var presets []*upstream.Preset
	for _, p := range upstream.All() {
		if len(p.AccountHeaders) == 0 {
			continue
		}
		presets = append(presets, p)
		block := " " + p.Name + " {\n\tto " + recorder.URL + "\n\tcredential {env.MOCK_KEY}\n"
		more.WriteString("upstream plain-" + p.Name + block + "}\nupstream chosen-" + p.Name + block)
		for _, name := range p.AccountHeaders {
			more.WriteString("\theader_up " + name + " the-operators\n")
		}
		more.WriteString("}\n")
	}
	s := newServer(t, options{more: more.String()})
	for _, p := range presets {
		for kind, want := range map[string]string{"plain": "", "chosen": "the-operators"} {
			_, key := s.mint(object{"upstream": kind + "-" + p.Name, "max_activations": 2})
			for _, sends := range []bool{true, false} {
				r := s.post(key, "/chat/completions", "{}")
				for _, name := range p.AccountHeaders {
					if sends {
						r.Header.Set(name, "the-clients")
					}
				}
				if res, body := s.must(r); res.StatusCode != http.StatusOK {
					t.Fatalf("%s: %d %s", p.Name, res.StatusCode, body)
				}
				for _, name := range p.AccountHeaders {
					if got := strings.Join(last.Load().Header[name], " | "); got != want {
						t.Errorf("%s, %s, from a client that sends it: %t: %s is %q, want %q", p.Name, kind, sends, name, got, want)
					}
				}
			}
		}
	}
	if len(presets) < 3 {
		t.Errorf("only %d presets have such headers", len(presets))
	}
	if strings.Contains(s.output(), "header_up") {
		t.Errorf("header_up is warned of:\n%s", s.output())
	}
}
