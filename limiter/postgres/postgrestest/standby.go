package postgrestest

import (
	"errors"
	"testing"
	"time"
)

// Standby starts a second server, which receives what this one commits for as long as
// both run, and is read only.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	dir, err := makeDir()
	if err != nil {
		t.Fatal(err)
	}
	standby := &Server{dir: dir}
	t.Cleanup(func() {
		if err := standby.remove(); err != nil {
			t.Error(err)
		}
	})
	s.Run(t, "pg_basebackup", "--pgdata", standby.Data(), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	if err := errors.Join(standby.Configure("unix_socket_directories = '"+dir+"'"), standby.Start()); err != nil {
		t.Fatal(err)
	}
	return standby
}

// CaughtUp waits until a standby has all that this server has committed.
func (s *Server) CaughtUp(t testing.TB, standby *Server) {
	t.Helper()
	at := s.Exec(t, "SELECT pg_current_wal_flush_lsn()")[0]
	for deadline := time.Now().Add(startTimeout); standby.Exec(t, "SELECT pg_last_wal_replay_lsn() >= '"+at+"'")[0] != "t"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the standby does not catch up")
		}
	}
}

// Promote lets a standby be written to.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	if promoted := s.Exec(t, "SELECT pg_promote(true, 120)"); promoted[0] != "t" {
		t.Fatal("the standby was not promoted in time")
	}
}

// Lag lets a standby receive nothing more from its primary.
func (s *Server) Lag(t testing.TB) {
	t.Helper()
	s.Exec(t, "ALTER SYSTEM SET primary_conninfo = ''")
	s.Exec(t, "SELECT pg_reload_conf()")
	for deadline := time.Now().Add(startTimeout); s.Exec(t, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")[0] != "t"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the standby receives on")
		}
	}
}
