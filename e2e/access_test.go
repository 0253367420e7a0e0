package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// reader runs the commands of a document, one line after the other, as
// somebody does who reads it.
type reader struct {
	*server
	env map[string]string
	// becomes replaces what stands in the document for what is here.
	becomes map[string]string
	printed string // by the line before
}

var fence = regexp.MustCompile("(?ms)^ *```(sh|caddyfile)\n(.*?)^ *```")

func document(t *testing.T, name, from, to string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(b), from)
	if !found {
		t.Fatalf("%s has no %q", name, from)
	}
	text, _, _ = strings.Cut(text, to)
	return text
}

// run runs every sh block of the text. A line that ends with "# refused" must
// fail, all others must not.
func (r *reader) run(text string) {
	r.t.Helper()
	for _, block := range fence.FindAllStringSubmatch(text, -1) {
		if block[1] != "sh" {
			continue
		}
		for line := range strings.Lines(block[2]) {
			if line = strings.TrimSpace(line); line != "" {
				r.line(line)
			}
		}
	}
}

func (r *reader) line(line string) {
	r.t.Helper()
	for old, now := range r.becomes {
		line = strings.ReplaceAll(line, old, now)
	}
	switch line { // of the machine that the server would be on
	case "systemctl stop caddy":
		r.stop()
		return
	case "systemctl start caddy":
		r.start()
		return
	}
	if set, ok := strings.CutPrefix(line, "export "); ok {
		for pair := range strings.FieldsSeq(set) {
			name, value, _ := strings.Cut(pair, "=")
			r.env[name] = value
		}
		return
	}
	if names, ok := strings.CutPrefix(line, "unset "); ok {
		for name := range strings.FieldsSeq(names) {
			r.env[name] = ""
		}
		r.env["TILL_ADDRESS"] = r.admin // where the default is not
		return
	}
	cmd := exec.Command("bash", "-c", line)
	endWithTests(cmd)
	like := r.command()
	cmd.Dir, cmd.Env = like.Dir, append(like.Env, "PATH="+filepath.Join(r.dir, "bin")+":"+os.Getenv("PATH"))
	for name, value := range r.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	if (err != nil) != strings.HasSuffix(line, "# refused") {
		r.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	r.printed = string(out)
	for old, pattern := range map[string]string{
		"till_admin_…": `till_admin_[0-9A-Za-z]{28}`, "till_sk_…": `till_sk_[0-9A-Za-z]{28}`,
		"HASH": `"hash": ?"([0-9a-f]{64})"`,
	} {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(string(out)); m != nil && !strings.Contains(line, "grep '\"action") {
			r.becomes[old] = m[len(m)-1]
		}
	}
}

// TestLeastPrivilegeInTenMinutes runs docs/access.md and the runbooks that
// follow from it, word for word.
func TestLeastPrivilegeInTenMinutes(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	bin := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(caddyBinary, filepath.Join(bin, "caddy")); err != nil {
		t.Fatal(err)
	}
	credential := filepath.Join(s.dir, "openai")
	if err := os.WriteFile(credential, []byte(realKey), 0o600); err != nil {
		t.Fatal(err)
	}
	text := document(t, "access.md", "## Least privilege in ten minutes", "## Roles")
	agents, console := freePort(t), freePort(t)
	logged := filepath.Join(s.dir, "caddy.log")
	caddyfile := fence.FindStringSubmatch(text)[2]
	for old, now := range map[string]string{
		// With an upstream besides the page's, which is the only one of its roles.
		"{\n\ttill {": fmt.Sprintf("{\n\tadmin %s\n\tpersist_config off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n\tlog {\n\t\toutput file %s\n\t}\n\ttill {\n\t\tstore badger %s\n\t\tupstream claude anthropic {\n\t\t\tcredential %s\n\t\t}",
			s.admin, logged, s.store(), realKey),
		"{file./etc/till/openai.key}": "{file." + credential + "}\n\t\t\tto " + s.upstream.URL,
		"agents.example.com {":        "http://:" + port(agents) + " {",
		"till.example.com {":          "http://:" + port(console) + " {",
	} {
		if strings.Count(caddyfile, old) != 1 {
			t.Fatalf("%q does not stand once in\n%s", old, caddyfile)
		}
		caddyfile = strings.Replace(caddyfile, old, now, 1)
	}
	s.write(caddyfile)
	r := &reader{server: s, env: map[string]string{}, becomes: map[string]string{
		"/etc/caddy/Caddyfile": s.config, "localhost:2019": s.admin, "https://till.example.com": "http://" + console,
		"journalctl -u caddy -o cat": "cat " + logged,
	}}
	r.run(text)
	if !strings.Contains(r.printed, "trial") || strings.Contains(r.printed, "greedy") {
		t.Errorf("the last list shows\n%s", r.printed)
	}
	// The key that was minted on the way is what the page says.
	s.addr = agents
	key := r.becomes["till_sk_…"]
	with := func(model string) (status int, code string) {
		r := s.request(context.Background(), key)
		body := strings.Replace(chatBody, `"m"`, `"`+model+`"`, 1)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		res, answer := s.must(r)
		return res.StatusCode, res.Header.Get("Till-Refusal") + answer
	}
	if status, answer := with("gpt-5-mini"); status != http.StatusOK {
		t.Errorf("the key: %d %s", status, answer)
	}
	if status, answer := with("o3"); status != http.StatusForbidden || !strings.HasPrefix(answer, "till_model_not_allowed") {
		t.Errorf("another model: %d %s", status, answer)
	}
	ask := s.request(context.Background(), key)
	ask.Method, ask.URL.Path, ask.Body, ask.ContentLength = "GET", "/till/self", nil, 0
	_, self := s.must(ask)
	for _, part := range []string{`"max_activations":50`, `"max_spend_usd":"5.00"`, `"models":["gpt-5-mini","gpt-5-nano"]`, `"methods":["POST"]`, `"expires_at"`} {
		if !strings.Contains(self, part) {
			t.Errorf("the key has no %s: %s", part, self)
		}
	}
	r.run(document(t, "runbooks.md", "## An operator left", "## Audit for a review"))
	if status, answer := with("gpt-5-mini"); status != http.StatusForbidden || !strings.HasPrefix(answer, "till_key_revoked") {
		t.Errorf("a key of who left: %d %s", status, answer)
	}
	s.reload() // or an hour later: the head is in the log
	r.run(document(t, "runbooks.md", "## Audit for a review", "*What is to be expected"))
	if !strings.Contains(r.printed, "act.refused") || !strings.Contains(r.printed, `"actor":"anna"`) {
		t.Errorf("what was refused: %s", r.printed)
	}
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// TestARoleOrUpstreamThatIsGoneStopsItsKeysAndForgetsNothing takes them out of
// the configuration and puts them back.
func TestARoleOrUpstreamThatIsGoneStopsItsKeysAndForgetsNothing(t *testing.T) {
	t.Parallel()
	role := "role ci {\n budget activations 3\n}"
	second := "upstream second openai {\n to http://127.0.0.1:9\n credential {env.MOCK_KEY}\n}"
	s := newServer(t, options{more: role + "\n" + second})
	_, key := s.mint(object{"max_activations": 10, "role": "ci", "upstream": "mock"})
	_, other := s.mint(object{"max_activations": 10, "upstream": "second"})
	for range 2 {
		if status := s.chat(key); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	s.replace(role, "")
	s.replace(second, "")
	s.reload()
	for name, k := range map[string]string{"role": key, "upstream": other} {
		if status, answer := s.sends(k); status != http.StatusServiceUnavailable {
			t.Errorf("without its %s: %d %s", name, status, answer)
		}
	}
	s.kill9()
	s.start()
	if status, answer := s.sends(key); status != http.StatusServiceUnavailable {
		t.Errorf("without its role, after kill -9: %d %s", status, answer)
	}
	s.replace("upstream mock", role+"\nupstream mock")
	s.reload()
	if status := s.chat(key); status != http.StatusOK {
		t.Errorf("with its role again: %d", status)
	}
	if status, answer := s.sends(key); status != http.StatusPaymentRequired {
		t.Errorf("after 3 of 3 in all: %d %s", status, answer)
	}
}

// TestWhatWasAcknowledgedIsInTheAuditLogOverKills ends Caddy while keys are
// minted, changed and revoked, and then looks for each act that was answered.
func TestWhatWasAcknowledgedIsInTheAuditLogOverKills(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	var mu sync.Mutex
	acknowledged := map[string]int{} // action and key
	for range 3 {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		mu.Lock()
		before := len(acknowledged)
		mu.Unlock()
		for range 4 {
			wg.Go(func() {
				for {
					id, ok := s.tries("POST", "/keys", `{"max_activations":5}`)
					if !ok {
						return
					}
					for _, act := range []struct{ method, path, body, action string }{
						{"POST", "/keys/" + id + "/grant", `{"activations":1}`, "key.grant"},
						{"POST", "/keys/" + id + "/revoke", "", "key.revoke"},
					} {
						mu.Lock()
						acknowledged["key.create "+id] = 1
						mu.Unlock()
						if _, ok := s.tries(act.method, act.path, act.body); !ok {
							return
						}
						mu.Lock()
						acknowledged[act.action+" "+id] = 1
						mu.Unlock()
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		s.eventually("some acts were acknowledged", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) > before+100
		})
		s.kill9()
		close(stop)
		wg.Wait()
		s.start()
	}
	export := filepath.Join(s.dir, "audit.jsonl")
	if out, err := s.command("till", "audit", "export", export).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := s.command("till", "audit", "verify", export).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	entry := regexp.MustCompile(`"action":"(key\.\w+)".*"key":"(key_\w+)"`)
	found := map[string]int{}
	for line := range strings.Lines(string(b)) {
		if m := entry.FindStringSubmatch(line); m != nil {
			found[m[1]+" "+m[2]]++
		}
	}
	for act := range acknowledged {
		if found[act] != 1 {
			t.Errorf("%s was acknowledged, and is in the log %d times", act, found[act])
		}
	}
	t.Logf("%d acts were acknowledged over 3 kills; all are in the log once, of %d entries", len(acknowledged), strings.Count(string(b), "\n"))
}

// tries makes a call that may be cut off; ok says that it was answered well.
func (s *server) tries(method, path, body string) (key string, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+s.admin+"/till"+path, strings.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return "", false
	}
	res, err := s.client.Do(r)
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	var answer struct{ ID string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode/100 != 2 {
		return "", false
	}
	return answer.ID, true
}
