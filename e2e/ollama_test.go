package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAKeyForOllamaServesSeveralAtOnceAndOutlivesALeaver: for a request without
// num_predict only the model's context is held. So neither a second request, nor an
// answer that the client leaves early, nor one that reports half of its counts
// (ollama#2068, ollama#3427) takes everything that a key has.
func TestAKeyForOllamaServesSeveralAtOnceAndOutlivesALeaver(t *testing.T) {
	t.Parallel()
	const (
		word = `{"model":"m","message":{"role":"assistant","content":"hello"},"done":false}` + "\n"
		end  = `{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":26,"eval_count":30}` + "\n"
		held = 40_000 // more than a context and an input
	)
	u := newScripted(t)
	u.kind = "application/x-ndjson"
	s := newServer(t, options{vendor: "ollama", to: u.URL, upstream: "drain 0"})
	id, key := s.mint(object{"max_tokens": 1_000_000})
	ask := turn{"/api/chat", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`}
	u.script(word, end)
	var open []*http.Response
	for range 2 {
		res, err := s.client.Do(s.post(key, ask.path, ask.body))
		if err != nil {
			t.Fatal(err)
		}
		<-u.came
		if open = append(open, res); res.StatusCode != http.StatusOK {
			t.Errorf("one of two at once: %d", res.StatusCode)
		}
	}
	for _, res := range open {
		_ = res.Body.Close() // the client leaves
		<-u.ended
	}
	if used := s.tokens(id); used == 0 || used > 2*held {
		t.Errorf("two that were left early used %d tokens", used)
	}
	before := s.tokens(id)
	u.script(word, strings.Replace(end, `"prompt_eval_count":26,`, "", 1))
	u.goOn <- struct{}{}
	if res, body := s.must(s.post(key, ask.path, ask.body)); res.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	<-u.came
	<-u.ended
	if used := s.tokens(id) - before; used < 30 || used > 2_000 {
		t.Errorf("an answer whose input is not counted used %d tokens", used)
	}
}

// TestOllamasClientCanStart: "ollama run" asks for the server's root and for the
// model, and loads it (cmd.go of its source), none of which uses anything.
func TestOllamasClientCanStart(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	u := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
	}))
	t.Cleanup(u.Close)
	s := newServer(t, options{vendor: "ollama", to: u.URL})
	id, key := s.mint(object{"max_tokens": 1_000})
	for _, ask := range []struct{ method, path, body string }{
		{"HEAD", "/", ""},
		{"POST", "/api/show", `{"model":"m"}`},
		{"POST", "/api/generate", `{"model":"m"}`},
		{"POST", "/api/generate", `{"model":"m","prompt":"","keep_alive":0}`},
	} {
		r := s.post(key, ask.path, ask.body)
		r.Method = ask.method
		res, body := s.must(r)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s %s: %d %s", ask.method, ask.path, res.StatusCode, body)
			continue
		}
		if got := <-asked; got != ask.method+" "+ask.path {
			t.Errorf("%s %s was sent as %s", ask.method, ask.path, got)
		}
	}
	if used := s.tokens(id); used != 0 {
		t.Errorf("it used %d tokens", used)
	}
}
