package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	hookKey    = "0123456789abcdef0123456789abcdef"
	hookSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
)

// inbox is a webhook's receiver.
type inbox struct {
	*httptest.Server
	t      *testing.T
	answer atomic.Int32 // status; 200 at first
	key    string

	mu    sync.Mutex
	taken []delivery
}

type delivery struct {
	id, name, keyID string
	body            string
	ok              bool // it was answered with 2xx
}

func newInbox(t *testing.T, key string) *inbox {
	in := &inbox{t: t, key: key}
	in.answer.Store(http.StatusOK)
	in.Server = httptest.NewServer(in)
	t.Cleanup(in.Close)
	return in
}

func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		in.t.Error(err)
	}
	id, stamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, []byte(in.key))
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if !slices.Contains(strings.Split(r.Header.Get("webhook-signature"), " "), want) {
		in.t.Errorf("the signature is %q, want %q", r.Header.Get("webhook-signature"), want)
	}
	if at, err := strconv.ParseInt(stamp, 10, 64); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		in.t.Errorf("the timestamp is %q", stamp)
	}
	if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "" {
		in.t.Errorf("it came as %s %v", r.Method, r.Header)
	}
	var event struct {
		Type, Timestamp string
		Data            struct {
			KeyID string `json:"key_id"`
		}
	}
	if err := json.Unmarshal(body, &event); err != nil || event.Timestamp == "" {
		in.t.Errorf("%s: %v", body, err)
	}
	status := int(in.answer.Load())
	in.mu.Lock()
	in.taken = append(in.taken, delivery{id, event.Type, event.Data.KeyID, string(body), status/100 == 2})
	in.mu.Unlock()
	if status/100 == 3 {
		w.Header().Set("Location", in.URL+"/elsewhere")
	}
	w.WriteHeader(status)
}

// all lists what came, each message once.
func (in *inbox) all() (all []delivery) {
	in.mu.Lock()
	defer in.mu.Unlock()
	seen := map[string]bool{}
	for _, d := range in.taken {
		if d.ok && !seen[d.id] {
			seen[d.id] = true
			all = append(all, d)
		}
	}
	return all
}

func (in *inbox) attempts() []delivery {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.taken)
}

// names lists the events of a key by their names, sorted: what was not delivered at once,
// as by a busy machine, comes later than its successors.
func (in *inbox) names(keyID string) (names []string) {
	for _, d := range in.all() {
		if d.keyID == keyID {
			names = append(names, d.name)
		}
	}
	slices.Sort(names)
	return names
}

func hookLine(url, secret, events string) string {
	line := "webhook " + url + " {\n\tsecret " + secret + "\n"
	if events != "" {
		line += "\tevents " + events + "\n"
	}
	return line + "}\n"
}

// hooks is what the management API says of the webhooks.
func (s *server) hooks() []object {
	s.t.Helper()
	status, answer := s.api("GET", "/webhooks", nil)
	if status != http.StatusOK {
		s.t.Fatalf("webhooks: %d %v", status, answer)
	}
	var list []object
	for _, h := range answer["webhooks"].([]any) {
		list = append(list, h.(object))
	}
	return list
}

func TestWebhooksReceiveTheEventsTheyWant(t *testing.T) {
	t.Parallel()
	all, some := newInbox(t, hookKey), newInbox(t, "any other text")
	s := newServer(t, options{more: hookLine(all.URL+"/till?token=private", hookSecret, "") + hookLine(some.URL, `"any other text"`, "key_revoked key_exhausted")})
	id, key := s.mint(object{"name": "n till_sk_x", "max_activations": 2, "owner": "ann"})
	for range 2 {
		if status := s.chat(key); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	other, _ := s.mint(object{"max_activations": 2})
	if status, answer := s.api("POST", "/keys/"+other+"/revoke", object{"reason": "it leaked"}); status != 200 {
		t.Fatal(status, answer)
	}
	if status, answer := s.api("POST", "/lockdown", object{"reason": "drill"}); status != 200 {
		t.Fatal(status, answer)
	}
	s.eventually("all is told", func() bool { return len(all.all()) >= 7 && len(some.all()) >= 2 })
	if got := all.names(id); !slices.Equal(got, []string{"key_created", "key_exhausted", "key_threshold", "key_threshold"}) {
		t.Errorf("of the first key: %q", got)
	}
	if got := append(all.names(other), all.names("")...); !slices.Equal(got, []string{"key_created", "key_revoked", "lockdown"}) {
		t.Errorf("of the second and of none: %q", got)
	}
	if got := append(some.names(id), some.names(other)...); !slices.Equal(got, []string{"key_exhausted", "key_revoked"}) {
		t.Errorf("who wants some was told %q", got)
	}
	for _, d := range all.all() {
		if strings.Contains(d.body, key) || strings.Contains(d.body, "till_sk_") || strings.Contains(d.body, realKey) {
			t.Errorf("a message shows a secret: %s", d.body)
		}
	}
	s.eventually("nothing waits", func() bool { return s.hooks()[0]["pending"].(float64) == 0 && s.hooks()[1]["pending"].(float64) == 0 })
	for i, h := range s.hooks() {
		if h["delivered"].(float64) < 2 || h["failing_since"] != nil || strings.Contains(h["url"].(string), "private") {
			t.Errorf("webhook %d: %v", i, h)
		}
	}
	s.says("secret of this webhook stands in the configuration")
	if strings.Contains(s.output(), hookSecret) || strings.Contains(s.output(), "token=private") {
		t.Errorf("the log:\n%s", s.output())
	}
}

func TestWebhookEventsSurviveKill9AndReload(t *testing.T) {
	t.Parallel()
	in := newInbox(t, hookKey)
	in.answer.Store(http.StatusServiceUnavailable)
	s := newServer(t, options{more: hookLine(in.URL, hookSecret, "")})
	var ids []string
	for range 20 {
		id, _ := s.mint(object{"max_activations": 1})
		ids = append(ids, id)
	}
	s.eventually("one was tried", func() bool { return len(in.attempts()) > 0 })
	s.eventually("it is said to fail", func() bool {
		h := s.hooks()[0]
		return h["failing_since"] != nil && h["last_error"] == "it answered 503" && h["pending"].(float64) == 20
	})
	s.kill9()
	s.start()
	if h := s.hooks()[0]; h["pending"].(float64) != 20 {
		t.Errorf("after kill -9: %v", h)
	}
	s.reload()
	in.answer.Store(http.StatusFound) // a redirect is not followed
	before := len(in.attempts())
	s.eventually("it was tried again", func() bool { return len(in.attempts()) > before })
	in.answer.Store(http.StatusOK)
	s.eventually("all is told", func() bool { return len(in.all()) == 20 })
	for _, id := range ids {
		if got := in.names(id); !slices.Equal(got, []string{"key_created"}) {
			t.Errorf("of %s: %q", id, got)
		}
	}
	byID := map[string]string{}
	for _, d := range in.attempts() {
		if was, ok := byID[d.id]; ok && was != d.body {
			t.Errorf("message %s was %s and is %s", d.id, was, d.body)
		}
		byID[d.id] = d.body
	}
	if len(byID) != 20 {
		t.Errorf("%d messages have %d ids", 20, len(byID))
	}
	s.eventually("nothing waits", func() bool { return s.hooks()[0]["pending"].(float64) == 0 })

	// Another address instead: what would have waited for this one is forgotten.
	in.answer.Store(http.StatusInternalServerError)
	s.mint(object{"max_activations": 1})
	s.eventually("one waits", func() bool { return s.hooks()[0]["pending"].(float64) == 1 })
	next := newInbox(t, hookKey)
	s.replace(in.URL, next.URL)
	s.reload()
	if h := s.hooks(); len(h) != 1 || h[0]["pending"].(float64) != 0 {
		t.Errorf("the new webhook: %v", h)
	}
	id, _ := s.mint(object{"max_activations": 1})
	s.eventually("the new one is told", func() bool { return slices.Equal(next.names(id), []string{"key_created"}) })
}

// fenced is the code block of a document that begins so.
func fenced(t *testing.T, document, language, begins string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", document))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(b), "```"+language+"\n")[1:] {
		if code, _, ok := strings.Cut(part, "```"); ok && strings.HasPrefix(code, begins) {
			return code
		}
	}
	t.Fatalf("%s has no %s that begins with %q", document, language, begins)
	return ""
}

// TestTheDocumentedReceiversTakeWhatIsSent runs the receivers of docs/events.md
// word for word, and the package standardwebhooks beside them.
func TestTheDocumentedReceiversTakeWhatIsSent(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(dir string) *exec.Cmd{
		"go": func(dir string) *exec.Cmd {
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(fenced(t, "events.md", "go", "package main")), 0o600); err != nil {
				t.Fatal(err)
			}
			build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "receiver"), filepath.Join(dir, "main.go"))
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("the receiver in Go: %v\n%s", err, out)
			}
			return exec.Command(filepath.Join(dir, "receiver"))
		},
		"node": func(dir string) *exec.Cmd {
			if err := os.WriteFile(filepath.Join(dir, "receiver.mjs"), []byte(fenced(t, "events.md", "js", "import")), 0o600); err != nil {
				t.Fatal(err)
			}
			return exec.Command("node", filepath.Join(dir, "receiver.mjs"))
		},
		"standardwebhooks": func(string) *exec.Cmd {
			needsSDKs(t)
			return exec.Command("node", "sdk/webhook.mjs")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := freePort(t)
			cmd := run(t.TempDir())
			endWithTests(cmd)
			cmd.Env = append(os.Environ(), "TILL_HOOK_SECRET="+hookSecret, "ADDRESS="+address)
			out := new(syncBuffer)
			cmd.Stdout, cmd.Stderr = out, os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Error(err)
				}
				_ = cmd.Wait() // it was killed
			})
			s := newServer(t, options{more: hookLine("http://"+address+"/till", hookSecret, "key_created key_revoked")})
			// What is not delivered at once may come in another order.
			s.eventually("the receiver listens", func() bool {
				c, err := net.Dial("tcp", address)
				return err == nil && c.Close() == nil
			})
			id, _ := s.mint(object{"max_activations": 1, "name": "ünïcode \"quoted\" <b>"})
			if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 {
				t.Fatal(status, answer)
			}
			want := []string{"key_created " + id, "key_revoked " + id}
			printed := func() []string {
				return slices.Sorted(slices.Values(strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")))
			}
			s.eventually("the receiver prints both events", func() bool { return slices.Equal(printed(), want) })
			forged, err := http.NewRequest("POST", "http://"+address+"/till", strings.NewReader(`{"type":"key_created","data":{}}`))
			if err != nil {
				t.Fatal(err)
			}
			forged.Header.Set("Webhook-Id", "msg_1")
			forged.Header.Set("Webhook-Timestamp", strconv.FormatInt(time.Now().Unix(), 10))
			forged.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(make([]byte, 32)))
			if res, _ := s.must(forged); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("a forged message: %d", res.StatusCode)
			}
			if !slices.Equal(printed(), want) {
				t.Errorf("it printed %q", out.String())
			}
		})
	}
}

// eventReader reads a feed of events.
type eventReader struct {
	res   *http.Response
	lines *bufio.Scanner
}

func (s *server) feed(ctx context.Context) *eventReader {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.admin+"/till/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("the feed: %d %v", res.StatusCode, res.Header)
	}
	f := &eventReader{res, bufio.NewScanner(res.Body)}
	if !f.lines.Scan() || !strings.HasPrefix(f.lines.Text(), ":") {
		s.t.Fatalf("the feed begins with %q", f.lines.Text())
	}
	return f
}

// next is the next event's name and body.
func (f *eventReader) next() (name string, body object, err error) {
	for f.lines.Scan() {
		line := f.lines.Text()
		if after, ok := strings.CutPrefix(line, "event: "); ok {
			name = after
		}
		if after, ok := strings.CutPrefix(line, "data: "); ok {
			body = object{}
			return name, body, json.Unmarshal([]byte(after), &body)
		}
	}
	return "", nil, fmt.Errorf("the feed ended: %w", f.lines.Err())
}

func TestAFeedTellsWhatHappensAndEndsWithTheConfiguration(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	f := s.feed(context.Background())
	defer f.res.Body.Close()
	id, key := s.mint(object{"max_activations": 1})
	if status := s.chat(key); status != http.StatusOK {
		t.Fatal(status)
	}
	for _, want := range []string{"key_created", "key_threshold", "key_exhausted"} {
		name, body, err := f.next()
		if err != nil || name != want || body["type"] != want || body["data"].(object)["key_id"] != id {
			t.Errorf("%s %v %v, want %s", name, body, err, want)
		}
		if b, err := json.Marshal(body); err != nil || bytes.Contains(b, []byte(key)) {
			t.Errorf("%s %v", b, err)
		}
	}
	s.reload()
	if name, body, err := f.next(); err != nil || name != "end" || body["reason"] == nil {
		t.Errorf("after a reload: %s %v %v", name, body, err)
	}
	f = s.feed(context.Background())
	defer f.res.Body.Close()
	// The server stops although somebody reads.
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	if name, _, err := f.next(); err != nil || name != "end" {
		t.Errorf("at the end: %s %v", name, err)
	}
	<-stopped
}
