package commit_test

import (
	"errors"
	"maps"
	"reflect"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// counter is a node, or the only one, that keeps sums.
type counter struct {
	*committer
	sums *commit.Sums
}

func newCounter(t *testing.T, s store.Store) *counter {
	t.Helper()
	c := &counter{sums: &commit.Sums{Durable: commit.Tally{Keys: make(map[record.Status]int64)}}}
	c.committer = committest.Start(t, s, func(o *committest.Options) {
		o.Participants = []commit.Participant{c.sums}
	})
	return c
}

// newNode is a counter on a store that others share.
func newNode(t *testing.T, s store.Shared, session string) *counter {
	t.Helper()
	c := newCounter(t, s)
	c.do(t, func(tx transaction) error { return c.sums.TakeShare(tx, s.Node(), session) })
	return c
}

func (c *counter) do(t *testing.T, apply func(transaction) error) {
	t.Helper()
	if err := c.Do(apply, nil); err != nil {
		t.Fatal(err)
	}
}

func (c *counter) count(t *testing.T, n int64) {
	t.Helper()
	c.do(t, func(tx transaction) error { return c.sums.Count(tx, record.Amounts{n, 2 * n}) })
}

func (c *counter) mint(t *testing.T) {
	t.Helper()
	c.do(t, func(tx transaction) error {
		sums, err := c.sums.Change(tx)
		if err == nil {
			sums.Keys[record.Active]++
		}
		return err
	})
}

func (c *counter) forget(t *testing.T, used int64) {
	t.Helper()
	c.do(t, func(tx transaction) error {
		sums, err := c.sums.Change(tx)
		if err != nil {
			return err
		}
		sums.Keys[record.Active]--
		sums.Forgotten.Add(record.Amounts{used, 2 * used})
		return c.sums.Count(tx, record.Amounts{-used, -2 * used})
	})
}

// sumsAre fails unless the store's sums are these.
func sumsAre(t *testing.T, s interface {
	View(func(store.Reader) error) error
}, active, counted, forgotten int64) {
	t.Helper()
	err := s.View(func(r store.Reader) error {
		got, err := commit.ReadAllSums(r)
		want := commit.Tally{Keys: map[record.Status]int64{record.Active: active}, Counted: record.Amounts{counted, 2 * counted}, Forgotten: record.Amounts{forgotten, 2 * forgotten}}
		if active == 0 {
			delete(got.Keys, record.Active)
			want.Keys = map[record.Status]int64{}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("the sums are %+v, want %+v", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSumsAreKeptInOneRecordWhereNobodyElseWrites(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	c := newCounter(t, disk.Open())
	c.mint(t)
	c.mint(t)
	c.count(t, 10)
	before := c.sums.Known()
	c.forget(t, 4)
	if before.Keys[record.Active] != 2 {
		t.Error("sums that were handed out have changed")
	}
	sumsAre(t, disk.Open(), 1, 6, 4)
	if known := c.sums.Known(); known.Keys[record.Active] != 1 || known.Counted[0] != 6 || known.Forgotten[0] != 4 {
		t.Errorf("memory says %+v", known)
	}
	if rows := content(t, disk.Open()); len(rows) != 1 {
		t.Errorf("the store has %v", rows)
	}
}

func TestSumsOfABatchThatFailedAreForgotten(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	for name, open := range map[string]func(t *testing.T) *counter{
		"alone":  func(t *testing.T) *counter { return newCounter(t, storetest.NewDisk().Open()) },
		"shared": func(t *testing.T) *counter { return newNode(t, storetest.NewCluster().Bystander(t, "a"), "1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t)
			c.count(t, 1)
			err := c.Do(func(tx transaction) error {
				sums, err := c.sums.Change(tx)
				if err == nil {
					sums.Keys[record.Active]++
				}
				return errors.Join(err, c.sums.Count(tx, record.Amounts{100}), wrong)
			}, nil)
			if !errors.Is(err, wrong) {
				t.Fatal(err)
			}
			c.count(t, 1)
			c.do(t, func(tx transaction) error {
				if err := c.sums.Finish(tx); err != nil {
					return err
				}
				got, err := commit.ReadAllSums(tx)
				if got.Counted[0] != 2 || got.Keys[record.Active] != 0 {
					t.Errorf("the sums are %+v", got)
				}
				return err
			})
		})
	}
}

func TestNodesCountTogether(t *testing.T) {
	t.Parallel()
	cluster := storetest.NewCluster()
	cluster.Rehearse()
	a, b := newNode(t, cluster.Bystander(t, "a"), "1"), newNode(t, cluster.Bystander(t, "b"), "1")
	a.mint(t)
	b.mint(t)
	a.mint(t)
	a.count(t, 10)
	b.count(t, 5)
	sumsAre(t, cluster, 3, 15, 0)
	b.forget(t, 8) // more than it has counted itself
	a.forget(t, 1)
	sumsAre(t, cluster, 1, 6, 9)
	rows := content(t, cluster)
	if _, there := rows[string(record.NodeKey("b", "tally"))]; !there || len(rows) != 3 {
		t.Errorf("the store has %v", rows)
	}
}

func TestWhatKeysUseIsCountedBesideOtherNodes(t *testing.T) {
	t.Parallel()
	s := watched{storetest.NewCluster().Bystander(t, "a"), new(diary)}
	c := newNode(t, s, "1")
	c.do(t, set("x", "0"))
	s.take()
	var all outcomes
	c.SubmitRows(rows("x"), func(tx transaction) error {
		return errors.Join(c.sums.Count(tx, record.Amounts{1, 2}), set("x", "1")(tx))
	}, all.of())
	if err := all.wait()[0]; err != nil {
		t.Fatal(err)
	}
	if lines := s.take(); len(lines) != 1 || lines[0] == "update" {
		t.Errorf("the transactions were %q", lines)
	}
	sumsAre(t, s, 0, 1, 0)
	s.take()
	c.SubmitRows(rows("x"), func(tx transaction) error { // but keys are not
		sums, err := c.sums.Change(tx)
		if err == nil {
			sums.Keys[record.Active]++
		}
		return err
	}, all.of())
	if err := all.wait()[1]; err != nil {
		t.Fatal(err)
	}
	if lines := s.take(); len(lines) != 2 || lines[1] != "update" {
		t.Errorf("the transactions were %q", lines)
	}
	sumsAre(t, s, 1, 1, 0)
}

func TestANodeThatStartsAgainAddsUpWhatItHadCounted(t *testing.T) {
	t.Parallel()
	cluster := storetest.NewCluster()
	s := cluster.Bystander(t, "a")
	first := newNode(t, s, "1")
	first.count(t, 7)
	first.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	second := newNode(t, cluster.Bystander(t, "a"), "2")
	sumsAre(t, cluster, 0, 7, 0)
	second.count(t, 3)
	sumsAre(t, cluster, 0, 10, 0)
}

func TestTheShareOfANodeThatIsGoneIsAddedOnce(t *testing.T) {
	t.Parallel()
	cluster := storetest.NewCluster()
	a := newNode(t, cluster.Bystander(t, "a"), "1")
	b := newNode(t, cluster.Bystander(t, "b"), "1")
	a.count(t, 1)
	b.count(t, 20)
	shares := func() (all map[string]commit.Share) {
		t.Helper()
		if err := cluster.View(func(r store.Reader) (err error) {
			all, err = commit.ReadShares(r)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	gone := maps.Clone(shares())
	delete(gone, "a")
	if len(gone) != 1 || gone["b"].Counted[0] != 20 {
		t.Fatalf("the shares of others are %v", gone)
	}
	// It turns out to live: it starts again before its share is added, and counts.
	b = newNode(t, restarted(t, cluster), "2")
	b.count(t, 300)
	for range 2 {
		a.do(t, func(tx transaction) error { return a.sums.Fold(tx, gone) })
		sumsAre(t, cluster, 0, 321, 0)
	}
	if now := shares(); now["b"].Counted[0] != 300 {
		t.Errorf("the shares are %v", now)
	}
	gone = shares()
	delete(gone, "a")
	for range 2 {
		a.do(t, func(tx transaction) error { return a.sums.Fold(tx, gone) })
		sumsAre(t, cluster, 0, 321, 0)
	}
	if now := shares(); len(now) != 1 {
		t.Errorf("the shares are %v", now)
	}
	a.count(t, 1)
	sumsAre(t, cluster, 0, 322, 0)
}

// restarted is node b as another process, after the first was killed.
func restarted(t *testing.T, cluster *storetest.Cluster) store.Shared {
	t.Helper()
	cluster.Kill("b")
	return cluster.Bystander(t, "b")
}

// tickingClock is moved by hand.
type tickingClock struct{ now time.Time }

func (c *tickingClock) Now() time.Time { return c.now }

func TestTheTimeIsWrittenNowAndThenByTheOnlyOneThatWrites(t *testing.T) {
	t.Parallel()
	disk, clock := storetest.NewDisk(), &tickingClock{time.Unix(1_800_000_000, 0)}
	mark := &commit.ClockMark{Clock: clock}
	c := committest.Start(t, disk.Open(), func(o *committest.Options) { o.Participants = []commit.Participant{mark} })
	seen := func() string { return content(t, disk.Open())[string(record.MetaClock)] }
	write := func() string {
		t.Helper()
		if err := c.Do(set("a", "1"), nil); err != nil {
			t.Fatal(err)
		}
		return seen()
	}
	first := write()
	if len(first) != 8 {
		t.Fatalf("the mark is %q", first)
	}
	clock.now = clock.now.Add(9 * time.Second)
	if write() != first {
		t.Error("it is written with every commit")
	}
	clock.now = clock.now.Add(time.Second)
	if write() == first {
		t.Error("it is not written after ten seconds")
	}
}

func TestTheTimeOfASharedStoreIsItsOwn(t *testing.T) {
	t.Parallel()
	s := storetest.NewCluster().Bystander(t, "a")
	mark := &commit.ClockMark{Clock: &tickingClock{time.Unix(1_800_000_000, 0)}}
	c := committest.Start(t, s, func(o *committest.Options) { o.Participants = []commit.Participant{mark} })
	if err := c.Do(func(tx transaction) error { mark.Set(time.Unix(1, 0)); return set("a", "1")(tx) }, nil); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s); len(got) != 1 {
		t.Errorf("the store has %v", got)
	}
}
