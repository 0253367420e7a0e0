package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

// TestALostAnswerToACommitIsFoundOut: Update returns what has become of the commit, never
// that it does not know, and the next one goes on from there.
func TestALostAnswerToACommitIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault postgrestest.Commit
		delay time.Duration
		rows  bool
		runs  int // of the function
	}{
		"before it reaches the server":            {fault: postgrestest.CutBefore, runs: 2},
		"after it has":                            {fault: postgrestest.CutAfter, runs: 1},
		"while the server waits for it":           {fault: postgrestest.CutAndDelay, delay: 300 * time.Millisecond, runs: 1},
		"and the server no longer waits":          {fault: postgrestest.CutAndDelay, delay: 3 * time.Second, runs: 2},
		"of rows, before it reaches the server":   {fault: postgrestest.CutBefore, rows: true, runs: 2},
		"of rows, after it has":                   {fault: postgrestest.CutAfter, rows: true, runs: 1},
		"of rows, while the server waits for it":  {fault: postgrestest.CutAndDelay, delay: 300 * time.Millisecond, rows: true, runs: 1},
		"of rows, and the server no longer waits": {fault: postgrestest.CutAndDelay, delay: 3 * time.Second, rows: true, runs: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := postgrestest.Shared(t)
			_, schema := postgrestest.Schema(t)
			proxy := postgrestest.NewProxy(t, server)
			s := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
			put(t, s, "k/1", "")
			proxy.OnCommit(test.fault, test.delay)
			runs := 0
			fn := func(tx store.Tx) error {
				runs++
				b, err := tx.Get([]byte("k/1"))
				if err != nil {
					return err
				}
				return tx.Set([]byte("k/1"), append(b, 'x'))
			}
			var err error
			if test.rows {
				err = s.UpdateRows(store.Rows{Lock: [][]byte{[]byte("k/1")}}, fn)
			} else {
				err = s.Update(fn)
			}
			if err != nil {
				t.Fatal(err)
			}
			if proxy.Met() != 1 {
				t.Fatal("no commit met its fault")
			}
			if runs != test.runs {
				t.Errorf("it ran %d times, want %d", runs, test.runs)
			}
			if got := get(t, s, "k/1"); got != "x" {
				t.Errorf("the row is %q, want exactly one x", got)
			}
			if err := s.Update(fn); err != nil {
				t.Errorf("the next transaction: %v", err)
			}
		})
	}
}

// TestClosingEndsTheSearchForAnOutcome: a database that never comes back does not hold
// the process up.
func TestClosingEndsTheSearchForAnOutcome(t *testing.T) {
	t.Parallel()
	server := postgrestest.Shared(t)
	_, schema := postgrestest.Schema(t)
	proxy := postgrestest.NewProxy(t, server)
	s := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	put(t, s, "k/1", "")
	proxy.OnCommit(postgrestest.CutAfter, 0)
	proxy.Refuse()
	done := make(chan error, 1)
	go func() {
		done <- s.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("x")) })
	}()
	eventually(t, "the commit has met its fault", func() bool { return proxy.Met() == 1 })
	select {
	case err := <-done:
		t.Fatalf("Update returned %v, and nobody can know", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Update returned %v, want an error that claims nothing", err)
	}
}
