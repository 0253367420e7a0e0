package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

// Handle implements slog.Handler.
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
	if err := join(one); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("the node whose commit is lost joins: %v", err)
	}
	// The third has lost nothing, and has seen nothing: it cannot know, and is told.
	eventually(t, "the doubt is in the database", func() bool {
		return server.Exec(t, "SELECT doubt IS NOT NULL FROM "+schema+".state")[0] == "t"
	})
	if err := join(three); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("a node that cannot know joins: %v", err)
	}
}

func TestABatchFindsOutThatTheDatabaseWentBack(t *testing.T) {
	t.Parallel()
	server, schema, s := ownNode(t)
	put(t, s, "k/1", "a")
	server.Exec(t, "UPDATE "+schema+".node SET batch = 0")
	err := update(func() error { return s.Update(func(store.Tx) error { t.Error("it runs"); return nil }) })
	if !errors.Is(err, store.ErrDoubt) {
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
		if err := join(o); !errors.Is(err, store.ErrDoubt) {
			t.Errorf("Join: %v, want ErrDoubt", err)
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
		if err := update(func() error { return s.Update(func(store.Tx) error { return nil }) }); !errors.Is(err, store.ErrDoubt) {
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

// TestADoubtIsMetByATransactionThatWaited: what it had read before it waited would let it pass.
func TestADoubtIsMetByATransactionThatWaited(t *testing.T) {
	t.Parallel()
	for name, held := range map[string]string{
		"for the node's row": "SELECT FROM %s.node WHERE name = 'one' FOR UPDATE",
		"for a row":          "SELECT FROM %s.kv WHERE k = 'k/1' FOR UPDATE",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, schema, s := ownNode(t)
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
				done <- update(func() error { // it may wait for longer than it is begun again
					return s.UpdateRows(store.Rows{Lock: [][]byte{[]byte("k/1")}}, func(store.Tx) error {
						t.Error("it runs")
						return nil
					})
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
