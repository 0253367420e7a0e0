package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func TestPostgresConformsToStore(t *testing.T) {
	t.Parallel()
	dsn, _ := postgrestest.Schema(t)
	var schemas sync.Map // by directory
	storetest.Run(t, func(dir string) (store.Store, error) {
		_, fresh := postgrestest.Schema(t)
		schema, _ := schemas.LoadOrStore(dir, fresh)
		s, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn, Schema: schema.(string), Node: "one"})
		if err != nil {
			return nil, err
		}
		return s, s.Join(&follower{})
	})
}

func TestPostgresConformsToShared(t *testing.T) {
	t.Parallel()
	dsn, _ := postgrestest.Schema(t)
	var schemas sync.Map // by test
	storetest.RunShared(t, func(t *testing.T, node string) store.Shared {
		_, fresh := postgrestest.Schema(t)
		schema, _ := schemas.LoadOrStore(t.Name(), fresh)
		s, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn, Schema: schema.(string), Node: node, MaxConns: 3})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// follower follows rows that begin with f/, and remembers what it was told.
type follower struct {
	mu      sync.Mutex
	changed []string
	missed  int
	recalls []string
	stale   []error
	hold    func() // before Changed returns
}

func (f *follower) Follows(key []byte) bool { return bytes.HasPrefix(key, []byte("f/")) }

func (f *follower) Changed(keys [][]byte) error {
	f.mu.Lock()
	for _, key := range keys {
		f.changed = append(f.changed, string(key))
	}
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		hold()
	}
	return nil
}

func (f *follower) Missed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missed++
	return nil
}

// caughtUp reports whether it has read what became of a key, or everything again.
func (f *follower) caughtUp(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.missed > 0 || slices.Contains(f.changed, key)
}

func (f *follower) Recalled(account []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recalls = append(f.recalls, string(account))
}

func (f *follower) Stale(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = append(f.stale, err)
}

// open opens a store on a schema, and joins it.
func open(t *testing.T, o postgres.Options, f *follower) *postgres.Store {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", o.Node)
	}
	if f == nil {
		f = &follower{}
	}
	var s *postgres.Store
	err := update(func() (err error) {
		if s, err = postgres.Open(context.Background(), o); err != nil {
			return err
		}
		if err := s.Join(f); err != nil {
			return errors.Join(err, s.Close())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// join opens a store that may not join the others, and returns why not.
func join(o postgres.Options) error {
	return update(func() error {
		s, err := postgres.Open(context.Background(), o)
		if err != nil {
			return err
		}
		return errors.Join(s.Join(&follower{}), s.Close())
	})
}

// ownSchema is the shared server, and a schema that no other test has.
func ownSchema(t *testing.T) (server *postgrestest.Server, schema string) {
	t.Helper()
	_, schema = postgrestest.Schema(t)
	return postgrestest.Shared(t), schema
}

// ownNode is that, and a node which is alone in it.
func ownNode(t *testing.T) (server *postgrestest.Server, schema string, node *postgres.Store) {
	t.Helper()
	server, schema = ownSchema(t)
	return server, schema, open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
}

// ownNetwork is an ownSchema, and a network to it.
func ownNetwork(t *testing.T) (server *postgrestest.Server, schema string, proxy *postgrestest.Proxy) {
	t.Helper()
	server, schema = ownSchema(t)
	return server, schema, postgrestest.NewProxy(t, server)
}

const eventuallyPatience = time.Minute

// eventually waits until a condition holds. It gives up after a time that no working
// store needs, even on a machine that does much else.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventuallyPatience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// patience is the shortest of the times after which a store gives a transaction up, though
// nothing is wrong: it waits so long for other nodes to vouch. For a connection it waits
// for three seconds, and for an answer longer.
const patience = 2 * time.Second

// update runs a transaction, and runs it again after so long a time that the store does not
// begin it again by itself, as on a machine that does much else. Nothing of it remains then.
// It gives up as eventually does.
func update(run func() error) error {
	for first := time.Now(); ; {
		start := time.Now()
		err := run()
		if !errors.Is(err, store.ErrUnavailable) || time.Since(start) < patience || time.Since(first) > eventuallyPatience {
			return err
		}
	}
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	err := update(func() error {
		return s.Update(func(tx store.Tx) error { return tx.Set([]byte(key), []byte(value)) })
	})
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s store.Store, key string) (value string) {
	t.Helper()
	err := update(func() error {
		return s.View(func(r store.Reader) error {
			b, err := r.Get([]byte(key))
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			value = string(b)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}
