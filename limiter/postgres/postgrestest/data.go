package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// template holds the data that initdb makes, which takes seconds on a busy machine: each
// server of this process begins with a copy.
var template = sync.OnceValues(func() (*Server, error) {
	dir, err := makeDir()
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	// It is removed when the input is closed: once this process has ended, however it did.
	remove := exec.Command("/bin/sh", "-c", `read -r _; rm -rf "$1"`, "remove", dir)
	remove.SysProcAttr = asServer()
	remove.SysProcAttr.Credential = nil
	hold, err := remove.StdinPipe()
	if err == nil {
		err = remove.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	endTemplate = func() error { return errors.Join(hold.Close(), remove.Wait()) }
	return s, s.run("initdb", "--pgdata", s.Data(), "--username", User, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
})

// endTemplate removes the template, if there is one, before this process ends. It also
// holds the input of the shell that removes it otherwise.
var endTemplate = func() error { return nil }

// copyData copies a data directory that no running server uses.
func copyData(from, to string) error {
	cmd := exec.Command("cp", "-a", from, to)
	cmd.SysProcAttr = asServer()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w\n%s", from, err, out)
	}
	return nil
}

// Backup copies the server's data, as they are: with pg_basebackup while it runs, and
// file by file while it does not. Restore puts the copy in their place, and starts the
// server with it.
func (s *Server) Backup(t testing.TB) (restore func()) {
	t.Helper()
	backup := filepath.Join(s.dir, "backup")
	s.mu.Lock()
	runs := s.proc != nil
	s.mu.Unlock()
	if runs {
		s.Run(t, "pg_basebackup", "--pgdata", backup, "--checkpoint=fast", "--no-sync")
	} else if err := copyData(s.Data(), backup); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(s.Kill(), os.RemoveAll(s.Data()), os.Rename(backup, s.Data()), s.Start()); err != nil {
			t.Fatal(err)
		}
	}
}

// SkewClock sets the clock of the server's database off the machine's by an interval such
// as "-5 hours", for connections that are made from now on.
func (s *Server) SkewClock(t testing.TB, by string) {
	t.Helper()
	s.Exec(t, `CREATE SCHEMA skewed;
		CREATE FUNCTION skewed.now() RETURNS timestamptz STABLE LANGUAGE sql AS $$ SELECT pg_catalog.now() + interval '`+by+`' $$;
		CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS $$ SELECT pg_catalog.clock_timestamp() + interval '`+by+`' $$;
		ALTER DATABASE postgres SET search_path = skewed, pg_catalog`)
}
