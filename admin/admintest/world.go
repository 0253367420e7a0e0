// Package admintest has a limiter on a real store, and a Backend for the management
// API, for the tests of the API and of its clients.
//
// It does not know the API itself: each test sets the handler.
package admintest

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
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// patience is how long a call waits for the store: a machine may be busy.
const patience = 5 * time.Minute

// World is a limiter on a real Badger directory, with everything that a management
// API needs from a configuration.
type World struct {
	*limiter.Limiter
	T         *testing.T
	Handler   http.Handler
	Upstreams []wire.UpstreamInfo
	Base      string
	Findings  []wire.Finding
	Files     []wire.File
	SealKeys  []token.SealKeyID
	Closed    bool
	// Node is the name of the server where several share the store.
	Node     string
	Lockdown *limiter.Lockdown
	// These are the errors that the backend returns if there is no console, and if
	// the configuration names the seal keys.
	NoConsole, SealKeyNamed error
}

// New makes a world. The caller sets its Handler.
func New(t *testing.T, clock commit.Clock) *World {
	t.Helper()
	s, err := store.OpenBadger(filepath.Join(t.TempDir(), "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = patience
	return on(t, s, clock)
}

// OnDisk makes a world on a simulated disk.
func OnDisk(t *testing.T) (*World, *storetest.Disk) {
	t.Helper()
	disk := storetest.NewDisk()
	return on(t, disk.Open(), nil), disk
}

// Lagging makes a world that shares its store with node-b, which follows nothing.
func Lagging(t *testing.T) *World {
	t.Helper()
	return on(t, lagging{storetest.NewCluster().Node("node-a")}, nil)
}

type lagging struct{ store.Shared }

// Fresh implements store.Shared: the node has touch, however busy the machine is.
func (lagging) Fresh() error { return nil }

// Settled implements store.Shared.
func (lagging) Settled(time.Duration) ([]string, error) { return []string{"node-b"}, nil }

func on(t *testing.T, s store.Store, clock commit.Clock) *World {
	t.Helper()
	dir := t.TempDir()
	lockdown := limiter.NewLockdown(limiter.LockdownOptions{Path: filepath.Join(dir, "lockdown"), Patience: patience})
	t.Cleanup(lockdown.Close)
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Clock: clock, Lockdown: lockdown, Roles: map[string]record.Role{"ci": record.NewRole()}})
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Limiter: l, T: t, Lockdown: lockdown, Base: "https://agents.example.com", Upstreams: []wire.UpstreamInfo{
		{Name: "github", Origins: []string{"https://api.github.com"}, Held: true},
		{Name: "openai", Preset: "openai", Dialect: "openai", Origins: []string{"https://api.openai.com"}, Held: true},
		{Name: "spare", Preset: "openai", Dialect: "openai", Origins: []string{"https://api.openai.com"}},
	}}
	t.Cleanup(w.Shut)
	return w
}

// Team returns three different roles.
func Team() map[string]record.Role {
	member := record.NewRole()
	member.Permissions = []record.Permission{record.KeysCreate, record.KeysRead}
	member.Max[record.Activations] = 100
	member.Scope.Models = []string{"gpt-*"}
	lead := member
	lead.Permissions = append(lead.Permissions, record.TokensManage, record.KeysUpdate)
	lead.Sees = record.SeesRole
	return map[string]record.Role{"ci": record.NewRole(), "member": member, "lead": lead}
}

func (w *World) Shut() {
	w.T.Helper()
	if w.Closed {
		return
	}
	w.Closed = true
	if err := w.Close(); err != nil {
		w.T.Error(err)
	}
}

// Backend is the Backend of a world.
type Backend struct{ Of *World }

func (b Backend) Limiter() (*limiter.Limiter, error) {
	if b.Of.Closed {
		return nil, store.ErrClosed
	}
	return b.Of.Limiter, nil
}

func (b Backend) UpstreamInfos() []wire.UpstreamInfo { return b.Of.Upstreams }

func (b Backend) Delivery(string) wire.Delivery { return wire.Delivery{} }

func (b Backend) Diagnose() []wire.Finding { return b.Of.Findings }

func (b Backend) Files() []wire.File { return b.Of.Files }

func (b Backend) BaseURL() string { return b.Of.Base }

func (b Backend) Node() string { return b.Of.Node }

func (b Backend) Ready() error {
	if b.Of.Closed {
		return errors.New("the store is closed")
	}
	return b.Of.Limiter.Ready()
}

func (b Backend) Lockdown() *limiter.Lockdown { return b.Of.Lockdown }

// SignInLink stands in for the console's, which the browser tests use.
func (b Backend) SignInLink(limiter.Caller) (token.Secret, time.Time, error) {
	if b.Of.Base == "" {
		return token.Secret{}, time.Time{}, b.Of.NoConsole
	}
	return token.NewSecret("http://127.0.0.1:8081/till/#signin=secret"), time.Now().Add(time.Minute), nil
}

// Forfeit stands in for the engine's, which the tests of the root use.
func (b Backend) Forfeit(_ limiter.Caller, imagine bool) (limiter.Repaired, error) {
	if !b.Of.Closed {
		return limiter.Repaired{}, errors.New("the store is in order: there is nothing to repair")
	}
	b.Of.Closed = imagine
	return limiter.Repaired{Keys: 3, Forfeited: 2, Suspended: 1}, nil
}

func (b Backend) PriceTable() *upstream.Prices { return upstream.BuiltInPrices() }

// Fingerprints returns the fingerprints of the upstreams that have a credential.
func (b Backend) Fingerprints(of func(token.Secret) string) map[string]string {
	named := make(map[string]string)
	for _, u := range b.Of.Upstreams {
		if u.Held {
			named[u.Name] = of(token.NewSecret("sk-real-of-" + u.Name))
		}
	}
	return named
}

// SealKeyIDs and RotateSeal stand in for the server's.
func (b Backend) SealKeyIDs() ([]token.SealKeyID, error) { return b.Of.SealKeys, nil }

func (b Backend) RotateSeal(by limiter.Caller) error {
	if b.Of.SealKeys == nil {
		return b.Of.SealKeyNamed
	}
	next := token.SealKeyID{byte(len(b.Of.SealKeys) + 1)}
	b.Of.SealKeys = append([]token.SealKeyID{next}, b.Of.SealKeys...)
	return b.Of.SealRotated(by, next)
}

// Seal works like the server's, with a fixed seal key.
func (b Backend) Seal(upstream string, lookup token.Lookup, salt, credential token.Secret) (token.Secret, record.Box, error) {
	key, err := token.ParseSealKey(strings.Repeat("5e", token.SealKeyLen))
	if err != nil {
		return token.Secret{}, record.Box{}, err
	}
	sealer, err := token.NewSealer(key)
	if err != nil {
		return token.Secret{}, record.Box{}, err
	}
	origins := []string{"https://api.openai.com"}
	box, id, err := sealer.Seal(salt, token.Binding{Lookup: lookup, Upstream: upstream, Origins: origins}, credential)
	return box, record.Box{SealKey: id, Origins: origins, Salt: salt}, err
}

// Answer is an answer of the API.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

func (w *World) Do(method, path, body string, header ...string) Answer {
	w.T.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if path == "/events" { // the feed lasts for as long as somebody reads
		gone, cancel := context.WithCancel(r.Context())
		cancel()
		r = r.WithContext(gone)
	}
	rec := httptest.NewRecorder()
	w.Handler.ServeHTTP(rec, r)
	return Answer{rec.Code, rec.Header(), rec.Body.String()}
}

// Get decodes a successful answer.
func Get[T any](t *testing.T, a Answer) T {
	t.Helper()
	var v T
	if a.Status/100 != 2 {
		t.Fatalf("answered %d: %s", a.Status, a.Body)
	}
	if err := json.Unmarshal([]byte(a.Body), &v); err != nil {
		t.Fatalf("%v: %s", err, a.Body)
	}
	return v
}

// Fault decodes an error.
func (a Answer) Fault(t *testing.T) (code, message string) {
	t.Helper()
	var v struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(a.Body), &v); err != nil || v.Error.Code == "" || v.Error.Message == "" {
		t.Fatalf("no error object: %v: %s", err, a.Body)
	}
	return v.Error.Code, v.Error.Message
}

func (w *World) NewKey(body string) *wire.Minted {
	w.T.Helper()
	m := Get[wire.Minted](w.T, w.Do("POST", "/keys", body))
	return &m
}

// NewToken makes an admin token of the role ci.
func (w *World) NewToken(name string) *wire.TokenObject {
	w.T.Helper()
	made := Get[wire.TokenObject](w.T, w.Do("POST", "/tokens", fmt.Sprintf(`{"name":%q,"role":"ci"}`, name)))
	return &made
}

// Live returns the key as the data plane finds it.
func (w *World) Live(m *wire.Minted) *limiter.Live {
	w.T.Helper()
	p, err := token.ParseKey(m.ScopedKey)
	if err != nil {
		w.T.Fatal(err)
	}
	k, refusal := w.Find(w.T.Context(), p.Lookup)
	if refusal != nil {
		w.T.Fatal(refusal)
	}
	return k
}

// Use admits n requests and settles them.
func (w *World) Use(m *wire.Minted, n int) {
	w.T.Helper()
	for range n {
		g := new(limiter.Grant)
		ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/chat/completions"}
		if refusal := w.Live(m).Reserve(w.T.Context(), ask, g); refusal != nil {
			w.T.Fatal(refusal)
		}
		g.Settle(record.Amounts{record.Activations: 1})
	}
}

// Serve serves the API on a unix socket, as Caddy's admin endpoint does, and
// returns its address.
func (w *World) Serve() string {
	w.T.Helper()
	socket := filepath.Join(w.T.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		w.T.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(wire.BasePath+"/", http.StripPrefix(wire.BasePath, w.Handler))
	s := &http.Server{Handler: mux}
	go func() { _ = s.Serve(l) }()
	w.T.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.T.Error(err)
		}
	})
	return "unix/" + socket
}

var (
	IDPattern     = regexp.MustCompile(`key_[0-9A-HJKMNP-TV-Z]{26}`)
	StringPattern = regexp.MustCompile(`till_sk_[0-9A-Za-z]{28}`)
	SealedPattern = regexp.MustCompile(`till_sk_[0-9A-Za-z]{28}\.[0-9A-Za-z_-]+`)
	namePattern   = regexp.MustCompile(`"credential_fingerprint":"[0-9a-f]{32}"`)
	timePattern   = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`)
)

// Steady replaces the parts of a text that differ from run to run.
func Steady(s string) string {
	s = IDPattern.ReplaceAllString(s, "key_ID")
	s = StringPattern.ReplaceAllString(s, "till_sk_STRING")
	s = namePattern.ReplaceAllString(s, `"credential_fingerprint":"FINGERPRINT"`)
	return timePattern.ReplaceAllString(s, "TIME")
}

func Equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n--- got\n%s\n--- want\n%s", what, got, want)
	}
}

var update = flag.Bool("update", false, "write openapi.json and help.txt as they are now, to be read before they are committed")

// Golden compares with a file in testdata. The flag -update writes the file.
func Golden(t *testing.T, name string, got []byte) {
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
