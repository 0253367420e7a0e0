package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

const doubtIt = "UPDATE till.state SET doubt = 'a test says so'"

// doubted is a database with so many keys of each kind that a repair treats otherwise,
// which has lost a commit.
func doubted(t testing.TB, server *postgrestest.Server, keys int) (options postgres.Options) {
	t.Helper()
	options = postgres.Options{DSN: server.DSN(), Node: "one"}
	s, err := postgres.Open(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	l, err := limiter.Open(limiter.Options{Store: s, Clock: s.Clock(), Patience: time.Hour})
	if err != nil {
		t.Fatal(err, s.Close())
	}
	var next atomic.Int64
	var minters sync.WaitGroup
	for range min(keys, 512) {
		minters.Go(func() {
			for n := next.Add(1); n <= int64(keys); n = next.Add(1) {
				err := store.ErrUnavailable
				for errors.Is(err, store.ErrUnavailable) { // a busy machine may lose its connection
					_, err = tryMint(l, func(k *record.Key) {
						if k.Delegate = n%2 == 0; n%3 > 0 { // otherwise it is suspended
							k.Limit[record.Activations] = 100
						}
					})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	minters.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	server.Exec(t, doubtIt)
	return options
}

// begunAgain is a database that begins each transaction of a repair twice.
type begunAgain struct{ *postgres.Repair }

var errBeginAgain = errors.New("the first time counts for nothing")

// Update implements store.Store.
func (b begunAgain) Update(fn func(store.Tx) error) error {
	err := b.Repair.Update(func(tx store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return errBeginAgain
	})
	if !errors.Is(err, errBeginAgain) {
		return fmt.Errorf("the first time: %w", err)
	}
	return b.Repair.Update(fn)
}

// repair looks at what a repair would do, and does it.
func repair(t testing.TB, o postgres.Options, open func(*postgres.Repair) limiter.Doubted) (would, done limiter.Repaired) {
	t.Helper()
	began := time.Now()
	doubt, err := postgres.OpenDoubted(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	would, err = limiter.ImagineForfeit(doubt, limiter.Operator, nil, time.Now())
	if err := errors.Join(err, doubt.Close()); err != nil {
		t.Fatal(err)
	}
	looked := time.Now()
	r, err := postgres.OpenRepair(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	done, err = limiter.ForfeitShared(open(r), limiter.Operator, nil, time.Now(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d keys: a dry run took %s, and the repair %s", done.Keys, looked.Sub(began).Round(time.Millisecond), time.Since(looked).Round(time.Millisecond))
	return would, done
}

func asItIs(r *postgres.Repair) limiter.Doubted { return r }

func TestARepairReadsManyRecordsAtOnce(t *testing.T) {
	t.Parallel()
	const keys = 600
	server := postgrestest.Start(t)
	o := doubted(t, server, keys)
	network := postgrestest.NewProxy(t, server)
	o.DSN = network.DSN()
	would, done := repair(t, o, asItIs)
	if want := (limiter.Repaired{Keys: keys, Forfeited: keys * 2 / 3, Suspended: keys / 3}); done != want || would != want {
		t.Errorf("it has done %+v, and would do %+v, want %+v", done, would, want)
	}
	trips := network.Trips()
	n := 0
	for _, one := range append(trips.Writes, trips.Views...) {
		n += one
	}
	if n == 0 || n > keys/4 {
		t.Errorf("%d keys took %d round trips", keys, n)
	}
	t.Logf("%d round trips", n)
}

// TestARepairMayPauseInATransaction: on a busy machine it does, and no node waits for it.
func TestARepairMayPauseInATransaction(t *testing.T) {
	t.Parallel()
	r, err := postgres.OpenRepair(t.Context(), doubted(t, postgrestest.Start(t), 1))
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("x/paused")
	err = r.Update(func(tx store.Tx) error {
		if _, err := tx.Get(key); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		time.Sleep(1500 * time.Millisecond) // it is what is tried: a node may pause for a second
		return tx.Set(key, []byte("1"))
	})
	if err := errors.Join(err, r.Close()); err != nil {
		t.Error(err)
	}
}

// TestARepairWhoseTransactionsBeginAgainSkipsNothing: the server may end any of them, and
// what is counted of it is counted once.
func TestARepairWhoseTransactionsBeginAgainSkipsNothing(t *testing.T) {
	t.Parallel()
	const keys = 30
	server := postgrestest.Start(t)
	o := doubted(t, server, keys)
	would, done := repair(t, o, func(r *postgres.Repair) limiter.Doubted { return begunAgain{r} })
	if done != would || done.Keys != keys {
		t.Errorf("the repair has done %+v, and a dry run said %+v", done, would)
	}
	n := int64(0)
	l := newLimiter(t, o, "")
	for _, counted := range l.Stats().Keys {
		n += counted
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n != keys {
		t.Errorf("the sums have %d keys, want %d", n, keys)
	}
	server.Exec(t, doubtIt)
	if would, _ = repair(t, o, asItIs); would.Keys != keys || would.Forfeited != 0 || would.Suspended != 0 {
		t.Errorf("another repair still finds something: %+v", would)
	}
}

func BenchmarkRepair(b *testing.B) {
	for b.Loop() {
		server := postgrestest.Start(b)
		b.StopTimer()
		o := doubted(b, server, 20_000)
		b.StartTimer()
		repair(b, o, asItIs)
	}
}
