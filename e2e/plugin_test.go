package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

func TestValidateWorksBesideALiveServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	if out, err := s.command("validate", "--config", s.config).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestASecondServerOnTheSameStoreFailsClearly(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	b, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	second := strings.NewReplacer(s.admin, freePort(t), s.addr[len("127.0.0.1:"):], freePort(t)[len("127.0.0.1:"):]).Replace(string(b))
	path := filepath.Join(s.dir, "Second.caddyfile")
	if err := os.WriteFile(path, []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := s.command("run", "--config", path, "--adapter", "caddyfile").CombinedOutput()
	if err == nil {
		t.Fatal("it started")
	}
	pid := fmt.Sprintf("(process %d)", s.cmd.Process.Pid)
	for _, want := range []string{"in use by another process", pid, s.store(), "store badger PATH"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the message does not say %q:\n%s", want, out)
		}
	}
	_, key := s.mint(object{"max_activations": 1})
	if status := s.chat(key); status != 200 {
		t.Errorf("the first server: %d", status)
	}
}

func TestRefusalsHaveTheirStatusShapeAndHeaders(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Anthropic})
	spent, spentKey := s.mint(object{"max_activations": 0})
	_, limited := s.mint(object{"max_activations": 100, "rate": "1/h"})
	_, scoped := s.mint(object{"max_activations": 100, "paths": []string{"/v1/messages"}, "methods": []string{"POST"}, "ips": []string{"192.0.2.0/24"}})
	_, post := s.mint(object{"max_activations": 100, "methods": []string{"POST"}})
	revoked, revokedKey := s.mint(object{"max_activations": 1})
	s.api("POST", "/keys/"+revoked+"/revoke", object{"reason": "test"})
	suspended, suspendedKey := s.mint(object{"max_activations": 1})
	s.api("POST", "/keys/"+suspended+"/suspend", nil)
	unknown, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, path, key string) (*http.Response, object) {
		r, err := http.NewRequest(method, "http://"+s.addr+path, strings.NewReader(`{"model":"m"}`))
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			r.Header.Set("X-Api-Key", key)
		}
		res, body := s.must(r)
		answer := object{}
		if err := json.Unmarshal([]byte(body), &answer); err != nil && body != "" {
			t.Fatalf("%s %s: %s", method, path, body)
		}
		return res, answer
	}
	do("POST", "/v1/messages", limited)
	for _, test := range []struct {
		name, method, path, key string
		status                  int
		code                    string
		unified, retry          bool
	}{
		{name: "no key", method: "POST", path: "/v1/messages", status: 401, code: "till_key_missing", unified: true},
		{name: "unknown", method: "POST", path: "/v1/messages", key: unknown.Reveal(), status: 401, code: "till_key_invalid", unified: true},
		{name: "garbled", method: "POST", path: "/v1/messages", key: "till_sk_x", status: 401, code: "till_key_invalid", unified: true},
		{name: "spent", method: "POST", path: "/v1/messages", key: spentKey, status: 402, code: "till_activations_exhausted"},
		{name: "revoked", method: "POST", path: "/v1/messages", key: revokedKey, status: 403, code: "till_key_revoked"},
		{name: "suspended", method: "POST", path: "/v1/messages", key: suspendedKey, status: 403, code: "till_key_suspended"},
		{name: "address", method: "POST", path: "/v1/messages", key: scoped, status: 403, code: "till_ip_not_allowed"},
		{name: "method", method: "GET", path: "/v1/messages", key: post, status: 403, code: "till_method_not_allowed"},
		{name: "upstream", method: "POST", path: "/proxy/openai/v1/messages", key: post, status: 403, code: "till_wrong_upstream"},
		{name: "asynchronous", method: "POST", path: "/v1/messages/batches", key: post, status: 403, code: "till_path_not_allowed"},
		{name: "path", method: "POST", path: "/v1/%2e%2e/x", key: post, status: 400, code: "till_bad_request"},
		{name: "rate", method: "POST", path: "/v1/messages", key: limited, status: 429, code: "till_rate_limited", retry: true},
	} {
		res, body := do(test.method, test.path, test.key)
		h := res.Header
		if res.StatusCode != test.status || h.Get("Till-Refusal") != test.code || h.Get("Content-Type") != "application/json" ||
			h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Request-Id") == "" {
			t.Errorf("%s: %d %v", test.name, res.StatusCode, h)
		}
		if (h.Get("Retry-After") != "") != test.retry || (h.Get("X-Should-Retry") == "false") == test.retry {
			t.Errorf("%s: Retry-After %q, X-Should-Retry %q", test.name, h.Get("Retry-After"), h.Get("X-Should-Retry"))
		}
		inner, _ := body["error"].(object)
		details, _ := inner["details"].(object)
		if body["type"] != "error" || (details["error_code"] == test.code) == test.unified || (inner["code"] == test.code) != test.unified {
			t.Errorf("%s: body %v", test.name, body)
		}
	}
	if n := s.upstream.Count(); n != 1 {
		t.Errorf("the upstream counted %d, want 1", n)
	}
	if n := s.used(spent); n != 0 {
		t.Errorf("refusals took %d", n)
	}
}

func TestUpstreamsNeverSeeTheClient(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	_, key := s.mint(object{"max_activations": 10})
	r := s.request(context.Background(), key,
		"Cookie", "session=1", "X-Forwarded-For", "192.0.2.9", "X-Forwarded-User", "anna", "X-Forwarded-Email", "anna@example.com",
		"X-Forwarded-Access-Token", "x", "X-Forwarded-Client-Cert", "x", "X-Forwarded", "for=192.0.2.9", "Forwarded", "for=192.0.2.9", "Via", "1.1 agent",
		"X-Real-Ip", "192.0.2.9", "X-HTTP-Method-Override", "DELETE", "X-Original-URL", "/v1/batches", "X-Rewrite-URL", "/v1/batches",
		"X-Api-Key", "sk-ant-foreign", "X-Goog-Api-Key", "AIzaForeign", "Proxy-Authorization", "Basic eDp5", "OpenAI-Organization", "org-other",
		"X-Custom", "kept", "Accept-Encoding", "br, gzip")
	r.URL.RawQuery = "a=1&b=%20"
	if res, body := s.must(r); res.StatusCode != 200 {
		t.Fatal(res.StatusCode, body)
	}
	s.clean()
	got := s.upstream.Last()
	if got.Header.Get("X-Custom") != "kept" || got.Query != "a=1&b=%20" || string(got.Body) != chatBody ||
		got.Host != strings.TrimPrefix(s.upstream.URL, "http://") || got.Header.Get("Openai-Organization") != "" || got.Header.Get("Accept-Encoding") != "gzip" {
		t.Errorf("%+v", got)
	}
}

// TestAnswersNeverShowTheCredential has an upstream that repeats what it is
// sent in every place that an answer has.
func TestAnswersNeverShowTheCredential(t *testing.T) {
	t.Parallel()
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch r.URL.Path {
		case "/header":
			w.Header().Set("X-Echo", "you sent "+secret)
		case "/basic":
			w.Header().Set("X-Echo", "Basic "+base64.StdEncoding.EncodeToString([]byte(secret+":")))
		case "/error":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, strings.Repeat("x", 1000), secret)
		case "/elsewhere":
			http.Redirect(w, r, "https://evil.example.com/", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "http://"+r.Host+"/there?x=1", http.StatusFound)
		case "/early":
			w.Header().Set("Link", "</x>; rel=preload; title="+secret)
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum, X-Fine")
			fmt.Fprint(w, "body")
			w.Header().Set("X-Sum", secret)
			w.Header().Set("X-Fine", "yes")
		case "/trailer-name":
			w.Header().Set("Trailer", "X-Fine, "+secret)
			fmt.Fprint(w, "body")
		case "/cookie":
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set("Till-Key", "forged")
		}
	}))
	t.Cleanup(hostile.Close)
	s := newServer(t, options{vendor: upstreamtest.Any, to: hostile.URL})
	id, key := s.mint(object{"max_activations": 100})
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, test := range []struct {
		path   string
		status int
		code   string
		check  func(h, trailer http.Header) bool
	}{
		{path: "/header", status: 502, code: "till_upstream_failed"},
		{path: "/basic", status: 502, code: "till_upstream_failed"},
		{path: "/error", status: 502, code: "till_upstream_failed"},
		{path: "/elsewhere", status: 502, code: "till_upstream_failed", check: func(h, _ http.Header) bool { return h.Get("Location") == "" }},
		{path: "/proxy/mock/here", status: 302, check: func(h, _ http.Header) bool { return h.Get("Location") == "/proxy/mock/there?x=1" }},
		{path: "/early", status: 200, check: func(h, _ http.Header) bool { return h.Get("Link") == "" }},
		{path: "/trailer", status: 200, check: func(_, trailer http.Header) bool { return trailer.Get("X-Fine") == "yes" }},
		{path: "/trailer-name", status: 502, code: "till_upstream_failed"},
		{path: "/cookie", status: 200, check: func(h, _ http.Header) bool { return h.Get("Set-Cookie") == "" && h.Get("Till-Key") == id }},
	} {
		r, err := http.NewRequest("GET", "http://"+s.addr+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		res, body := s.must(r)
		if res.StatusCode != test.status || res.Header.Get("Till-Refusal") != test.code || test.check != nil && !test.check(res.Header, res.Trailer) {
			t.Errorf("%s: %d %v %v %s", test.path, res.StatusCode, res.Header, res.Trailer, body)
		}
		if strings.Contains(strings.ToLower(fmt.Sprint(res.Header, res.Trailer)+body), realKey) {
			t.Errorf("%s shows the credential", test.path)
		}
	}
	s.stop()
	if strings.Contains(s.output(), realKey) || strings.Contains(s.output(), key) {
		t.Error("the log holds a key")
	}
}

func TestHolderAsksAboutAndRevokesItsKey(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{more: "upstream leaving https://api.example.com {\n\tcredential {env.MOCK_KEY}\n}"})
	id, key := s.mint(object{"max_activations": 1, "owner": "somebody", "labels": object{"team": "x"}})
	_, stubborn := s.mint(object{"max_activations": 1, "self_revoke": false})
	ask := func(method, key string) (int, object) {
		r, err := http.NewRequest(method, "http://"+s.addr+"/till/self", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		res, body := s.must(r)
		answer := object{}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(body)
		}
		return res.StatusCode, answer
	}
	for range 2 { // alive, and exhausted
		status, self := ask("GET", key)
		if status != 200 || self["id"] != id || self["max_activations"] != 1.0 || self["owner"] != nil || self["labels"] != nil {
			t.Errorf("%d %v", status, self)
		}
		s.chat(key)
	}
	if status, self := ask("DELETE", key); status != 200 || self["status"] != "revoked" {
		t.Errorf("%d %v", status, self)
	}
	if status := s.chat(key); status != 403 {
		t.Errorf("after it: %d", status)
	}
	if status, _ := ask("DELETE", stubborn); status != 403 {
		t.Errorf("a key that may not revoke itself: %d", status)
	}
	left, leftKey := s.mint(object{"upstream": "leaving", "max_activations": 1})
	s.replace("upstream leaving", "upstream another")
	s.reload()
	s.refuses("a key whose upstream is not configured any more", leftKey, 503, "till_upstream_unknown")
	if status, self := ask("GET", leftKey); status != 200 || self["id"] != left || self["status"] != "active" {
		t.Errorf("what it says of itself: %d %v", status, self)
	}
	if status, self := ask("DELETE", leftKey); status != 200 || self["status"] != "revoked" {
		t.Errorf("and when it is revoked: %d %v", status, self)
	}
}

func TestFreePathsCostNoActivation(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 1})
	for _, path := range []string{"/v1/models", "/models", "/v1/v1/models", "/proxy/mock/models"} {
		r, err := http.NewRequest("GET", "http://"+s.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		if res, body := s.must(r); res.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	if n := s.used(id); n != 0 {
		t.Errorf("used %d", n)
	}
	s.clean()
}

func TestMetricsAndLogsTellNoSecretAndOutliveAReload(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{site: "metrics /metrics\nlog {\n\tformat filter {\n\t\twrap json\n\t\tfields {\n\t\t\trequest>headers>X-Api-Key delete\n\t\t\trequest>headers>Api-Key delete\n\t\t\trequest>headers>X-Goog-Api-Key delete\n\t\t\trequest>uri query {\n\t\t\t\tdelete key\n\t\t\t}\n\t\t}\n\t}\n}"})
	_, key := s.mint(object{"max_activations": 3})
	for range 5 {
		r := s.request(context.Background(), "x", "X-Api-Key", key)
		r.Header.Del("Authorization")
		s.must(r)
	}
	s.reload()
	var text string
	s.eventually("the end of the key is recorded", func() bool {
		text = s.adminPage("/metrics")
		return strings.Contains(text, `caddy_till_keys{status="exhausted"} 1`)
	})
	for _, want := range []string{
		`caddy_till_activations_total{upstream="mock"} 3`,
		`caddy_till_refusals_total{code="till_activations_exhausted",upstream="mock"} 2`,
		`caddy_till_holds 0`,
		`caddy_till_waiting 0`,
		`caddy_till_forfeited_activations_total 0`,
		`caddy_till_store_commit_seconds_count`,
		`caddy_till_overhead_seconds_count 3`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	config, err := s.client.Get("http://" + s.admin + "/config/")
	if err != nil {
		t.Fatal(err)
	}
	defer config.Body.Close()
	c, err := io.ReadAll(config.Body)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"metrics": text, "config": string(c), "log": s.output()} {
		if strings.Contains(text, realKey) || strings.Contains(text, key) {
			t.Errorf("the %s holds a key", name)
		}
	}
}

func TestStartWarnsOfLoggersThatWriteKeys(t *testing.T) {
	t.Parallel()
	for _, site := range []string{"log", ""} { // Caddy's error log needs no option
		newServer(t, options{site: site}).says("writes scoped keys that arrive")
	}
}

func TestHealthChecksCarryNoCredential(t *testing.T) {
	t.Parallel()
	checked := make(chan http.Header, 100)
	healthy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			select {
			case checked <- r.Header.Clone():
			default: // it has enough of them, and who checks must get an answer
			}
		}
	}))
	t.Cleanup(healthy.Close)
	s := newServer(t, options{vendor: upstreamtest.Any, to: healthy.URL, upstream: "health_uri /health\nhealth_interval 50ms"})
	select {
	case h := <-checked:
		if strings.Contains(fmt.Sprint(h), realKey) {
			t.Errorf("a health check carries the credential: %v", h)
		}
	case <-time.After(patience):
		t.Fatalf("no health check:\n%s", s.output())
	}
	_, key := s.mint(object{"max_activations": 1})
	if status := s.chat(key); status != 200 {
		t.Errorf("%d", status)
	}
}
