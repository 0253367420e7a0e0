// Package postgrestest starts PostgreSQL servers for tests, each in a temporary
// directory of its own. It needs PostgreSQL's programs, and no running server.
package postgrestest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// User may do everything on a server, and needs no password.
const User = "till_test"

// Server is a running PostgreSQL.
type Server struct {
	dir  string // with data, the socket and the log
	mu   sync.Mutex
	proc *exec.Cmd
	hold io.Closer // as long as this is open, the server runs
}

var (
	shared     *Server
	sharedErr  error
	sharedOnce sync.Once
	schemas    atomic.Int64
)

// Main runs the tests of a package, and ends the server that they shared. Unless -parallel
// says how many run at a time, there are twice as many as processors: mostly tests wait, as
// for a session to expire.
func Main(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := End(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// End ends the server that tests shared, in a package with a TestMain of its own.
func End() error {
	var err error
	if shared != nil {
		err = shared.remove()
	}
	return errors.Join(err, endTemplate())
}

// Schema returns the address of the server that all tests of the process share, and the
// name of a schema that no other test has. TestMain calls Main or End.
func Schema(t testing.TB) (dsn, schema string) {
	t.Helper()
	return Shared(t).DSN(), fmt.Sprintf("t%d", schemas.Add(1))
}

// Shared is the server that all tests of the process share.
func Shared(t testing.TB) *Server {
	t.Helper()
	// Tests that run side by side have dozens of nodes with several connections each.
	sharedOnce.Do(func() { shared, sharedErr = start("max_connections = 300") })
	if sharedErr != nil {
		t.Fatal(sharedErr)
	}
	return shared
}

// Start starts a server for one test, which may do anything with it.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := start(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// DSN is the address of the server's database.
func (s *Server) DSN() string { return s.As(User, "") }

// As is DSN for another user. Users other than User need their password.
func (s *Server) As(user, password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Path: "/postgres"}
	u.RawQuery = url.Values{"host": {s.dir}}.Encode()
	return u.String()
}

// Socket is the path of the server's socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, ".s.PGSQL.5432") }

// Data is the server's data directory.
func (s *Server) Data() string { return filepath.Join(s.dir, "data") }

func start(settings ...string) (*Server, error) {
	dir, err := makeDir()
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	from, err := template()
	if err == nil {
		err = copyData(from.Data(), s.Data())
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	err = s.append("pg_hba.conf", "local all "+User+" trust\nlocal replication "+User+" trust\nlocal all all scram-sha-256\n", true)
	if err == nil {
		err = s.Configure(append([]string{"listen_addresses = ''", "unix_socket_directories = '" + dir + "'", "wal_level = replica"}, settings...)...)
	}
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// Configure adds settings. They hold from the next start on.
func (s *Server) Configure(settings ...string) error {
	return s.append("postgresql.conf", strings.Join(settings, "\n")+"\n", false)
}

func (s *Server) append(name, text string, replace bool) error {
	path := filepath.Join(s.Data(), name)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if replace {
		b = nil
	}
	if err := os.WriteFile(path, append(b, text...), 0o600); err != nil {
		return err
	}
	return own(path)
}

// supervise runs the server until its input is closed: when the test has ended, however
// it did.
const supervise = `"$@" & server=$!
read -r _
kill -QUIT $server 2>/dev/null
wait $server`

const startTimeout = 2 * time.Minute

// Start starts the server again, after Stop or Kill.
func (s *Server) Start() error {
	postgres, err := program("postgres")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd, hold, err := s.supervised(supervise, "log", postgres, "-D", s.Data())
	if err != nil {
		return err
	}
	s.proc, s.hold = cmd, hold
	if err := s.answers(s.DSN(), "log"); err != nil {
		return fmt.Errorf("PostgreSQL does not start: %w", err)
	}
	return nil
}

// supervised starts a program with a log in the server's directory. It runs until hold is
// closed, at the latest when this process ends.
func (s *Server) supervised(script, log string, program ...string) (cmd *exec.Cmd, hold io.Closer, err error) {
	out, err := os.OpenFile(filepath.Join(s.dir, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer out.Close()
	cmd = exec.Command("/bin/sh", append([]string{"-c", script, "supervise"}, program...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = s.dir, out, out, asServer()
	if hold, err = cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	return cmd, hold, cmd.Start()
}

// answers waits until somebody can connect. The error contains the log.
func (s *Server) answers(dsn, log string) error {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		c, err := pgconn.Connect(ctx, dsn)
		cancel()
		if err == nil {
			return c.Close(context.Background())
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(s.dir, log))
			return fmt.Errorf("%w\n%s", err, text)
		}
	}
}

// Kill ends the server at once, as a crash does, and returns when it has ended.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	err := s.hold.Close()
	if waitErr := s.proc.Wait(); waitErr != nil {
		var exit *exec.ExitError
		if !errors.As(waitErr, &exit) { // a server that is killed has no good exit code
			err = errors.Join(err, waitErr)
		}
	}
	s.proc = nil
	return err
}

func (s *Server) remove() error { return errors.Join(s.Kill(), os.RemoveAll(s.dir)) }

// Exec runs statements on the server, and returns the first column of the last one's
// rows.
func (s *Server) Exec(t testing.TB, sql string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := pgconn.Connect(ctx, s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var column []string
	for _, row := range results[len(results)-1].Rows {
		column = append(column, string(row[0]))
	}
	return column
}

// Run runs one of PostgreSQL's programs as the server's user, with the server's socket.
func (s *Server) Run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := s.output(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *Server) run(name string, args ...string) error {
	_, err := s.output(name, args...)
	return err
}

func (s *Server) output(name string, args ...string) ([]byte, error) {
	path, err := program(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, asServer()
	cmd.Env = append(os.Environ(), "PGHOST="+s.dir, "PGUSER="+User, "PGDATABASE=postgres", "LC_ALL=C")
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", name, err, out, failed.String())
	}
	return out, nil
}

// program finds one of PostgreSQL's programs. Debian keeps those of each version in a
// directory of its own.
func program(name string) (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // anything else is the oldest
		return n
	}
	if len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }), nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("PostgreSQL's %s is missing: install Debian's package postgresql", name)
	}
	return path, nil
}
