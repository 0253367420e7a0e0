package postgres_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

// TestALostAnswerToACommitIsFoundOut: Update returns what has become of the commit, never
// that it does not know, and the next one goes on from there.
func TestALostAnswerToACommitIsFoundOut(t *testing.T) {
	t.Parallel()
	type outcome int // whether the function runs again after the fault
	const (
		maybe outcome = iota
		yes
		no
	)
	for name, test := range map[string]struct {
		fault postgrestest.Commit
		delay time.Duration
		rows  bool
		again outcome
	}{
		"before it reaches the server":            {fault: postgrestest.CutBefore, again: yes},
		"after it has":                            {fault: postgrestest.CutAfter, again: no},
		"while the server waits for it":           {fault: postgrestest.CutAndDelay, delay: 300 * time.Millisecond},
		"and the server no longer waits":          {fault: postgrestest.CutAndDelay, delay: 3 * time.Second},
		"of rows, before it reaches the server":   {fault: postgrestest.CutBefore, rows: true, again: yes},
		"of rows, after it has":                   {fault: postgrestest.CutAfter, rows: true, again: no},
		"of rows, while the server waits for it":  {fault: postgrestest.CutAndDelay, delay: 300 * time.Millisecond, rows: true},
		"of rows, and the server no longer waits": {fault: postgrestest.CutAndDelay, delay: 3 * time.Second, rows: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, schema, proxy := ownNetwork(t)
			s := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
			put(t, s, "k/1", "")
			proxy.OnCommit(test.fault, test.delay)
			again := 0
			fn := func(tx store.Tx) error {
				if proxy.Met() > 0 { // before, it may run again because it took too long
					again++
				}
				b, err := tx.Get([]byte("k/1"))
				if err != nil {
					return err
				}
				return tx.Set([]byte("k/1"), append(b, 'x'))
			}
			err := update(func() error {
				if test.rows {
					return s.UpdateRows(store.Rows{Lock: [][]byte{[]byte("k/1")}}, fn)
				}
				return s.Update(fn)
			})
			if err != nil {
				t.Fatal(err)
			}
			if proxy.Met() != 1 {
				t.Fatal("no commit met its fault")
			}
			if test.again == yes && again == 0 || test.again == no && again > 0 {
				t.Errorf("it ran %d times again", again)
			}
			if got := get(t, s, "k/1"); got != "x" {
				t.Errorf("the row is %q, want exactly one x", got)
			}
			if err := update(func() error { return s.Update(fn) }); err != nil {
				t.Errorf("the next transaction: %v", err)
			}
		})
	}
}

// TestClosingEndsTheSearchForAnOutcome: a database that never comes back does not hold
// the process up.
func TestClosingEndsTheSearchForAnOutcome(t *testing.T) {
	t.Parallel()
	_, schema, proxy := ownNetwork(t)
	s := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	put(t, s, "k/1", "")
	proxy.OnCommit(postgrestest.CutAfter, 0)
	proxy.RefuseAtCommit()
	done := make(chan error, 1)
	go func() {
		for {
			err := s.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("x")) })
			if proxy.Met() > 0 || !errors.Is(err, store.ErrUnavailable) { // otherwise it took too long to get there
				done <- err
				return
			}
		}
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

// TestAStoreThatFailsDuringTheSearchForAnOutcomeClaimsNothing: the commit was made, and a
// doubt ends the search before that is known.
func TestAStoreThatFailsDuringTheSearchForAnOutcomeClaimsNothing(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	s := open(t, postgres.Options{DSN: proxy.DSN(), Listen: server.DSN(), Schema: schema, Node: "one"}, nil)
	put(t, s, "k/1", "")
	other, err := pgconn.Connect(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	waits := func(who string) bool { // for the node's row
		return len(server.Exec(t, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+schema+".node%' AND pid "+who)) > 0
	}
	theOther := strconv.Itoa(int(other.PID()))
	held := make(chan error, 1)
	var holds atomic.Bool
	got := make(chan struct{})
	close(got)
	queue := func() {
		<-got // after an attempt before this one
		got = make(chan struct{})
		proxy.OnCommit(postgrestest.CutAfter, 0)
		// Once a row was written, who waits for it does not stand in line for the new
		// version: the question for the outcome must not come before the other transaction
		// has it.
		proxy.RefuseAtCommit()
		go func() {
			defer close(got)
			results, err := other.Exec(t.Context(), "BEGIN; SELECT FROM "+schema+".node WHERE name = 'one' FOR UPDATE; SELECT v FROM "+schema+".kv WHERE k = 'k/1'").ReadAll()
			if err == nil && string(results[2].Rows[0][0]) == `\x` { // the transaction has paused for too long, and is begun again
				if _, err = other.Exec(t.Context(), "ROLLBACK").ReadAll(); err == nil {
					proxy.Heal()
					return
				}
			}
			holds.Store(true)
			held <- err
		}()
		eventually(t, "it waits for the node's row, or has it", func() bool {
			select {
			case <-got:
				return true
			default:
				return waits("= " + theOther)
			}
		})
	}
	done := make(chan error, 1)
	go func() {
		for {
			err := s.Update(func(tx store.Tx) error {
				queue()
				if _, err := tx.Get([]byte("k/none")); !errors.Is(err, store.ErrNotFound) { // it has ended meanwhile
					return err
				}
				return tx.Set([]byte("k/1"), []byte("x"))
			})
			if holds.Load() || !errors.Is(err, store.ErrUnavailable) {
				done <- err
				return
			}
		}
	}()
	select {
	case <-time.After(eventuallyPatience):
		t.Fatal("the other transaction never gets the node's row")
	case err := <-held:
		if err != nil {
			t.Fatal(err)
		}
	case err := <-done:
		t.Fatalf("Update: %v, and its outcome was not asked for", err)
	}
	proxy.Heal()
	start := time.Now()
	eventually(t, "the question for the outcome waits for the node's row", func() bool { return waits("<> " + theOther) })
	eventually(t, "a transaction is not begun again any more", func() bool { return time.Since(start) > 6*time.Second })
	server.Exec(t, "UPDATE "+schema+".state SET doubt = 'it lacks a commit'")
	if err := <-done; !errors.Is(err, store.ErrDoubt) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Update: %v, want ErrDoubt", err)
	}
	if got := server.Exec(t, "SELECT v FROM "+schema+".kv WHERE k = 'k/1'"); len(got) != 1 || got[0] == `\x` {
		t.Errorf("the commit was not made: %q", got)
	}
	if _, err := other.Exec(t.Context(), "ROLLBACK").ReadAll(); err != nil {
		t.Error(err)
	}
}

// TestEveryAcknowledgedCommitIsThereOnce: nodes add to one row while their networks and
// the server fail in any way, and the row holds exactly what was acknowledged.
func TestEveryAcknowledgedCommitIsThereOnce(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	const each = 40
	row := []byte("k/n")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var stores []store.Shared
	var proxies []*postgrestest.Proxy
	for i := range 3 {
		proxy := postgrestest.NewProxy(t, server)
		proxies = append(proxies, proxy)
		stores = append(stores, open(t, postgres.Options{DSN: proxy.DSN(), Node: strconv.Itoa(i)}, nil))
	}
	put(t, stores[0], string(row), "0")
	var acknowledged, refused atomic.Int64
	var nodes sync.WaitGroup
	for i, s := range stores {
		nodes.Go(func() {
			add := func(tx store.Tx) error {
				b, err := tx.Get(row)
				if err != nil {
					return err
				}
				n, err := strconv.Atoi(string(b))
				if err != nil {
					return err
				}
				return tx.Set(row, strconv.AppendInt(nil, int64(n+1), 10))
			}
			for done := 0; done < each; {
				var err error
				if (done+i)%3 == 0 {
					err = s.Update(add)
				} else {
					err = s.UpdateRows(store.Rows{Lock: [][]byte{row}}, add)
				}
				switch {
				case err == nil:
					done++
					acknowledged.Add(1)
				case errors.Is(err, store.ErrUnavailable):
					refused.Add(1)
					time.Sleep(10 * time.Millisecond) // a caller comes again
				default:
					t.Errorf("node %d: %v", i, err)
					return
				}
			}
		})
	}
	over := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		crashes := 0
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Duration(random.IntN(60)) * time.Millisecond):
			}
			p := proxies[random.IntN(len(proxies))]
			switch n := random.IntN(40); {
			case n < 30:
				p.OnCommit(postgrestest.Commit(1+n%3), time.Duration(random.IntN(500))*time.Millisecond)
			case n < 36:
				p.Cut()
				p.Heal()
			case n < 38:
				p.Hold()
				time.Sleep(50 * time.Millisecond)
				p.Heal()
			case crashes < 2:
				crashes++
				if err := errors.Join(server.Kill(), server.Start()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	nodes.Wait()
	close(over)
	chaos.Wait()
	met := 0
	for _, p := range proxies {
		p.OnCommit(postgrestest.Pass, 0)
		met += p.Met()
	}
	t.Logf("%d acknowledged, %d refused, %d commits met a fault", acknowledged.Load(), refused.Load(), met)
	// The server may have crashed as the last thing of all, and the nodes vouch for it yet.
	eventually(t, "the store is available", func() bool { return stores[1].Update(func(store.Tx) error { return nil }) == nil })
	if got := get(t, stores[1], string(row)); got != strconv.FormatInt(acknowledged.Load(), 10) {
		t.Errorf("the row holds %s, and %d were acknowledged", got, acknowledged.Load())
	}
}
