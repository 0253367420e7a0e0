package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// searches is how a request of the Responses API asks for the vendor's search.
var searches = regexp.MustCompile(`"type": ?"web_search"`)

// TestCodexSearchesByDefaultAndRunsOnDollars lets the real Codex run with its web
// search on, as it is by default: the upstream takes it out.
func TestCodexSearchesByDefaultAndRunsOnDollars(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	b := newBiller(t, upstreamtest.OpenAI)
	b.open()
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // a client that was ended
		}
		if searches.Match(body) {
			t.Errorf("a search came to the vendor: %.2000s", body)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		b.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(there.Close)
	s := newServer(t, options{
		to: there.URL, upstream: "strip_tools web_search",
		more: "upstream strict openai {\nto " + there.URL + "\ncredential {env.MOCK_KEY}\n}",
	})
	id, key := s.mint(object{"max_spend_usd": "50"})
	tape := tapeOf(t, s)
	e := newErrand(t, 0, 1, 2)
	cmd := e.command(t, upstreamtest.OpenAI, tape.URL, key)
	for _, variable := range cmd.Env {
		if home, ok := strings.CutPrefix(variable, "HOME="); ok {
			searchOn(t, filepath.Join(home, ".codex", "config.toml"))
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%.3000s", err, out)
	}
	turns := tape.turns()
	if len(turns) != 4 {
		t.Fatalf("Codex made %d requests, want 4", len(turns))
	}
	for i, turn := range turns {
		if turn.status != http.StatusOK || !searches.Match(turn.body) {
			t.Errorf("request %d: %d %s, %.500s", i, turn.status, turn.code, turn.body)
		}
	}
	if n := s.used(id); n != 4 {
		t.Errorf("the key counts %d requests", n)
	}
	// The same request where nothing is taken out.
	_, strict := s.mint(object{"max_spend_usd": "50", "upstream": "strict"})
	res, body := s.must(s.post(strict, "/v1/responses", string(turns[0].body)))
	if res.Header.Get("Till-Refusal") != "till_not_meterable" || !strings.Contains(body, "web_search") {
		t.Errorf("without strip_tools: %d %s", res.StatusCode, body)
	}
}

// searchOn makes Codex's configuration one that says nothing of searching.
func searchOn(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "web_search") {
			kept = append(kept, line)
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(kept, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestToolsAreTakenOutForKeysOfEveryKind(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{upstream: "strip_tools web_search"})
	const with = `{"model":"gpt-5","input":"x","max_output_tokens":100,"tools":[{"type":"web_search"},{"type":"function","name":"f","parameters":{}}]}`
	const without = `{"model":"gpt-5","input":"x","max_output_tokens":100,"tools":[{"type":"function","name":"f","parameters":{}}]}`
	for _, limits := range []object{
		{"max_activations": 2}, {"max_tokens": 100_000}, {"max_spend_usd": "5"}, {"max_activations": 2, "models": []string{"gpt-5"}},
	} {
		id, key := s.mint(limits)
		if res, body := s.must(s.post(key, "/v1/responses", with)); res.StatusCode != http.StatusOK {
			t.Errorf("%v: %d %s", limits, res.StatusCode, body)
		}
		if got := string(s.upstream.Last().Body); got != without {
			t.Errorf("%v: sent %s", limits, got)
		}
		before := s.upstream.Count()
		insists := strings.Replace(with, `"tools"`, `"tool_choice":{"type":"web_search"},"tools"`, 1)
		res, body := s.must(s.post(key, "/v1/responses", insists))
		if res.StatusCode != http.StatusBadRequest || !strings.Contains(body, "tool_choice insists") || s.upstream.Count() != before {
			t.Errorf("%v: one that insists: %d %s", limits, res.StatusCode, body)
		}
		if n := s.used(id); n != 1 {
			t.Errorf("%v: %d used", limits, n)
		}
	}
	// What asks no model is not read.
	_, key := s.mint(object{"max_activations": 1})
	r, err := http.NewRequestWithContext(context.Background(), "GET", "http://"+s.addr+"/v1/models", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	if res, body := s.must(r); res.StatusCode != http.StatusOK {
		t.Errorf("a list of models: %d %s", res.StatusCode, body)
	}
	s.clean()
}
