package limiter_test

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// tallied counts what a node asks of a database.
type tallied struct {
	store.Shared
	rows, alone, views atomic.Int64
}

func (s *tallied) UpdateRows(rows store.Rows, fn func(store.Tx) error) error {
	s.rows.Add(1)
	return s.Shared.UpdateRows(rows, fn)
}

func (s *tallied) Update(fn func(store.Tx) error) error {
	s.alone.Add(1)
	return s.Shared.Update(fn)
}

func (s *tallied) View(fn func(store.Reader) error) error {
	s.views.Add(1)
	return s.Shared.View(fn)
}

func (s *tallied) reset() {
	s.rows.Store(0)
	s.alone.Store(0)
	s.views.Store(0)
}

// counting runs a test on two nodes whose transactions are tallied. Time passes as soon
// as everybody waits for it.
func counting(t *testing.T, test func(t *testing.T, cluster *storetest.Cluster, nodes [2]*world, stores [2]*tallied)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cluster := storetest.NewCluster()
		var nodes [2]*world
		var stores [2]*tallied
		for i, name := range [...]string{"node-a", "node-b"} {
			stores[i] = &tallied{Shared: cluster.Node(name)}
			l, err := limiter.Open(limiter.Options{
				Patience: patience, Store: stores[i], Clock: cluster.Clock(name),
				Shadow: filepath.Join(t.TempDir(), "shadow"), Disk: fewSlots{},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			nodes[i] = &world{t: t, Limiter: l}
		}
		test(t, cluster, nodes, stores)
	})
}

func TestAThousandActivationsOfABusyKeyCostAtMostFortyTransactions(t *testing.T) {
	t.Parallel()
	counting(t, func(t *testing.T, cluster *storetest.Cluster, nodes [2]*world, stores [2]*tallied) {
		k := nodes[0].mint(activations(1_000_000))
		keys := [...]*key{k, k.on(nodes[1])}
		run := func(seconds int) (uses int64) {
			for range seconds * 200 {
				for _, k := range keys {
					if code := k.use(); code != "" {
						t.Fatal(code)
					}
					uses++
				}
				time.Sleep(5 * time.Millisecond)
			}
			return uses
		}
		synctest.Wait()
		cluster.Advance(59*time.Minute + 30*time.Second) // a new hour is to begin while the key is busy
		run(10)
		stores[0].reset()
		stores[1].reset()
		uses := run(40)
		transactions, alone := int64(0), int64(0)
		for _, s := range stores {
			transactions += s.rows.Load() + s.alone.Load()
			alone += s.alone.Load()
		}
		t.Logf("%d activations took %d transactions", uses, transactions)
		if transactions*1000 > 40*uses {
			t.Errorf("%d activations took %d transactions", uses, transactions)
		}
		if alone > 0 {
			t.Errorf("%d transactions of a busy key were alone in the cluster", alone)
		}
	})
}

func TestARefusalThatOtherNodesMayUndoCostsFewLooksAndNoWrite(t *testing.T) {
	t.Parallel()
	counting(t, func(t *testing.T, cluster *storetest.Cluster, nodes [2]*world, stores [2]*tallied) {
		const limit = 50
		k := nodes[0].mint(activations(limit))
		for range limit { // and all of them run
			if _, refusal := k.ask(); refusal != nil {
				t.Fatal(refusal.Message)
			}
		}
		there := k.on(nodes[1])
		refused := func() {
			if code := there.use(); code != record.CodeBudgetHeld {
				t.Errorf("refused with %q", code)
			}
		}
		refused()
		time.Sleep(time.Second)
		stores[1].reset()
		commits := cluster.Commits()
		var refusals atomic.Int64
		began := time.Now()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				for time.Since(began) < 10*time.Second {
					refused()
					refusals.Add(1)
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		all.Wait()
		t.Logf("%d refusals took %d transactions", refusals.Load(), stores[1].rows.Load())
		if n := stores[1].rows.Load() + stores[1].alone.Load(); refusals.Load() < 1000 || n > 20*10+2 {
			t.Errorf("%d refusals in ten seconds took %d transactions, want at most 20 a second", refusals.Load(), n)
		}
		// What the key was refused is written with the rest of its use, and the shares
		// of the nodes from time to time.
		if n := cluster.Commits() - commits; n > 4 {
			t.Errorf("%d of them wrote something", n)
		}
	})
}

func TestWhatManyKeysHaveUsedIsWrittenTogether(t *testing.T) {
	t.Parallel()
	counting(t, func(t *testing.T, cluster *storetest.Cluster, nodes [2]*world, stores [2]*tallied) {
		const many = 200
		var keys []*key
		for range many {
			keys = append(keys, nodes[0].mint(activations(100)))
		}
		for _, k := range keys {
			for range 2 {
				if code := k.use(); code != "" {
					t.Fatal(code)
				}
			}
		}
		synctest.Wait()
		stores[0].reset()
		time.Sleep(5 * time.Second) // they are idle, and nothing of them is left to save
		if rows, alone := stores[0].rows.Load(), stores[0].alone.Load(); rows == 0 || rows > 10 || alone > 0 {
			t.Errorf("saving what %d keys have used took %d transactions, and %d alone in the cluster", many, rows, alone)
		}
	})
}

func TestAKeyThatIsNotInMemoryTakesTwoLooksAtTheDatabase(t *testing.T) {
	t.Parallel()
	counting(t, func(t *testing.T, cluster *storetest.Cluster, nodes [2]*world, stores [2]*tallied) {
		k := nodes[0].mint(activations(100)).on(nodes[1])
		synctest.Wait()
		stores[1].reset()
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		if views, rows, alone := stores[1].views.Load(), stores[1].rows.Load(), stores[1].alone.Load(); views != 2 || rows != 1 || alone != 0 {
			t.Errorf("its first request took %d views and %d transactions, and %d alone in the cluster", views, rows, alone)
		}
	})
}

func TestWhatIsTooOldInAHistoryIsDeletedBesideOtherNodes(t *testing.T) {
	t.Parallel()
	counting(t, func(t *testing.T, cluster *storetest.Cluster, nodes [2]*world, stores [2]*tallied) {
		k := nodes[0].mint(activations(100))
		hours := func() (n int) {
			err := cluster.View(func(r store.Reader) error {
				return r.Scan(record.HourPrefix(k.id), record.HourKey(k.id, 0), false, func([]byte, []byte) (bool, error) {
					n++
					return true, nil
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		use := func() {
			synctest.Wait()
			if code := k.use(); code != "" {
				t.Fatal(code)
			}
			time.Sleep(15 * time.Second) // and it is saved
		}
		use()
		cluster.Advance(time.Hour)
		use()
		if n := hours(); n != 2 {
			t.Fatalf("the key has %d hours", n)
		}
		cluster.Advance(92 * 24 * time.Hour)
		use()
		if n := hours(); n != 3 {
			t.Fatalf("the key has %d hours", n)
		}
		stores[0].reset()
		nodes[0].SweepIdle()
		synctest.Wait()
		if n := hours(); n != 1 {
			t.Errorf("the key has %d hours, want the last one", n)
		}
		if rows, alone := stores[0].rows.Load(), stores[0].alone.Load(); rows != 1 || alone != 0 {
			t.Errorf("deleting them took %d transactions, and %d alone in the cluster", rows, alone)
		}
		stores[0].reset()
		nodes[0].SweepIdle()
		synctest.Wait()
		if n := stores[0].views.Load(); n != 0 {
			t.Errorf("it is looked for on the same day again, in %d views", n)
		}
	})
}
