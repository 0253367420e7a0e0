package postgrestest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Pooler starts a pgbouncer in front of a server, which gives each transaction any of
// its connections, and returns its address.
func Pooler(t testing.TB, s *Server) (dsn string) {
	t.Helper()
	return pooler(t, s, "host="+s.dir)
}

// Pooler starts a pgbouncer on the machine of a server, in front of the network.
func (p *Proxy) Pooler(t testing.TB, s *Server) (dsn string) {
	t.Helper()
	at := p.listener.Addr().(*net.TCPAddr)
	return pooler(t, s, fmt.Sprintf("host=%s port=%d", at.IP, at.Port))
}

func pooler(t testing.TB, s *Server, server string) (dsn string) {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // not in everybody's PATH
		if _, err := os.Stat(path); err != nil {
			t.Fatal("pgbouncer is missing: install Debian's package pgbouncer")
		}
	}
	config := filepath.Join(s.dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
postgres = %s user=%s
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = transaction
default_pool_size = 10
ignore_startup_parameters = extra_float_digits
server_tls_sslmode = disable
server_login_retry = 1
`, server, User, s.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := own(config); err != nil {
		t.Fatal(err)
	}
	// It would wait for its clients if it were asked to stop.
	end := strings.Replace(supervise, "-QUIT", "-KILL", 1)
	cmd, hold, err := s.supervised(end, "pgbouncer.log", path, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		cmd.Wait()
	})
	u := url.URL{Scheme: "postgres", User: url.UserPassword(User, "any"), Path: "/postgres"}
	u.RawQuery = url.Values{"host": {s.dir}, "port": {"6432"}, "sslmode": {"disable"}}.Encode()
	if err := s.answers(u.String(), "pgbouncer.log"); err != nil {
		t.Fatalf("pgbouncer does not start: %v", err)
	}
	return u.String()
}
