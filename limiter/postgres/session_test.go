package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
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
// others wait for it no longer than that. Once it is back it reads everything again.
func TestANodeThatIsCutOffIsStaleInTime(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*postgrestest.Proxy){
		"connections end":     (*postgrestest.Proxy).Cut,
		"connections go dead": (*postgrestest.Proxy).Hold,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, schema, proxy := ownNetwork(t)
			f := &follower{}
			one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
			two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
			start := time.Now()
			cut(proxy)
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
				return len(f.stale) == 1
			})
			proxy.Heal()
			eventually(t, "it is fresh again", func() bool { return one.Fresh() == nil })
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.missed == 0 {
				t.Error("it was not told that it missed something")
			}
		})
	}
}

// TestANodeIsWaitedForThoughTheDatabasesClockJumps: it is cut off, and counts its time by
// itself.
func TestANodeIsWaitedForThoughTheDatabasesClockJumps(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	proxy.Hold()
	server.Exec(t, "UPDATE "+schema+".session SET expires = expires - interval '1 min', seen = seen - interval '1 min' WHERE name = 'one'")
	put(t, two, "f/1", "")
	if behind, err := two.Settled(time.Minute); err != nil || len(behind) != 0 {
		t.Fatalf("Settled: %q, %v", behind, err)
	}
	if err := one.Fresh(); !errors.Is(err, store.ErrStale) {
		t.Errorf("the node that has not followed says: %v", err)
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

func TestAProcessThatWasKilledLeavesItsNameAtOnce(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	f := &follower{}
	first := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	put(t, first, "k/1", "first")
	proxy.Cut() // as when its process is gone
	second := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
	nodes, err := second.Nodes()
	if err != nil || len(nodes) != 1 || !nodes[0].Live {
		t.Fatalf("%+v, %v", nodes, err)
	}
	put(t, second, "k/1", "second")
	// The first comes back: it was no kill, and two have one name.
	proxy.Heal()
	eventually(t, "the first is refused", func() bool {
		err := first.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("first again")) })
		return err != nil && !errors.Is(err, store.ErrUnavailable)
	})
	err = first.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("first again")) })
	if err == nil || !strings.Contains(err.Error(), "another process has taken this node's name") {
		t.Errorf("Update of the first: %v", err)
	}
	if err := first.Fresh(); err == nil {
		t.Error("the first is fresh")
	}
	if got := get(t, second, "k/1"); got != "second" {
		t.Errorf("the row is %q", got)
	}
}

func TestANameWhoseConnectionIsHalfOpenIsFreeOnceItsSessionHasExpired(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	first := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	put(t, first, "k/1", "first")
	proxy.Hold()
	second := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
	if err := first.Fresh(); err == nil {
		t.Error("two have one name, and both are fresh")
	}
	put(t, second, "k/1", "second")
}

func TestANameOfALivingProcessIsRefused(t *testing.T) {
	t.Parallel()
	dsn, schema := postgrestest.Schema(t)
	open(t, postgres.Options{DSN: dsn, Schema: schema, Node: "one"}, nil)
	second, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn, Schema: schema, Node: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Join(&follower{}); err == nil || !strings.Contains(err.Error(), "a process with this name is alive") {
		t.Errorf("Join: %v", err)
	}
}

// TestALivingProcessKeepsItsNameOverALostConnection: the server may hold the former one, and
// the lock of the name with it, for longer than the process needs to connect again.
func TestALivingProcessKeepsItsNameOverALostConnection(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	named := server.DSN() + "&application_name=" + schema // the connection that listens
	first := open(t, postgres.Options{DSN: server.DSN(), Listen: named, Schema: schema, Node: "one"}, nil)
	former, err := pgconn.Connect(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer former.Close(context.Background())
	// The lock goes from the process to this connection.
	held := "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND a.application_name = '" + schema + "'"
	lock := server.Exec(t, "SELECT (l.classid::int8 << 32) | l.objid::int8 "+held)
	if len(lock) != 1 {
		t.Fatalf("the process holds the locks %q", lock)
	}
	var got sync.WaitGroup
	got.Go(func() {
		if _, err := former.Exec(t.Context(), "SELECT pg_advisory_lock("+lock[0]+")").ReadAll(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "it waits for the lock", func() bool {
		return server.Exec(t, "SELECT count(*) FROM pg_locks WHERE pid = "+fmt.Sprint(former.PID())+" AND NOT granted")[0] == "1"
	})
	server.Exec(t, "SELECT pg_terminate_backend(pid) "+held)
	got.Wait()
	renewed := func() {
		t.Helper()
		now := server.Exec(t, "SELECT now()")[0]
		eventually(t, "the session is renewed", func() bool {
			return server.Exec(t, "SELECT seen > '"+now+"' FROM "+schema+".session")[0] == "t"
		})
	}
	renewed() // over another connection
	if err := former.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	renewed()
	renewed()
	second, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Join(&follower{}); err == nil || !strings.Contains(err.Error(), "a process with this name is alive") {
		t.Errorf("Join of a second process: %v", err)
	}
	put(t, first, "k/1", "first")
}

func TestWhatWasPrunedFromTheFeedIsMissed(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	f := &follower{}
	one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	proxy.Cut()
	for i := range 3 {
		put(t, two, fmt.Sprintf("f/%d", i), "")
	}
	server.Exec(t, "DELETE FROM "+schema+".feed WHERE seq < 3")
	proxy.Heal()
	eventually(t, "it has read everything again", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.missed > 0
	})
	eventually(t, "and is fresh", func() bool { return one.Fresh() == nil })
	put(t, two, "f/last", "")
	if behind, err := two.Settled(time.Minute); err != nil || len(behind) != 0 {
		t.Fatalf("Settled: %q, %v", behind, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.changed, "f/last") || slices.Contains(f.changed, "f/0") {
		t.Errorf("it was told of %q", f.changed)
	}
}

func TestTheLeaderPrunesWhatEveryNodeHasFollowed(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	one := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
	open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	for i := range 3 {
		put(t, one, fmt.Sprintf("f/%d", i), "")
	}
	server.Exec(t, "UPDATE "+schema+".feed SET at = at - interval '2 min' WHERE seq < 3")
	eventually(t, "only the last row is left", func() bool {
		return slices.Equal(server.Exec(t, "SELECT seq FROM "+schema+".feed"), []string{"3"})
	})
}

// TestAPruningRemovesABoundedPartOfTheFeed: it is part of a renewal, which must not take
// long, and a node that was slow to follow may have kept very many rows.
func TestAPruningRemovesABoundedPartOfTheFeed(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
	server.Exec(t, "INSERT INTO "+schema+".feed (seq, node, keys, at) SELECT i, 'two', '{}', now() - interval '2 min' FROM generate_series(1, 12000) i")
	left := 12000
	eventually(t, "only the last row is left", func() bool {
		n, err := strconv.Atoi(server.Exec(t, "SELECT count(*) FROM "+schema+".feed")[0])
		if err != nil {
			t.Fatal(err)
		}
		if left-n > 5000 {
			t.Errorf("%d rows were removed at once", left-n)
		}
		left = n
		return n == 1
	})
}

// warnings counts the warnings with a text.
type warnings struct {
	slog.Handler
	text string
	n    atomic.Int64
}

// Handle implements slog.Handler.
func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Message == w.text {
		w.n.Add(1)
	}
	return nil
}

// Enabled implements slog.Handler.
func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func TestARenewalThatFailsIsReportedOnceASecond(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	w := &warnings{Handler: slog.DiscardHandler, text: "renewing this node's session"}
	s := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one", Log: slog.New(w)}, nil)
	server.Exec(t, "ALTER TABLE "+schema+".leader RENAME TO away")
	eventually(t, "a renewal has failed", func() bool { return w.n.Load() > 0 })
	start := time.Now()
	eventually(t, "it has failed for some time", func() bool { return w.n.Load() > 3 })
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("3 warnings in %s", took)
	}
	server.Exec(t, "ALTER TABLE "+schema+".away RENAME TO leader")
	eventually(t, "it succeeds again", func() bool { return s.Fresh() == nil })
}

func TestANodeThatHearsNoNotificationsAsksForThem(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	proxy.Mute()
	f := &follower{}
	open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	for i := range 3 {
		put(t, two, fmt.Sprintf("f/%d", i), "")
		if behind, err := two.Settled(time.Minute); err != nil || len(behind) != 0 {
			t.Fatalf("Settled: %q, %v", behind, err)
		}
	}
	eventually(t, "a recall", func() bool { // each may be lost
		two.Recall([]byte("an account"))
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Contains(f.recalls, "an account")
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.changed, []string{"f/0", "f/1", "f/2"}) || f.missed != 0 {
		t.Errorf("it was told of %q, and missed something %d times", f.changed, f.missed)
	}
}

func TestANodeThatFallsSilentInATransactionHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	put(t, two, "k/1", "")
	proxy.OnCommit(postgrestest.CutAndDelay, time.Hour)
	proxy.Refuse() // it cannot help itself
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
			server, schema := ownSchema(t)
			s := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
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

// restore replaces a schema by an older dump of it.
func restore(t *testing.T, server *postgrestest.Server, schema string, dump []byte) {
	t.Helper()
	forPsql := regexp.MustCompile(`(?m)^\\.*$`)
	// Of a node that is just using it, and this, the node gives way.
	server.Exec(t, "SET deadlock_timeout = '1min'; BEGIN; DROP SCHEMA "+schema+" CASCADE; "+forPsql.ReplaceAllString(string(dump), "")+"; COMMIT")
}

func TestADatabaseThatWentBackIsFoundOut(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	options := func(node string) postgres.Options {
		return postgres.Options{DSN: server.DSN(), Schema: schema, Node: node, Witness: filepath.Join(t.TempDir(), "witness")}
	}
	one, two, three := options("one"), options("two"), options("three")
	a, b := open(t, one, nil), open(t, two, nil)
	c := open(t, three, nil)
	put(t, a, "k/1", "a")
	dump := server.Run(t, "pg_dump", "--schema", schema, "--inserts", "--no-owner")
	put(t, a, "f/1", "b") // is lost
	if behind, err := a.Settled(time.Minute); err != nil || len(behind) != 0 {
		t.Fatalf("Settled: %q, %v", behind, err)
	}
	for range 2 { // the first renewal of its session from now on tells the other node; the second has been sent after that
		now := server.Exec(t, "SELECT now()")[0]
		eventually(t, "the other node knows of it", func() bool {
			return server.Exec(t, "SELECT seen > '"+now+"' FROM "+schema+".session WHERE name = 'two'")[0] == "t"
		})
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	restore(t, server, schema, dump)

	eventually(t, "a node that has lost nothing itself has doubts", func() bool { return errors.Is(b.Fresh(), store.ErrDoubt) })
	for name, err := range map[string]error{
		"Update":     b.Update(func(store.Tx) error { t.Error("it runs"); return nil }),
		"UpdateRows": b.UpdateRows(store.Rows{}, func(store.Tx) error { t.Error("it runs"); return nil }),
		"View":       b.View(func(store.Reader) error { t.Error("it runs"); return nil }),
	} {
		if !errors.Is(err, store.ErrDoubt) || !strings.Contains(err.Error(), "caddy till repair --forfeit") {
			t.Errorf("%s: %v", name, err)
		}
	}
	again, err := postgres.Open(context.Background(), one)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Join(&follower{}); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("the node whose commit is lost joins: %v", err)
	}
	// The third has lost nothing, and has seen nothing: it cannot know, and is told.
	eventually(t, "the doubt is in the database", func() bool {
		return server.Exec(t, "SELECT doubt IS NOT NULL FROM "+schema+".state")[0] == "t"
	})
	late, err := postgres.Open(context.Background(), three)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if err := late.Join(&follower{}); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("a node that cannot know joins: %v", err)
	}
}

func TestABatchFindsOutThatTheDatabaseWentBack(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	s := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
	put(t, s, "k/1", "a")
	server.Exec(t, "UPDATE "+schema+".node SET batch = 0")
	if err := s.Update(func(store.Tx) error { t.Error("it runs"); return nil }); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("Update: %v", err)
	}
	if err := s.Fresh(); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("Fresh: %v", err)
	}
}

// TestANodeThatHasLostTouchIsToldOfADoubt: it has cut what ran, and has yet to learn that
// nothing goes on by itself.
func TestANodeThatHasLostTouchIsToldOfADoubt(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	f := &follower{}
	s := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	put(t, s, "k/1", "a")
	told := func(what error) func() bool {
		return func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return slices.ContainsFunc(f.stale, func(err error) bool { return errors.Is(err, what) })
		}
	}
	proxy.Cut()
	eventually(t, "it is told that it has lost touch", told(store.ErrStale))
	server.Exec(t, "UPDATE "+schema+".node SET batch = 0")
	proxy.Heal()
	eventually(t, "it has a doubt", func() bool { return errors.Is(s.Fresh(), store.ErrDoubt) })
	eventually(t, "it is told of the doubt", told(store.ErrDoubt))
}

// TestASessionThatBeginsInAnOlderCopyIsDoubted: through a pooler, the transaction that begins
// it may be of another server than the one that was looked at before.
func TestASessionThatBeginsInAnOlderCopyIsDoubted(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	o := postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one", Witness: filepath.Join(t.TempDir(), "witness")}
	first := open(t, o, nil)
	put(t, first, "k/1", "a")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "CREATE FUNCTION "+schema+".older() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.batch = 0; RETURN NEW; END';"+
		"CREATE TRIGGER older BEFORE UPDATE ON "+schema+".node FOR EACH ROW EXECUTE FUNCTION "+schema+".older()")
	for range 2 { // the number that is lost is remembered
		again, err := postgres.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Join(&follower{}); !errors.Is(err, store.ErrDoubt) {
			t.Errorf("Join: %v, want ErrDoubt", err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		server.Exec(t, "UPDATE "+schema+".state SET doubt = NULL")
	}
}

// blocked holds up the first error that is logged, as a log does that nobody reads.
type blocked struct {
	slog.Handler
	first           sync.Once
	reached, unheld chan struct{}
}

func (b *blocked) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		b.first.Do(func() {
			close(b.reached)
			<-b.unheld
		})
	}
	return b.Handler.Handle(ctx, r)
}

func TestADoubtIsFeltBeforeItIsLogged(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	log := &blocked{Handler: slog.NewTextHandler(t.Output(), nil), reached: make(chan struct{}), unheld: make(chan struct{})}
	s := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one", Log: slog.New(log)}, nil)
	put(t, s, "k/1", "a")
	server.Exec(t, "UPDATE "+schema+".node SET batch = 0")
	var call sync.WaitGroup
	call.Go(func() {
		if err := s.Update(func(store.Tx) error { return nil }); !errors.Is(err, store.ErrDoubt) {
			t.Errorf("Update: %v", err)
		}
	})
	<-log.reached
	if err := s.Fresh(); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("while that is being logged, Fresh says %v", err)
	}
	close(log.unheld)
	call.Wait()
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

// TestADoubtIsMetByATransactionThatWaited: what it had read before it waited would let it pass.
func TestADoubtIsMetByATransactionThatWaited(t *testing.T) {
	t.Parallel()
	for name, held := range map[string]string{
		"for the node's row": "SELECT FROM %s.node WHERE name = 'one' FOR UPDATE",
		"for a row":          "SELECT FROM %s.kv WHERE k = 'k/1' FOR UPDATE",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, schema := ownSchema(t)
			s := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
			put(t, s, "k/1", "first")
			other, err := pgconn.Connect(t.Context(), server.DSN())
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close(context.Background())
			if _, err := other.Exec(t.Context(), "BEGIN; "+fmt.Sprintf(held, schema)).ReadAll(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() {
				done <- s.UpdateRows(store.Rows{Lock: [][]byte{[]byte("k/1")}}, func(store.Tx) error {
					t.Error("it runs")
					return nil
				})
			}()
			eventually(t, "the transaction waits", func() bool {
				return server.Exec(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+schema+".%'")[0] == "1"
			})
			server.Exec(t, "UPDATE "+schema+".state SET doubt = 'it lacks a commit'")
			if _, err := other.Exec(t.Context(), "ROLLBACK").ReadAll(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, store.ErrDoubt) {
				t.Errorf("UpdateRows: %v, want ErrDoubt", err)
			}
		})
	}
}
