// Package e2e drives the built Caddy over real sockets: as a process of its
// own, with the vendors' SDKs, against a strict stand-in for the vendors.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

const realKey = "sk-real-0123456789abcdefghijklmnopqrstuvwxyz"

// patience bounds every wait; it decides nothing but how a hang is reported.
const patience = 5 * time.Minute

// server is one Caddy process.
type server struct {
	t           *testing.T
	dir         string
	admin       string // host:port
	addr        string // host:port where keys are served
	config      string // path of the Caddyfile
	env         string
	binary      string
	dsn, schema string // of an otherStore
	storeDir    string // "" where the store is a database
	shared      bool   // the store is a database, which may be away
	upstream    *upstreamtest.Server
	client      *http.Client

	mu  sync.Mutex
	cmd *exec.Cmd
	log *bytes.Buffer
}

// options change what newServer writes into the Caddyfile.
type options struct {
	vendor   upstreamtest.Vendor
	site     string               // directives beside till
	upstream string               // options of the upstream
	to       string               // instead of the stand-in
	more     string               // more upstreams and roles
	sites    string               // more sites
	global   string               // more global options
	env      string               // one more variable in Caddy's environment
	store    string               // the store's directory, instead of one of its own
	database string               // what stands behind store postgres, instead of a store in a directory
	before   *upstreamtest.Server // the stand-in, instead of one of its own
	plain    bool                 // no race detector
}

// newServer starts Caddy with one upstream, "mock".
func newServer(t *testing.T, o options) *server {
	t.Helper()
	takesPlace(t)
	if o.vendor == "" {
		o.vendor = upstreamtest.OpenAI
	}
	place := o.database
	var dsn, schema string
	if place == "" {
		if dsn, schema = otherStore(t); schema != "" {
			place = inDatabase(dsn, schema, "")
		}
	}
	if o.before == nil {
		o.before = upstreamtest.Start(t, o.vendor, realKey)
	}
	s := &server{
		t: t, dir: t.TempDir(), admin: freePort(t), addr: freePort(t), log: new(bytes.Buffer),
		env: o.env, binary: caddyBinary, upstream: o.before, dsn: dsn, schema: schema,
		client: &http.Client{Timeout: patience, Transport: &http.Transport{
			MaxIdleConnsPerHost: 128, DisableCompression: true, ExpectContinueTimeout: patience,
		}},
	}
	t.Cleanup(s.client.CloseIdleConnections)
	t.Cleanup(func() {
		if said := s.output(); t.Failed() { // the end says most
			t.Logf("the server of a failed test said:\n%s", said[max(0, len(said)-1<<12):])
		}
	})
	if o.plain {
		s.binary = plainBinary
	}
	to, preset := o.to, string(o.vendor)
	if to == "" {
		to = s.upstream.URL
	}
	if o.vendor == upstreamtest.Any {
		preset = to
	} else {
		o.upstream = "to " + to + "\n" + o.upstream
	}
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	store := "postgres " + place
	s.shared = o.database != ""
	if place == "" {
		if s.storeDir = o.store; s.storeDir == "" {
			s.storeDir = filepath.Join(s.dir, "store")
		}
		store = "badger " + s.storeDir
	}
	s.config = filepath.Join(s.dir, "Caddyfile")
	s.write(fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	log default {
		level INFO
	}
	till {
		store %s
		upstream mock %s {
			credential {env.MOCK_KEY}
			%s
		}
		%s
	}
	%s
}
http://:%s {
	%s
	till
}
%s
`, s.admin, store, preset, o.upstream, o.more, o.global, port, o.site, o.sites))
	t.Cleanup(s.stop) // also when it does not start
	s.start()
	return s
}

// store is the store's directory.
func (s *server) store() string {
	s.t.Helper()
	if s.storeDir == "" {
		s.t.Fatal("the store is a database: a test of the directory's files belongs in badgersFiles")
	}
	return s.storeDir
}

func (s *server) write(caddyfile string) {
	s.t.Helper()
	if err := os.WriteFile(s.config, []byte(caddyfile), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// replace changes the configuration; a reload or restart takes it up.
func (s *server) replace(old, new string) {
	s.t.Helper()
	b, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.Count(string(b), old) != 1 {
		s.t.Fatalf("%q does not stand once in\n%s", old, b)
	}
	s.write(strings.Replace(string(b), old, new, 1))
}

// freePort is an address that nothing listens on, and that is given to no other test,
// of this process or of another that runs these tests at the same time.
// It is below those that systems give to connections by themselves (Linux:
// net.ipv4.ip_local_port_range), so none takes it before its server does, or while
// the server restarts.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := 12_000 + rand.IntN(20_000)
		if _, given := ports.LoadOrStore(port, true); given {
			continue
		}
		// The claim comes first: who tried a port that another process has claimed would
		// listen on it just when the server of that one wants to.
		if runtime.GOOS == "linux" { // a name that is as wide as the port: see unix(7), "abstract"
			claim, err := net.Listen("unix", "@till-test-port-"+strconv.Itoa(port))
			if err != nil {
				continue
			}
			t.Cleanup(func() { _ = claim.Close() }) // nobody connects to it
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return address
	}
	t.Fatal("no port is free")
	return ""
}

var ports sync.Map // those that freePort gave

// eventually polls until ok, and fails the test with the server's log when it
// never is.
func (s *server) eventually(what string, ok func() bool) {
	s.t.Helper()
	began := time.Now()
	for pause := time.Millisecond; !ok(); pause = min(2*pause, max(30*time.Millisecond, time.Since(began)/30)) {
		if time.Since(began) > patience {
			s.t.Fatalf("in %s never: %s\n%s", patience, what, s.lastLines())
		}
		time.Sleep(pause) // between two looks, which may cost as much as what is waited for
	}
}

const chatBody = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`

// request is a chat request with the key; header is name, value, name, ….
func (s *server) request(ctx context.Context, key string, header ...string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, "POST", "http://"+s.addr+"/v1/chat/completions", strings.NewReader(chatBody))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// chat makes a chat request and returns its status; 0 when no answer came.
func (s *server) chat(key string, header ...string) int {
	res, err := s.client.Do(s.request(context.Background(), key, header...))
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0
	}
	return res.StatusCode
}

// must returns the answer to r with its whole body.
func (s *server) must(r *http.Request) (*http.Response, string) {
	s.t.Helper()
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		s.t.Fatal(err)
	}
	return res, string(b)
}

// adminPage is what Caddy's admin endpoint shows at a path.
func (s *server) adminPage(path string) string {
	s.t.Helper()
	r, err := http.NewRequest("GET", "http://"+s.admin+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	_, text := s.must(r)
	return text
}

// clean fails the test when the stand-in saw anything that it should not, but
// for what is excused.
func (s *server) clean(excused ...string) {
	s.t.Helper()
	for _, v := range s.upstream.Violations() {
		if !slices.ContainsFunc(excused, func(e string) bool { return strings.Contains(v, e) }) {
			s.t.Error("at the upstream: ", v)
		}
	}
}

// port is that of an address.
func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
