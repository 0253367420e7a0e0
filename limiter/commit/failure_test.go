package commit_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestAStoreThatRefusesIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		open  func(t *testing.T) (s store.Store, refuse, heal func())
		error error
	}{
		"a full disk": {func(*testing.T) (store.Store, func(), func()) {
			disk := storetest.NewDisk()
			return disk.Open(), disk.Fill, disk.Heal
		}, store.ErrNoSpace},
		"a database that is away": {func(t *testing.T) (store.Store, func(), func()) {
			cluster := storetest.NewCluster()
			return cluster.Bystander(t, "a"), cluster.Stop, cluster.Start
		}, store.ErrUnavailable},
		"a commit that the database has refused": {func(t *testing.T) (store.Store, func(), func()) {
			cluster := storetest.NewCluster()
			refuse := func() { cluster.Inject(func(string) storetest.Outcome { return storetest.Refused }) }
			return cluster.Bystander(t, "a"), refuse, func() { cluster.Inject(nil) }
		}, store.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := new(diary)
			s, refuse, heal := test.open(t)
			c := committest.Start(t, s, func(o *committest.Options) {
				o.Participants = []commit.Participant{&member{diary: d, name: "first"}}
			})
			refuse()
			for range 2 {
				if err := c.Do(set("a", "1"), func() { t.Error("memory followed what was refused") }); !errors.Is(err, test.error) {
					t.Fatalf("it answers %v", err)
				}
			}
			if !c.Full() || c.Failure() != nil {
				t.Errorf("it is full: %v, and has failed: %v", c.Full(), c.Failure())
			}
			if lines := d.take(); slices.Contains(lines, "first follows") {
				t.Errorf("who takes part followed: %q", lines)
			}
			heal()
			if err := again(func() error { return c.Do(set("b", "1"), nil) }); err != nil {
				t.Fatal(err)
			}
			if got := content(t, s); !reflect.DeepEqual(got, map[string]string{"b": "1"}) || c.Full() {
				t.Errorf("the store has %v, and is full: %v", got, c.Full())
			}
		})
	}
}

// again repeats what a database may refuse that has just come back.
func again(do func() error) (err error) {
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); {
		if err = do(); !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

func TestACommitThatFailsRefusesEverythingAfterIt(t *testing.T) {
	t.Parallel()
	sealing, finishing := errors.New("the anchor is gone"), errors.New("no sum")
	for name, test := range map[string]struct {
		fails func(disk *storetest.Disk, m *member)
		want  error
	}{
		"the commit":   {func(disk *storetest.Disk, _ *member) { disk.FailAt(1, false) }, storetest.ErrInjected},
		"its seal":     {func(_ *storetest.Disk, m *member) { m.seal = sealing }, sealing},
		"who finishes": {func(_ *storetest.Disk, m *member) { m.finish = finishing }, finishing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk, guard := storetest.NewDisk(), &member{diary: new(diary), name: "guard"}
			c := committest.Start(t, disk.Open(), func(o *committest.Options) { o.Guard = guard })
			test.fails(disk, guard)
			if err := c.Do(set("a", "1"), func() { t.Error("memory followed") }); !errors.Is(err, test.want) {
				t.Errorf("it answers %v", err)
			}
			if slices.Contains(guard.take(), "guard follows") {
				t.Error("the guard followed")
			}
			disk.Heal()
			guard.seal, guard.finish = nil, nil
			err := c.Do(func(transaction) error { t.Error("it ran"); return nil }, nil)
			if !errors.Is(err, test.want) || !errors.Is(c.Failure(), test.want) {
				t.Errorf("what comes after is answered %v; it has failed: %v", err, c.Failure())
			}
		})
	}
}

func TestWhoCannotBeginEndsTheTransaction(t *testing.T) {
	t.Parallel()
	m := &member{diary: new(diary), name: "first", begin: fmt.Errorf("reading sums: %w", store.ErrUnavailable)}
	c := committest.Start(t, storetest.NewCluster().Bystander(t, "a"), func(o *committest.Options) {
		o.Participants = []commit.Participant{m}
	})
	if err := c.Do(func(transaction) error { t.Error("it ran"); return nil }, nil); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("it answers %v", err)
	}
	if c.Failure() != nil {
		t.Error(c.Failure())
	}
	m.begin = nil
	if err := c.Do(set("a", "1"), nil); err != nil {
		t.Error(err)
	}
}

// TestWhatASharedStoreCouldNotReadIsNotOneChangesFault: a store that is away ends the
// batch, and one in doubt is used no more, whichever change has met it.
func TestWhatASharedStoreCouldNotReadIsNotOneChangesFault(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err, is error
		poison  bool
	}{
		"away":     {fmt.Errorf("reading: %w", store.ErrUnavailable), store.ErrUnavailable, false},
		"in doubt": {store.Doubt("it has lost something"), store.ErrDoubt, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.NewCluster().Bystander(t, "a")
			c := committest.Start(t, s)
			release := held(c)
			var all outcomes
			c.Submit(set("a", "1"), all.of())
			c.Submit(func(transaction) error { return test.err }, all.of())
			c.Submit(set("b", "1"), all.of())
			release()
			for i, err := range all.wait() {
				if !errors.Is(err, test.is) {
					t.Errorf("change %d: %v", i, err)
				}
			}
			if got := content(t, s); len(got) != 0 {
				t.Errorf("the store has %v", got)
			}
			if failed := c.Failure() != nil; failed != test.poison {
				t.Errorf("it has failed: %v", c.Failure())
			}
		})
	}
}

// beginsAgain is a store whose transactions fail at first, as after a conflict or where a
// connection was lost, and then run once more.
type beginsAgain struct{ store.Store }

func (s beginsAgain) Update(fn func(store.Tx) error) error {
	lost := errors.New("the connection was lost")
	if err := s.Store.Update(func(tx store.Tx) error { return errors.Join(fn(tx), lost) }); !errors.Is(err, lost) {
		return err
	}
	return s.Store.Update(fn)
}

// TestAChangeThatFailedInATransactionThatBeginsAgainRunsAgain, also if it had written before:
// it may have failed because the store did.
func TestAChangeThatFailedInATransactionThatBeginsAgainRunsAgain(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(transaction) error{"before it wrote": func(transaction) error { return nil }, "after it had written": set("b", "0")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := beginsAgain{storetest.NewDisk().Open()}
			c := committest.Start(t, s)
			release := held(c)
			var all outcomes
			runs := 0
			c.Submit(set("a", "1"), all.of())
			c.Submit(func(tx transaction) error {
				if err := before(tx); err != nil {
					return err
				}
				if runs++; runs == 1 {
					return errors.New("its row could not be read")
				}
				return set("b", "1")(tx)
			}, all.of())
			release()
			for i, err := range all.wait() {
				if err != nil {
					t.Errorf("change %d: %v", i, err)
				}
			}
			if got := content(t, s); len(got) != 2 || runs != 2 {
				t.Errorf("after %d runs the store has %v", runs, got)
			}
		})
	}
}
