package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

func TestFreshIsReadWithoutAllocating(t *testing.T) {
	dsn, schema := postgrestest.Schema(t)
	s := open(t, postgres.Options{DSN: dsn, Schema: schema, Node: "one"}, nil)
	if n := testing.AllocsPerRun(100_000, func() { // so many that what the store does beside them does not count
		if err := s.Fresh(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFresh(b *testing.B) {
	dsn, schema := postgrestest.Schema(b)
	s, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn, Schema: schema, Node: "one"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Join(&follower{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Fresh(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestANodeThatIsCutOffIsStaleInTime: it refuses before its session has expired, and the
// others wait for it no longer than that. Once it is back it reads everything again, or
// at least what another has changed: a renewal that was on its way may arrive only now, and
// then the database does not call the next one late.
func TestANodeThatIsCutOffIsStaleInTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cut    func(*postgrestest.Proxy)
		caught func(*follower) bool
	}{
		"connections end": {(*postgrestest.Proxy).Cut, func(f *follower) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.missed > 0
		}},
		"connections go dead": {(*postgrestest.Proxy).Hold, func(f *follower) bool { return f.caughtUp("f/1") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, schema, proxy := ownNetwork(t)
			f := &follower{}
			one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
			two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
			start := time.Now()
			test.cut(proxy)
			put(t, two, "f/1", "")
			behind, err := two.Settled(time.Minute)
			if err != nil || len(behind) != 0 {
				t.Fatalf("Settled: %q, %v", behind, err)
			}
			// Nobody waits for the other node any more: so it must know by now.
			if err := one.Fresh(); !errors.Is(err, store.ErrStale) {
				t.Errorf("the node that is cut off says: %v", err)
			}
			t.Logf("the session has expired after %v", time.Since(start))
			eventually(t, "Stale is told", func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				return len(f.stale) > 0
			})
			proxy.Heal()
			eventually(t, "it is fresh again", func() bool { return one.Fresh() == nil })
			if !test.caught(f) {
				t.Error("it is fresh, and has not read what another has changed")
			}
		})
	}
}

// TestANodeIsWaitedForThoughTheDatabasesClockJumps: it is cut off, and counts its time by
// itself.
func TestANodeIsWaitedForThoughTheDatabasesClockJumps(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	f := &follower{}
	one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	defer proxy.Heal() // or the node would not close quickly
	proxy.Hold()
	server.Exec(t, "UPDATE "+schema+".session SET expires = expires - interval '1 min', seen = seen - interval '1 min' WHERE name = 'one'")
	put(t, two, "f/1", "")
	if behind, err := two.Settled(time.Minute); err != nil || len(behind) != 0 {
		t.Fatalf("Settled: %q, %v", behind, err)
	}
	if err := one.Fresh(); !errors.Is(err, store.ErrStale) {
		t.Errorf("the node that has not followed says: %v", err)
	}
	proxy.Heal()
	eventually(t, "it is fresh again", func() bool { return one.Fresh() == nil })
	if !f.caughtUp("f/1") {
		t.Error("it is fresh, and has not read what another has changed")
	}
}

// TestANodeFindsADatabaseAgainThatIsFarAway: a connection takes several round trips, and where
// the node could work with the ones that it had, it can make others.
func TestANodeFindsADatabaseAgainThatIsFarAway(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	s := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	proxy.Slow(postgrestest.Latency{Delay: 250 * time.Millisecond})
	proxy.Lead(server) // as it did, over other connections
	lost := server.Exec(t, "SELECT now()")[0]
	eventually(t, "the session is renewed", func() bool {
		return server.Exec(t, "SELECT seen > '"+lost+"' FROM "+schema+".session")[0] == "t"
	})
	eventually(t, "the node is fresh", func() bool { return s.Fresh() == nil })
}

// warnings counts the warnings with a text.
type warnings struct {
	slog.Handler
	text string
	n    atomic.Int64
}

// Enabled implements slog.Handler.
func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Message == w.text {
		w.n.Add(1)
	}
	return nil
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func TestARenewalThatFailsIsReportedOnceASecond(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	w := &warnings{Handler: slog.DiscardHandler, text: "renewing this node's session"}
	s := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one", Log: slog.New(w)}, nil)
	start := time.Now() // and not when the first is seen, which may be as late as the second
	server.Exec(t, "ALTER TABLE "+schema+".leader RENAME TO away")
	eventually(t, "it has failed for some time", func() bool { return w.n.Load() > 3 })
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("4 warnings in %s", took)
	}
	server.Exec(t, "ALTER TABLE "+schema+".away RENAME TO leader")
	eventually(t, "it succeeds again", func() bool { return s.Fresh() == nil })
}

func TestANodeThatFallsSilentInATransactionHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	put(t, two, "k/1", "")
	proxy.OnCommit(postgrestest.CutAndDelay, time.Hour)
	proxy.RefuseAtCommit() // it cannot help itself
	done := make(chan error, 1)
	go func() {
		done <- update(func() error {
			return one.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("one")) })
		})
	}()
	eventually(t, "it has fallen silent", func() bool { return proxy.Met() == 1 })
	put(t, two, "k/2", "two")
	if got := get(t, two, "k/1"); got != "" {
		t.Errorf("the row is %q", got)
	}
	proxy.Heal()
	if err := <-done; err != nil {
		t.Errorf("the node that comes back: %v", err)
	}
	if got := get(t, two, "k/1"); got != "one" {
		t.Errorf("the row is %q", got)
	}
}

// fallSilent sends a part of a round trip that writes rows, and nothing more: so do nodes
// whose network dies at that moment, and the server never learns of it.
func fallSilent(t *testing.T, server *postgrestest.Server, sql string) {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Conn().Close() })
	p := c.StartPipeline(t.Context())
	p.SendQueryParams("BEGIN", nil, nil, nil, nil)
	p.SendQueryParams(sql, nil, nil, nil, nil)
	p.SendFlushRequest()
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		result, err := p.GetResults()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := result.(*pgconn.ResultReader).Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestANodeThatFallsSilentInARenewalHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"of the leader":                "UPDATE %s.leader SET until = until",
		"on a connection that it lost": "UPDATE %s.session SET seen = seen",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, schema, s := ownNode(t)
			eventually(t, "the node leads", s.Leads)
			fallSilent(t, server, fmt.Sprintf(sql, schema))
			silent := server.Exec(t, "SELECT now()")[0]
			eventually(t, "its session is renewed", func() bool {
				return server.Exec(t, "SELECT seen > '"+silent+"' FROM "+schema+".session")[0] == "t"
			})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			fallSilent(t, server, fmt.Sprintf(sql, schema))
			open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
		})
	}
}

func TestTheClockIsTheDatabasesAndNeverGoesBack(t *testing.T) {
	t.Parallel()
	dsn, schema := postgrestest.Schema(t)
	s := open(t, postgres.Options{DSN: dsn, Schema: schema, Node: "one"}, nil)
	last, steady := s.Clock().Now()
	if off := time.Since(last).Abs(); off > time.Minute {
		t.Errorf("it is %v off, and the server is on this machine", off)
	}
	for range 10000 {
		now, elapsed := s.Clock().Now()
		if now.Before(last) || elapsed < steady {
			t.Fatalf("%v after %v, %v after %v", now, last, elapsed, steady)
		}
		last, steady = now, elapsed
	}
}
