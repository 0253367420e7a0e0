package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

func TestEnvPointsClientsHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Upstreams = append(w.Upstreams, wire.UpstreamInfo{Name: "claude", Preset: "anthropic", Dialect: "anthropic", Origins: []string{"https://api.anthropic.com"}, Held: true})
	address := w.Serve()
	byName := w.NewKey(`{"name":"mine","upstream":"claude","max_activations":5}`)
	const missing = "Put the key's string in place of till_sk_...: the server does not have it.\n"
	for _, test := range []struct {
		args      []string
		out, note string
	}{
		{[]string{"mine"}, "unset ANTHROPIC_API_KEY\nexport ANTHROPIC_BASE_URL=https://agents.example.com\nexport ANTHROPIC_AUTH_TOKEN=till_sk_...\n", missing},
		{[]string{byName.ScopedKey, "--upstream", "openai", "--base-url", "http://10.0.0.1:8080/"},
			"export OPENAI_BASE_URL=http://10.0.0.1:8080/v1\nexport OPENAI_API_KEY=" + byName.ScopedKey + "\n", ""},
		{[]string{byName.ScopedKey, "--upstream", "github"}, "export TILL_BASE_URL=https://agents.example.com\nexport TILL_KEY=" + byName.ScopedKey + "\n", ""},
	} {
		r := till(t, append([]string{"env", "--address", address}, test.args...)...)
		if r.code != 0 || r.err != test.note {
			t.Errorf("exit %d: %s", r.code, r.err)
		}
		admintest.Equal(t, "env", r.out, test.out)
	}
	r := till(t, "env", "mine", "--address", address, "--json")
	var v clients.Variables
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || v.Upstream != "claude" || v.Unset[0] != "ANTHROPIC_API_KEY" || v.Set[1] != (clients.Variable{Name: "ANTHROPIC_AUTH_TOKEN", Value: clients.Blank}) {
		t.Errorf("%v: %s", err, r.out)
	}
}

func TestEnvAsksTheServerWhichUpstreamAStringIsFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/till/self" || r.Header.Get("Authorization") != "Bearer "+m.ScopedKey {
			http.Error(rw, "no", http.StatusUnauthorized)
			return
		}
		view, err := w.Get(limiter.Operator, m.ID)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(rw).Encode(admin.HolderJSON(view))
	}))
	defer proxy.Close()
	w.Base = proxy.URL
	address := w.Serve()
	admintest.Equal(t, "env", till(t, "env", m.ScopedKey, "--address", address).out,
		"export OPENAI_BASE_URL="+proxy.URL+"/v1\nexport OPENAI_API_KEY="+m.ScopedKey+"\n")
	unknown := w.NewKey(`{"upstream":"openai","max_activations":5}`).ScopedKey
	r := till(t, "env", unknown, "--address", address)
	if r.code != 2 || !strings.Contains(r.err, "--upstream, one of: github, openai, spare") || !strings.Contains(r.err, "401") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	w.Base = ""
	if r := till(t, "env", m.ScopedKey, "--address", address); r.code != 2 || !strings.Contains(r.err, "say --base-url") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
}
