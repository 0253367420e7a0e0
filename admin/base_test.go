package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// World is a limiter on a real Badger directory, with all that a management API
// over it asks for.
type World struct {
	*limiter.Limiter
	t         *testing.T
	handler   http.Handler
	upstreams []wire.UpstreamInfo
	base      string
	findings  []wire.Finding
	files     []wire.File
	sealKeys  []token.SealKeyID
	closed    bool
	lockdown  *limiter.Lockdown
	// What the backend says where there is no console, and where the configuration
	// names the seal keys.
	noConsole, sealKeyNamed error
}

// newBase makes a world; its maker adds the handler of the API.
func newBase(t *testing.T, clock limiter.Clock) *World {
	t.Helper()
	dir := t.TempDir()
	store, err := limiter.OpenBadger(filepath.Join(dir, "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	lockdown := limiter.NewLockdown(filepath.Join(dir, "lockdown"), nil, nil)
	t.Cleanup(lockdown.Close)
	l, err := limiter.Open(limiter.Options{Store: store, Clock: clock, Lockdown: lockdown, Roles: map[string]limiter.Role{"ci": limiter.NewRole()}})
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Limiter: l, t: t, lockdown: lockdown, base: "https://agents.example.com", upstreams: []wire.UpstreamInfo{
		{Name: "github", Origins: []string{"https://api.github.com"}, Held: true},
		{Name: "openai", Preset: "openai", Dialect: "openai", Origins: []string{"https://api.openai.com"}, Held: true},
		{Name: "spare", Preset: "openai", Dialect: "openai", Origins: []string{"https://api.openai.com"}},
	}}
	t.Cleanup(w.close)
	return w
}

// team are roles of three kinds.
func team() map[string]limiter.Role {
	member := limiter.NewRole()
	member.Permissions = []limiter.Permission{limiter.KeysCreate, limiter.KeysRead}
	member.Max[limiter.Activations] = 100
	member.Scope.Models = []string{"gpt-*"}
	lead := member
	lead.Permissions = append(lead.Permissions, limiter.TokensManage, limiter.KeysUpdate)
	lead.Sees = limiter.SeesRole
	return map[string]limiter.Role{"ci": limiter.NewRole(), "member": member, "lead": lead}
}

func (w *World) close() {
	w.t.Helper()
	if w.closed {
		return
	}
	w.closed = true
	if err := w.Close(); err != nil {
		w.t.Error(err)
	}
}

// backend is the Backend of a world.
type backend struct{ w *World }

func (b backend) Limiter() (*limiter.Limiter, error) {
	if b.w.closed {
		return nil, limiter.ErrClosed
	}
	return b.w.Limiter, nil
}

func (b backend) UpstreamInfos() []wire.UpstreamInfo { return b.w.upstreams }

func (b backend) Delivery(string) wire.Delivery { return wire.Delivery{} }

func (b backend) Diagnose() []wire.Finding { return b.w.findings }

func (b backend) Files() []wire.File { return b.w.files }

func (b backend) BaseURL() string { return b.w.base }

func (b backend) Lockdown() *limiter.Lockdown { return b.w.lockdown }

// SignInLink stands for the console's, which the browser tests drive.
func (b backend) SignInLink(limiter.Caller) (token.Secret, time.Time, error) {
	if b.w.base == "" {
		return token.Secret{}, time.Time{}, b.w.noConsole
	}
	return token.NewSecret("http://127.0.0.1:8081/till/#signin=secret"), time.Now().Add(time.Minute), nil
}

// Forfeit stands for the engine's, which the tests of the root drive.
func (b backend) Forfeit(limiter.Caller) (limiter.Repaired, error) {
	if !b.w.closed {
		return limiter.Repaired{}, errors.New("the store is in order: there is nothing to repair")
	}
	b.w.closed = false
	return limiter.Repaired{Keys: 3, Forfeited: 2, Suspended: 1}, nil
}

func (b backend) PriceTable() *upstream.Prices { return upstream.BuiltInPrices() }

// Fingerprints names the credentials of the upstreams that have one.
func (b backend) Fingerprints(of func(token.Secret) string) map[string]string {
	named := make(map[string]string)
	for _, u := range b.w.upstreams {
		if u.Held {
			named[u.Name] = of(token.NewSecret("sk-real-of-" + u.Name))
		}
	}
	return named
}

// SealKeyIDs and RotateSeal stand for the server's.
func (b backend) SealKeyIDs() ([]token.SealKeyID, error) { return b.w.sealKeys, nil }

func (b backend) RotateSeal(by limiter.Caller) error {
	if b.w.sealKeys == nil {
		return b.w.sealKeyNamed
	}
	next := token.SealKeyID{byte(len(b.w.sealKeys) + 1)}
	b.w.sealKeys = append([]token.SealKeyID{next}, b.w.sealKeys...)
	return b.w.SealRotated(by, next)
}

// Seal is the server's, with a seal key of its own.
func (b backend) Seal(upstream string, lookup token.Lookup, salt, credential token.Secret) (token.Secret, limiter.Box, error) {
	key, err := token.ParseSealKey(strings.Repeat("5e", token.SealKeyLen))
	if err != nil {
		return token.Secret{}, limiter.Box{}, err
	}
	sealer, err := token.NewSealer(key)
	if err != nil {
		return token.Secret{}, limiter.Box{}, err
	}
	origins := []string{"https://api.openai.com"}
	box, id, err := sealer.Seal(salt, token.Binding{Lookup: lookup, Upstream: upstream, Origins: origins}, credential)
	return box, limiter.Box{SealKey: id, Origins: origins, Salt: salt}, err
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   string
}

func (w *World) do(method, path, body string, header ...string) answer {
	w.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if path == "/events" { // which goes on for as long as somebody reads
		gone, cancel := context.WithCancel(r.Context())
		cancel()
		r = r.WithContext(gone)
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return answer{rec.Code, rec.Header(), rec.Body.String()}
}

// get decodes a successful answer.
func get[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if a.status/100 != 2 {
		t.Fatalf("answered %d: %s", a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return v
}

// fault decodes an error.
func (a answer) fault(t *testing.T) (code, message string) {
	t.Helper()
	var v struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || v.Error.Code == "" || v.Error.Message == "" {
		t.Fatalf("no error object: %v: %s", err, a.body)
	}
	return v.Error.Code, v.Error.Message
}

func (w *World) mint(body string) *wire.Minted {
	w.t.Helper()
	m := get[wire.Minted](w.t, w.do("POST", "/keys", body))
	return &m
}

// token makes an admin token of the role ci.
func (w *World) token(name string) *wire.TokenObject {
	w.t.Helper()
	made := get[wire.TokenObject](w.t, w.do("POST", "/tokens", fmt.Sprintf(`{"name":%q,"role":"ci"}`, name)))
	return &made
}

// live is the key as the data plane finds it.
func (w *World) live(m *wire.Minted) *limiter.Live {
	w.t.Helper()
	p, err := token.ParseKey(m.ScopedKey)
	if err != nil {
		w.t.Fatal(err)
	}
	k, refusal := w.Find(w.t.Context(), p.Lookup)
	if refusal != nil {
		w.t.Fatal(refusal)
	}
	return k
}

// use admits n requests and settles them.
func (w *World) use(m *wire.Minted, n int) {
	w.t.Helper()
	for range n {
		g := new(limiter.Grant)
		ask := &limiter.Ask{Bound: limiter.Amounts{limiter.Activations: 1}, Method: "POST", Path: "/v1/chat/completions"}
		if refusal := w.live(m).Reserve(w.t.Context(), ask, g); refusal != nil {
			w.t.Fatal(refusal)
		}
		g.Settle(limiter.Amounts{limiter.Activations: 1})
	}
}

// serve puts the API on a unix socket, as Caddy's admin endpoint does, and
// returns its address.
func (w *World) serve() string {
	w.t.Helper()
	socket := filepath.Join(w.t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		w.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(wire.BasePath+"/", http.StripPrefix(wire.BasePath, w.handler))
	s := &http.Server{Handler: mux}
	go func() { _ = s.Serve(l) }()
	w.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return "unix/" + socket
}

var (
	idPattern     = regexp.MustCompile(`key_[0-9A-HJKMNP-TV-Z]{26}`)
	stringPattern = regexp.MustCompile(`till_sk_[0-9A-Za-z]{28}`)
	sealedPattern = regexp.MustCompile(`till_sk_[0-9A-Za-z]{28}\.[0-9A-Za-z_-]+`)
	namePattern   = regexp.MustCompile(`"credential_fingerprint":"[0-9a-f]{32}"`)
	timePattern   = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`)
)

// steady replaces what differs from run to run.
func steady(s string) string {
	s = idPattern.ReplaceAllString(s, "key_ID")
	s = stringPattern.ReplaceAllString(s, "till_sk_STRING")
	s = namePattern.ReplaceAllString(s, `"credential_fingerprint":"FINGERPRINT"`)
	return timePattern.ReplaceAllString(s, "TIME")
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n--- got\n%s\n--- want\n%s", what, got, want)
	}
}

var update = flag.Bool("update", false, "write openapi.json and help.txt as they are now, to be read before they are committed")

// golden compares with a file in testdata, which -update writes.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = "testdata/" + name
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	is, was := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range is {
		if i == len(was) || !bytes.Equal(is[i], was[i]) {
			t.Fatalf("%s: line %d is now\n%s\nIf that is meant, run: go test -update .", name, i+1, is[i])
		}
	}
	t.Fatalf("%s: it ends after line %d now, and not after %d", name, len(is), len(was))
}
