package storetest_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// clusters are the clusters of tests, by their t.
type clusters struct {
	mu  sync.Mutex
	all map[*testing.T]*storetest.Cluster
}

func (c *clusters) open(t *testing.T, node string) store.Shared {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = make(map[*testing.T]*storetest.Cluster)
	}
	if c.all[t] == nil {
		c.all[t] = storetest.NewCluster()
	}
	return c.all[t].Node(node)
}

func TestTheSimulatedClusterIsASharedStore(t *testing.T) {
	t.Parallel()
	storetest.RunShared(t, new(clusters).open)
}

func TestTheSimulatedClusterIsAStore(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	dirs := make(map[string]*storetest.Cluster)
	storetest.Run(t, func(dir string) (store.Store, error) {
		mu.Lock()
		defer mu.Unlock()
		if dirs[dir] == nil {
			dirs[dir] = storetest.NewCluster()
		}
		s := dirs[dir].Node("a")
		return s, s.Join(new(memory))
	})
}

// memory is what a node of a test remembers: what it was told.
type memory struct {
	mu            sync.Mutex
	told          []string
	missed, stale int
	slow          chan struct{} // each call of Changed waits for it; nil: none does
}

func (m *memory) Follows(key []byte) bool { return strings.HasPrefix(string(key), "f/") }

func (m *memory) Changed(keys [][]byte) error {
	if m.slow != nil {
		<-m.slow
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		m.told = append(m.told, string(key))
	}
	return nil
}

func (m *memory) Missed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.missed++
	return nil
}

func (m *memory) Recalled([]byte) {}

func (m *memory) Stale(error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stale++
}

// late is how often the node has lost touch.
func (m *memory) late() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stale
}

// bubble runs a test with two nodes of a cluster, in a time of its own.
func bubble(t *testing.T, test func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := storetest.NewCluster(), new(memory)
		a, b := c.Node("a"), c.Node("b")
		for s, f := range map[store.Shared]*memory{a: new(memory), b: m} {
			if err := s.Join(f); err != nil {
				t.Fatal(err)
			}
		}
		test(t, c, a, b, m)
		for _, s := range []store.Shared{a, b} {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func write(s store.Shared, key string) error {
	return s.Update(func(tx store.Tx) error { return tx.Set([]byte(key), []byte(key)) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestANodeThatIsCutOffIsStaleBeforeItsSessionEnds(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
		c.Cut("b")
		must(t, write(a, "f/1"))
		if err := write(b, "f/2"); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a node that is cut off writes: %v", err)
		}
		c.Advance(7 * time.Second)
		if err := b.Fresh(); err != nil {
			t.Errorf("after 7 s: %v", err)
		}
		c.Advance(time.Millisecond)
		synctest.Wait()
		if err := b.Fresh(); !errors.Is(err, store.ErrStale) || m.stale != 1 {
			t.Errorf("after more than 7 s: %v, told %d times", err, m.stale)
		}
		if behind, err := a.Settled(time.Second); err != nil || !slices.Equal(behind, []string{"b"}) {
			t.Errorf("while its session lives: %q behind, %v", behind, err)
		}
		began := time.Now()
		if behind, err := a.Settled(time.Minute); err != nil || len(behind) != 0 {
			t.Errorf("when its session has ended: %q behind, %v", behind, err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("that took %s", took)
		}
		c.Heal("b")
		synctest.Wait()
		if err := b.Fresh(); err != nil || m.missed != 1 {
			t.Errorf("when it is back: %v, %d missed", err, m.missed)
		}
	})
}

func TestANodeThatWasCutOffShortlyFollowsWhatItHasMissed(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
		c.Cut("b")
		must(t, write(a, "f/1"))
		c.Advance(8 * time.Second)
		synctest.Wait() // it has found that out
		c.Heal("b")
		synctest.Wait()
		if !slices.Equal(m.told, []string{"f/1"}) || m.missed != 0 || m.stale != 1 || b.Fresh() != nil {
			t.Errorf("told %q, %d missed, %d stale, %v", m.told, m.missed, m.stale, b.Fresh())
		}
	})
}

func TestACommitOfUnknownOutcomeIsAnsweredOnceItIsKnown(t *testing.T) {
	for name, test := range map[string]struct {
		outcome storetest.Outcome
		want    error
		told    int
	}{
		"committed":     {storetest.CutCommitted, nil, 1},
		"not committed": {storetest.CutRefused, store.ErrUnavailable, 0},
		"refused":       {storetest.Refused, store.ErrUnavailable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
				c.Inject(func(string) storetest.Outcome { return test.outcome })
				done := make(chan error, 1)
				go func() { done <- write(a, "f/1") }()
				synctest.Wait()
				c.Inject(nil)
				must(t, write(b, "f/2")) // it holds no lock any more
				if test.outcome != storetest.Refused {
					select {
					case err := <-done:
						t.Errorf("answered while it cannot be known: %v", err)
					default:
					}
				}
				c.Heal("a")
				if err := <-done; !errors.Is(err, test.want) {
					t.Errorf("answered %v, want %v", err, test.want)
				}
				synctest.Wait()
				if len(m.told) != test.told {
					t.Errorf("the other was told %q", m.told)
				}
			})
		})
	}
}

func TestADatabaseThatHasLostCommitsIsDoubtedByAll(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
		must(t, write(a, "f/1"))
		must(t, write(a, "f/2"))
		c.Failover(0)
		synctest.Wait()
		must(t, write(b, "f/3"))
		c.Failover(2)
		synctest.Wait()
		for _, s := range []store.Shared{a, b} {
			if err := write(s, "f/4"); !errors.Is(err, store.ErrDoubt) {
				t.Errorf("node %s writes: %v", s.Node(), err)
			}
			if err := s.Fresh(); !errors.Is(err, store.ErrDoubt) {
				t.Errorf("node %s is fresh: %v", s.Node(), err)
			}
		}
		c.Reset()
		synctest.Wait()
		must(t, write(a, "f/5"))
		synctest.Wait()
		var keys []string
		must(t, b.View(func(r store.Reader) error {
			return r.Scan([]byte("f/"), nil, false, func(key, _ []byte) (bool, error) {
				keys = append(keys, string(key))
				return true, nil
			})
		}))
		if !slices.Equal(keys, []string{"f/1", "f/5"}) || m.missed != 1 || m.told[len(m.told)-1] != "f/5" {
			t.Errorf("left are %q; %d missed, told %q", keys, m.missed, m.told)
		}
	})
}

func TestANodeThatDiesHoldsNothingUp(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, _ *memory) {
		dies := make(chan struct{})
		c.Inject(func(node string) storetest.Outcome {
			if node == "b" {
				<-dies
			}
			return storetest.Committed
		})
		dead, waits := make(chan error, 1), make(chan error, 1)
		go func() { dead <- write(b, "f/1") }()
		synctest.Wait()
		go func() { waits <- write(a, "f/2") }()
		synctest.Wait()
		c.Kill("b")
		must(t, <-waits)
		close(dies)
		if err := <-dead; err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a dead node commits: %v", err)
		}
		began := time.Now()
		if behind, err := a.Settled(time.Minute); err != nil || len(behind) != 0 || time.Since(began) < 10*time.Second {
			t.Errorf("%q behind, %v, after %s; its session had not ended", behind, err, time.Since(began))
		}
		again := c.Node("b")
		must(t, again.Join(new(memory)))
		must(t, write(again, "f/3"))
		must(t, again.Close())
	})
}

func TestAPausedNodeIsLeftBehindAndKnowsIt(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
		inside, held := make(chan struct{}), make(chan error, 1)
		go func() {
			held <- b.Update(func(tx store.Tx) error {
				<-inside
				return tx.Set([]byte("f/1"), nil)
			})
		}()
		synctest.Wait()
		c.Pause("b")
		close(inside)
		must(t, write(a, "f/2")) // after the database has given up the other
		c.Advance(30 * time.Second)
		must(t, write(a, "f/3"))
		c.Resume("b")
		if err := <-held; !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("the transaction that slept: %v", err)
		}
		synctest.Wait()
		if err := b.Fresh(); err != nil || m.missed != 1 {
			t.Errorf("when it goes on: %v, %d missed", err, m.missed)
		}
	})
}

func TestALostNotificationIsFoundByTheHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
		c.Lose("b", true)
		must(t, write(a, "f/1"))
		synctest.Wait()
		if len(m.told) != 0 {
			t.Errorf("told %q", m.told)
		}
		began := time.Now()
		if behind, err := a.Settled(time.Minute); err != nil || len(behind) != 0 || time.Since(began) > 4*time.Second {
			t.Errorf("%q behind, %v, after %s", behind, err, time.Since(began))
		}
		if len(m.told) != 1 {
			t.Errorf("told %q", m.told)
		}
	})
}

func TestANodeIsNotLateForWhatPassesAtOnceWhileItFollows(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
		m.slow = make(chan struct{})
		must(t, write(a, "f/1"))
		c.Advance(time.Hour) // at the very moment of the commit
		synctest.Wait()
		if err := b.Fresh(); err != nil || m.late() != 0 {
			t.Errorf("after an hour that has passed at once: %v, told %d times", err, m.late())
		}
		time.Sleep(7*time.Second + time.Millisecond)
		synctest.Wait()
		if err := b.Fresh(); !errors.Is(err, store.ErrStale) || m.late() != 1 {
			t.Errorf("after 7 s without having followed: %v, told %d times", err, m.late())
		}
		close(m.slow)
		synctest.Wait()
		if err := b.Fresh(); err != nil {
			t.Errorf("once it has followed: %v", err)
		}
	})
}

func TestARehearsedTransactionRunsTwiceAndCountsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *storetest.Cluster, a, b store.Shared, m *memory) {
		must(t, write(a, "k/1"))
		c.Rehearse()
		runs := 0
		for _, do := range []func(fn func(store.Tx) error) error{
			a.Update,
			func(fn func(store.Tx) error) error {
				return b.UpdateRows(store.Rows{Lock: [][]byte{[]byte("k/1")}}, fn)
			},
		} {
			must(t, do(func(tx store.Tx) error {
				runs++
				old, err := tx.Get([]byte("k/1"))
				if err != nil {
					return err
				}
				return tx.Set([]byte("k/1"), append(old, '+'))
			}))
		}
		must(t, c.View(func(r store.Reader) error {
			if got, err := r.Get([]byte("k/1")); err != nil || string(got) != "k/1++" || runs != 4 {
				t.Errorf("%q after %d runs, %v", got, runs, err)
			}
			return nil
		}))
	})
}
