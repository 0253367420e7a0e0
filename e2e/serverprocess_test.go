package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// raceOptions end a program at its first race. Without one it would wait for a second
// at its end, in case another thread is about to report one: a call of the command line
// would take longer than all that it does.
const raceOptions = "halt_on_error=1 atexit_sleep_ms=20"

// command is Caddy with the server's environment.
func (s *server) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.binary, args...)
	endWithTests(cmd)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, "HOME="+s.dir,
		"MOCK_KEY="+realKey, "TILL_ADDRESS="+s.admin, "TILL_DATA=", "GORACE="+raceOptions)
	if s.env != "" {
		cmd.Env = append(cmd.Env, s.env)
	}
	return cmd
}

// launch runs Caddy.
func (s *server) launch() {
	s.t.Helper()
	cmd := s.command("run", "--config", s.config)
	cmd.Stdout, cmd.Stderr = &locked{s}, &locked{s}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.cmd = cmd
	s.mu.Unlock()
}

// start runs Caddy and waits until it answers.
func (s *server) start() {
	s.t.Helper()
	s.launch()
	s.eventually("Caddy answers", func() bool {
		res, err := s.client.Get("http://" + s.admin + "/till/stats")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		// A store in doubt is closed, and the API answers all the same; so it does while
		// a database is away.
		return err == nil && (res.StatusCode == http.StatusOK || strings.Contains(string(answer), "repair --forfeit") ||
			s.shared && !strings.Contains(string(answer), "not_configured"))
	})
}

// locked is the process's output, readable while it runs.
type locked struct{ s *server }

func (l *locked) Write(b []byte) (int, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.s.log.Write(b)
}

func (s *server) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// says waits until the process has written a text: its answer to a request may come
// before what it writes about it.
func (s *server) says(text string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("the log says %q", text), func() bool { return strings.Contains(s.output(), text) })
}

// lastLines is the end of the output, for the report of a test that failed.
func (s *server) lastLines() string {
	lines := strings.SplitAfter(s.output(), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, `"received request"`) })
	return strings.Join(lines[max(0, len(lines)-40):], "")
}

// signal sends a signal to the process, which may go on.
func (s *server) signal(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return os.ErrProcessDone
	}
	return s.cmd.Process.Signal(signal)
}

// end sends a signal and waits until the process has ended.
func (s *server) end(signal syscall.Signal) {
	s.mu.Lock()
	cmd := s.cmd
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if err := cmd.Process.Signal(signal); err != nil {
		s.t.Errorf("signal %v: %v", signal, err)
	}
	err := cmd.Wait()
	s.client.CloseIdleConnections() // they lead nowhere
	if signal != syscall.SIGKILL && err != nil {
		s.t.Errorf("Caddy ended with %v\n%s", err, s.lastLines())
	}
	if strings.Contains(s.output(), "DATA RACE") {
		s.t.Errorf("a data race:\n%s", s.output())
	}
}

func (s *server) stop()  { s.end(syscall.SIGTERM) }
func (s *server) kill9() { s.end(syscall.SIGKILL) }

// reload reloads the configuration through the command line.
func (s *server) reload() {
	s.t.Helper()
	if out, err := s.tryReload(); err != nil {
		s.t.Errorf("reload: %v\n%s", err, out)
	}
	s.oldEndpointIsGone()
}

// tryReload returns what the command of a reload says, which may be refused.
func (s *server) tryReload() (out string, err error) {
	for range 100 {
		b, err := s.command("reload", "--config", s.config, "--address", s.admin, "--force").CombinedOutput()
		if out = string(b); err == nil || !lostAtReload(out) {
			return out, err
		}
	}
	return out, errors.New("the admin endpoint has not answered")
}

// oldEndpointIsGone waits until nothing listens any more that a reload replaced: the
// admin endpoint, which Caddy closes after it has answered the reload, and the sites,
// which it may still be about to close by then. Until they are gone what connects may be
// served by the old configuration, or be reset.
func (s *server) oldEndpointIsGone() {
	s.t.Helper()
	if runtime.GOOS == "linux" {
		s.eventually("one socket listens at each address", func() bool { return !s.listensTwice() })
	}
	s.client.CloseIdleConnections() // the server closes them, some time later
}

// listensTwice reports whether two sockets listen at one address of the configuration,
// as proc_net(5) lists them.
func (s *server) listensTwice() bool {
	s.t.Helper()
	config, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			const local, state, listen = 1, 3, "0A"
			f := strings.Fields(line)
			if len(f) <= state || f[state] != listen {
				continue
			}
			_, hex, _ := strings.Cut(f[local], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err != nil {
				s.t.Fatal(err)
			}
			if !bytes.Contains(config, fmt.Appendf(nil, ":%d", port)) {
				continue
			}
			if seen[f[local]] {
				return true
			}
			seen[f[local]] = true
		}
	}
	return false
}

// lostAtReload reports whether a call of the admin endpoint met the end of the
// one that a reload replaced. Caddy has a socket for each, and what waited on
// the old one is lost with it, so such calls are made again: see
// docs/runbooks.md. The error depends on what the client was doing just then: reading,
// writing, or nothing yet.
func lostAtReload(what string) bool {
	return slices.ContainsFunc([]string{"EOF", "connection reset by peer", "broken pipe", "server closed idle connection"}, func(end string) bool {
		return strings.Contains(what, end)
	})
}

// reloadByAPI does the same by Caddy's own API, without a process of its own,
// so that many fit into a second.
func (s *server) reloadByAPI() {
	s.t.Helper()
	b, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Error(err)
		return
	}
	r, err := http.NewRequest("POST", "http://"+s.admin+"/load", bytes.NewReader(b))
	if err != nil {
		s.t.Error(err)
		return
	}
	r.Close = true // the endpoint is replaced, and its connections with it
	r.Header.Set("Content-Type", "text/caddyfile")
	r.Header.Set("Cache-Control", "must-revalidate") // although nothing has changed
	res, err := s.client.Do(r)
	for tries := 0; err != nil && tries < 100 && lostAtReload(err.Error()); tries++ {
		r.Body = io.NopCloser(bytes.NewReader(b))
		res, err = s.client.Do(r)
	}
	if err != nil {
		s.t.Errorf("reload: %v\n%s", err, s.lastLines())
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(res.Body)
		s.t.Errorf("reload: %s %s %v", res.Status, answer, err)
	}
	s.oldEndpointIsGone()
}

// syncBuffer is a buffer that can be read while a process writes it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
