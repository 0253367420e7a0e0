package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/till-proxy/till"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

// asCaddy makes this test binary a Caddy with till: a process can have only one
// Caddy, and `up` is about a process.
const asCaddy = "TILL_TEST_AS_CADDY"

func TestMain(m *testing.M) {
	// The watcher of a run is this binary, too, and has no environment that could
	// say so.
	if os.Getenv(asCaddy) != "" || len(os.Args) > 1 && os.Args[1] == "till" {
		caddycmd.Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience bounds every wait. It only decides when a hang is reported.
const patience = 5 * time.Minute

// machine is an environment for commands, with its own home directory and no
// provider's key.
type machine struct {
	t    *testing.T
	data string
	env  []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	home := t.TempDir()
	m := &machine{t: t, data: filepath.Join(home, "data")}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "TILL_") && !strings.HasPrefix(name, "XDG_") && !provider(name) {
			m.env = append(m.env, pair)
		}
	}
	m.env = append(m.env, asCaddy+"=1", "HOME="+home, "TILL_DATA="+m.data, "GORACE=halt_on_error=1 atexit_sleep_ms=20")
	return m
}

// provider reports whether a variable belongs to a provider's clients.
func provider(name string) bool {
	for _, p := range upstream.All() {
		if slices.Contains(p.KeyEnv, name) || slices.ContainsFunc(p.ClientEnv, func(v upstream.ClientVar) bool { return v.Name == name }) {
			return true
		}
	}
	return false
}

func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{"till"}, args...)...)
	cmd.Env = m.env
	return cmd
}

// till runs one command to its end.
func (m *machine) till(args ...string) (out, errOut string, code int) {
	m.t.Helper()
	var o, e bytes.Buffer
	cmd := m.command(args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// running is a process of `caddy till up`.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *lockedBuffer
	said greeting
}

type greeting struct {
	BaseURL   string              `json:"base_url"`
	Address   string              `json:"address"`
	Data      string              `json:"data"`
	Upstreams []wire.UpstreamInfo `json:"upstreams"`
	Console   *struct {
		URL       string    `json:"url"`
		ExpiresAt time.Time `json:"expires_at"`
	} `json:"console"`
	Key *struct {
		ID, Name, Upstream string
		ScopedKey          string `json:"scoped_key"`
	} `json:"key"`
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// up starts a server and reads its greeting. A port that it has found free may be another
// process's a moment later.
func (m *machine) up(env ...string) *running {
	m.t.Helper()
	for {
		r, err := m.tryUp(env...)
		if err == nil {
			return r
		}
		if !strings.Contains(r.log.String(), "address already in use") {
			m.t.Fatalf("up said nothing: %v: %s", err, r.log)
		}
	}
}

func (m *machine) tryUp(env ...string) (*running, error) {
	m.t.Helper()
	r := &running{t: m.t, cmd: m.command("up", "--json", "--listen", "127.0.0.1:0", "--console", "127.0.0.1:0"), log: new(lockedBuffer)}
	r.cmd.Env = append(r.cmd.Env, env...)
	r.cmd.Stderr = r.log
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
	})
	err = json.NewDecoder(out).Decode(&r.said)
	if err != nil {
		_ = r.cmd.Wait() // its log says why
	}
	return r, err
}

// end sends a signal and returns the exit code.
func (r *running) end(s syscall.Signal) int {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = r.cmd.Process.Kill() })
	defer timer.Stop()
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Error(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// chat asks for an answer, again while the server's disk is too busy for that.
func (r *running) chat(key string) (status int, body string) {
	r.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		status, body = r.chatOnce(key)
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "till_store_unavailable") || time.Now().After(end) {
			return status, body
		}
	}
}

func (r *running) chatOnce(key string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequest("POST", r.said.BaseURL+"/v1/chat/completions", strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"ping"}]}`))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// config returns the configuration that Caddy's admin endpoint shows.
func (r *running) config() string {
	r.t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(r.said.Address, "unix/"))
		},
	}}
	res, err := c.Get("http://127.0.0.1/config/")
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}
