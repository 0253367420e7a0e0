package commit_test

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// transaction is what changes get.
type transaction = *commit.Transaction

type committer = commit.Committer[transaction]

var discard = slog.New(slog.DiscardHandler)

// newCommitter starts a committer that ends with the test.
func newCommitter(t *testing.T, s store.Store, with ...func(o *commit.Options[transaction])) *committer {
	t.Helper()
	o := commit.Options[transaction]{Store: s, Batch: func(t transaction) transaction { return t }, Patience: time.Minute, Log: discard}
	for _, fn := range with {
		fn(&o)
	}
	c := commit.New(o)
	t.Cleanup(c.Close)
	return c
}

// joined is a node of a cluster that follows nothing.
func joined(t *testing.T, c *storetest.Cluster, node string) store.Shared {
	t.Helper()
	s := c.Node(node)
	if err := s.Join(nobody{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

type nobody struct{}

func (nobody) Follows([]byte) bool    { return false }
func (nobody) Changed([][]byte) error { return nil }
func (nobody) Missed() error          { return nil }
func (nobody) Recalled([]byte)        {}
func (nobody) Stale(error)            {}

func set(key, value string) func(transaction) error {
	return func(t transaction) error { return t.Set([]byte(key), []byte(value)) }
}

// diary notes what happened, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	return lines
}

// outcomes collects the answers to changes.
type outcomes struct {
	mu   sync.Mutex
	errs []error
	left sync.WaitGroup
}

func (o *outcomes) of() func(error) {
	o.left.Add(1)
	o.mu.Lock()
	at := len(o.errs)
	o.errs = append(o.errs, errors.New("no answer"))
	o.mu.Unlock()
	return func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.errs[at] = err
		o.left.Done()
	}
}

func (o *outcomes) wait() []error {
	o.left.Wait()
	return o.errs
}

// held keeps a committer busy until the returned function is called, so that what is
// submitted meanwhile waits together.
func held(c *committer) (release func()) {
	begun, over := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.Submit(func(transaction) error {
		once.Do(func() { close(begun) })
		<-over
		return nil
	}, func(error) {})
	<-begun
	return func() { close(over) }
}

// member takes part in every batch, and says so.
type member struct {
	*diary
	name   string
	begin  error
	finish error
	seal   error
}

func (m *member) Begin(*commit.Transaction) error {
	m.note("%s begins", m.name)
	return m.begin
}

func (m *member) Finish(*commit.Transaction) error {
	m.note("%s finishes", m.name)
	return m.finish
}
func (m *member) Committed() { m.note("%s follows", m.name) }
func (m *member) Wrote(_ *commit.Transaction, key, _ []byte, _ bool) error {
	m.note("%s sees %s", m.name, key)
	return nil
}

func (m *member) Seal() error {
	m.note("%s seals", m.name)
	return m.seal
}

func TestABatchIsWrittenSealedAndFollowedInOneOrder(t *testing.T) {
	t.Parallel()
	d := new(diary)
	disk := storetest.NewDisk()
	disk.BeforeCommit(func(int) { d.note("commit") })
	c := newCommitter(t, disk.Open(), func(o *commit.Options[transaction]) {
		o.Participants = []commit.Participant{&member{diary: d, name: "first"}, &member{diary: d, name: "second"}}
		o.Guard = &member{diary: d, name: "guard"}
	})
	release := held(c)
	d.take()
	var all outcomes
	for _, key := range []string{"x", "y"} {
		done := all.of()
		c.Submit(set(key, "1"), func(err error) { d.note("%s is done", key); done(err) })
	}
	release()
	if errs := all.wait(); !slices.Equal(errs, []error{nil, nil}) {
		t.Fatal(errs)
	}
	lines := d.take()
	if at := slices.Index(lines, "first begins"); at > 0 {
		lines = lines[at:] // what the change that held it has left
	}
	want := []string{
		"first begins", "second begins", "guard begins", "guard sees x", "guard sees y",
		"first finishes", "second finishes", "guard finishes", "commit", "guard seals",
		"first follows", "second follows", "guard follows", "x is done", "y is done",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("it was\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestABatchThatWroteNothingIsNeitherFinishedNorSealed(t *testing.T) {
	t.Parallel()
	d := new(diary)
	c := newCommitter(t, storetest.NewDisk().Open(), func(o *commit.Options[transaction]) {
		o.Participants = []commit.Participant{&member{diary: d, name: "first"}}
		o.Guard = &member{diary: d, name: "guard"}
	})
	if err := c.Do(func(transaction) error { return nil }, nil); err != nil {
		t.Fatal(err)
	}
	if lines := d.take(); !slices.Equal(lines, []string{"first begins", "guard begins"}) {
		t.Errorf("it was %q", lines)
	}
	if err := c.Do(func(t transaction) error { t.Touch(); return nil }, nil); err != nil {
		t.Fatal(err)
	}
	if lines := d.take(); !slices.Contains(lines, "first finishes") || !slices.Contains(lines, "guard follows") {
		t.Errorf("something that takes part had changed, and it was %q", lines)
	}
}

func TestChangesThatWaitAreOneCommitCutWhereItGrowsTooLarge(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		size, changes, commits int
	}{
		"small ones":                {10, 1000, 1},
		"many bytes":                {300 << 10, 9, 3}, // four of them reach a megabyte
		"one that is too large":     {3 << 20, 2, 2},
		"as many as entries may be": {0, 8192, 1},
		"one entry more":            {0, 8193, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := storetest.NewDisk()
			c := newCommitter(t, disk.Open())
			release := held(c)
			var all outcomes
			value := strings.Repeat("x", test.size)
			for i := range test.changes {
				c.Submit(set(fmt.Sprintf("k%05d", i), value), all.of())
			}
			if n := c.Backlog(); n != int64(test.changes+1) {
				t.Errorf("%d wait", n)
			}
			before := disk.Commits()
			release()
			for i, err := range all.wait() {
				if err != nil {
					t.Fatalf("change %d: %v", i, err)
				}
			}
			if n := disk.Commits() - before - 1; n != test.commits { // one was of the change that held it
				t.Errorf("%d commits, want %d", n, test.commits)
			}
		})
	}
}

func TestAChangeThatFailsTakesNobodyWithIt(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	for name, wrote := range map[string]bool{"before it wrote": false, "after it wrote": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := storetest.NewDisk()
			c := newCommitter(t, disk.Open())
			release := held(c)
			var all outcomes
			runs := 0
			c.Submit(func(t transaction) error { runs++; return set("a", "1")(t) }, all.of())
			c.Submit(func(t transaction) error {
				if wrote {
					return errors.Join(set("b", "1")(t), wrong)
				}
				return wrong
			}, all.of())
			c.Submit(func(t transaction) error {
				if _, err := t.Get([]byte("b")); !errors.Is(err, store.ErrNotFound) {
					return fmt.Errorf("it sees what was given up: %v", err)
				}
				return set("c", "1")(t)
			}, all.of())
			release()
			errs := all.wait()
			if errs[0] != nil || !errors.Is(errs[1], wrong) || errs[2] != nil {
				t.Errorf("the answers are %v", errs)
			}
			if want := map[bool]int{false: 1, true: 2}[wrote]; runs != want {
				t.Errorf("another change ran %d times, want %d", runs, want)
			}
			if got := content(t, disk.Open()); !reflect.DeepEqual(got, map[string]string{"a": "1", "c": "1"}) {
				t.Errorf("the store has %v", got)
			}
		})
	}
}

// content is all that a store has.
func content(t *testing.T, s interface {
	View(func(store.Reader) error) error
}) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := s.View(func(r store.Reader) error {
		return r.Scan(nil, nil, false, func(key, value []byte) (bool, error) {
			all[string(key)] = string(value)
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

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
			return joined(t, cluster, "a"), cluster.Stop, cluster.Start
		}, store.ErrUnavailable},
		"a commit that the database has refused": {func(t *testing.T) (store.Store, func(), func()) {
			cluster := storetest.NewCluster()
			refuse := func() { cluster.Inject(func(string) storetest.Outcome { return storetest.Refused }) }
			return joined(t, cluster, "a"), refuse, func() { cluster.Inject(nil) }
		}, store.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := new(diary)
			s, refuse, heal := test.open(t)
			c := newCommitter(t, s, func(o *commit.Options[transaction]) {
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
	for range 1000 {
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
			c := newCommitter(t, disk.Open(), func(o *commit.Options[transaction]) { o.Guard = guard })
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
	c := newCommitter(t, joined(t, storetest.NewCluster(), "a"), func(o *commit.Options[transaction]) {
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
		err    error
		poison bool
	}{
		"away":     {fmt.Errorf("reading: %w", store.ErrUnavailable), false},
		"in doubt": {store.Doubt("it has lost something"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := joined(t, storetest.NewCluster(), "a")
			c := newCommitter(t, s)
			release := held(c)
			var all outcomes
			c.Submit(set("a", "1"), all.of())
			c.Submit(func(transaction) error { return test.err }, all.of())
			c.Submit(set("b", "1"), all.of())
			release()
			for i, err := range all.wait() {
				if !errors.Is(err, test.err) {
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

func TestACallerWaitsNoLongerThanItsPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := storetest.NewDisk()
		c := newCommitter(t, disk.Open(), func(o *commit.Options[transaction]) { o.Patience = time.Second })
		over := make(chan struct{})
		disk.BeforeCommit(func(int) { <-over })
		begun := make(chan error)
		start := time.Now()
		go func() { begun <- c.Do(set("a", "1"), nil) }()
		synctest.Wait() // its commit hangs
		err := c.Do(func(transaction) error { t.Error("it was abandoned, and ran"); return nil }, nil)
		if !errors.Is(err, commit.ErrBusy) || time.Since(start) != time.Second {
			t.Errorf("what had not begun is answered %v after %s", err, time.Since(start))
		}
		if err := <-begun; !errors.Is(err, commit.ErrOutcome) || time.Since(start) != 2*time.Second {
			t.Errorf("what had begun is answered %v after %s", err, time.Since(start))
		}
		if c.Running().IsZero() {
			t.Error("it says that no commit runs")
		}
		close(over)
		synctest.Wait()
		if !c.Running().IsZero() || c.Backlog() != 0 {
			t.Errorf("a commit runs since %s, %d wait", c.Running(), c.Backlog())
		}
		if err := c.Do(set("b", "1"), nil); err != nil {
			t.Error(err)
		}
	})
}

func TestACommitterThatClosesWritesWhatWaits(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	c := newCommitter(t, disk.Open())
	release := held(c)
	var all outcomes
	for i := range 10 {
		c.Submit(set(fmt.Sprint(i), "1"), all.of())
	}
	closed := make(chan struct{})
	go func() { defer close(closed); c.Close() }()
	release()
	<-closed
	for _, err := range all.wait() {
		if err != nil {
			t.Error(err)
		}
	}
	if n := len(content(t, disk.Open())); n != 10 {
		t.Errorf("%d of 10 were written", n)
	}
	if err := c.Do(set("late", "1"), nil); !errors.Is(err, store.ErrClosed) {
		t.Errorf("what comes after is answered %v", err)
	}
}

// watched is a node that says which transactions it takes.
type watched struct {
	store.Shared
	*diary
}

func (s watched) Update(fn func(store.Tx) error) error {
	s.note("update")
	return s.Shared.Update(fn)
}

func (s watched) UpdateRows(rows store.Rows, fn func(store.Tx) error) error {
	s.note("rows %s, reads %s", rows.Lock, rows.Read)
	return s.Shared.UpdateRows(rows, fn)
}

func (s watched) View(fn func(store.Reader) error) error {
	s.note("view")
	return s.Shared.View(fn)
}

func rows(lock ...string) (r store.Rows) {
	for _, key := range lock {
		r.Lock = append(r.Lock, []byte(key))
	}
	return r
}

// seeded is a watched node whose store has some rows, and a committer on it.
func seeded(t *testing.T, keys ...string) (watched, *committer) {
	t.Helper()
	s := watched{joined(t, storetest.NewCluster(), "a"), new(diary)}
	c := newCommitter(t, s)
	if err := c.Do(func(t transaction) (err error) {
		for _, key := range keys {
			err = errors.Join(err, set(key, "0")(t))
		}
		return err
	}, nil); err != nil {
		t.Fatal(err)
	}
	s.take()
	return s, c
}

func TestChangesOfKnownRowsWaitForNoOthers(t *testing.T) {
	t.Parallel()
	s, c := seeded(t, "x", "y", "z")
	release := held(c)
	s.take()
	var all outcomes
	note := func(of string) func(transaction) error {
		return func(t transaction) error {
			s.note("%s, exclusive %v", of, t.Exclusive())
			return set(of, "1")(t)
		}
	}
	c.SubmitRows(rows("x"), note("x"), all.of())
	c.SubmitRows(store.Rows{Lock: [][]byte{[]byte("y")}, Read: [][]byte{[]byte("r")}}, note("y"), all.of())
	c.Submit(note("any"), all.of())              // begins another transaction
	c.SubmitRows(rows("z"), note("z"), all.of()) // is in that: it would wait for it in any case
	release()
	for _, err := range all.wait() {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"rows [x y], reads [r]", "x, exclusive false", "y, exclusive false",
		"update", "any, exclusive true", "z, exclusive true",
	}
	if lines := s.take(); !slices.Equal(lines, want) {
		t.Errorf("it was %q, want %q", lines, want)
	}
}

func TestChangesOfRowsAreLikeOthersInAStoreThatNobodyShares(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	c := newCommitter(t, disk.Open())
	release := held(c)
	var all outcomes
	c.SubmitRows(rows("x"), func(t transaction) error {
		if t.Shared() || !t.Exclusive() {
			return errors.New("the transaction says that others are beside it")
		}
		return set("anything", "1")(t)
	}, all.of())
	c.Submit(set("another", "1"), all.of())
	c.SubmitRows(rows("x"), set("x", "1"), all.of())
	before := disk.Commits()
	release()
	for _, err := range all.wait() {
		if err != nil {
			t.Error(err)
		}
	}
	if n := disk.Commits() - before - 1; n != 1 { // one was of the change that held it
		t.Errorf("they were %d commits", n)
	}
}

func TestAChangeThatTouchesMoreThanItsRowsRunsAgainAlone(t *testing.T) {
	t.Parallel()
	for name, touch := range map[string]func(transaction) error{
		"reading": func(t transaction) error { _, err := t.Get([]byte("other")); return err },
		"scanning": func(t transaction) error {
			return t.Scan(nil, nil, false, func(_, _ []byte) (bool, error) { return true, nil })
		},
		"a row that is not there": func(t transaction) error {
			if _, err := t.Get([]byte("none")); !errors.Is(err, store.ErrNotFound) {
				return err
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := seeded(t, "x", "other")
			release := held(c)
			s.take()
			var all outcomes
			var exclusive []bool
			c.SubmitRows(rows("x"), set("x", "1"), all.of())
			c.SubmitRows(rows("x", "none"), func(t transaction) error {
				exclusive = append(exclusive, t.Exclusive())
				return errors.Join(touch(t), set("written", "1")(t))
			}, all.of())
			release()
			for _, err := range all.wait() {
				if err != nil {
					t.Error(err)
				}
			}
			lines := s.take()
			if len(lines) != 2 || !strings.HasPrefix(lines[0], "rows") || lines[1] != "update" {
				t.Errorf("the transactions were %q", lines)
			}
			if len(exclusive) == 0 || !exclusive[len(exclusive)-1] {
				t.Errorf("it ran as %v", exclusive)
			}
			if got := content(t, s); got["x"] != "1" || got["written"] != "1" {
				t.Errorf("the store has %v", got)
			}
			if c.Failure() != nil {
				t.Error(c.Failure())
			}
		})
	}
}

func TestALookIsBetweenTwoBatches(t *testing.T) {
	t.Parallel()
	s, c := seeded(t, "x")
	release := held(c)
	s.take()
	wrong := errors.New("wrong")
	var all outcomes
	look := func(of string, err error) func(store.Reader) error {
		return func(r store.Reader) error {
			v, err2 := r.Get([]byte("x"))
			s.note("%s sees %s", of, v)
			return errors.Join(err, err2)
		}
	}
	followed := all.of()
	c.Submit(set("x", "1"), func(err error) { s.note("memory follows"); followed(err) })
	c.Look(look("first", nil), all.of())
	c.Look(look("second", wrong), all.of())
	c.Submit(set("x", "2"), all.of())
	release()
	errs := all.wait()
	if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], wrong) || errs[3] != nil {
		t.Errorf("the answers are %v", errs)
	}
	want := []string{"update", "memory follows", "view", "first sees 1", "second sees 1", "update"}
	if lines := s.take(); !slices.Equal(lines, want) {
		t.Errorf("it was %q, want %q", lines, want)
	}
	if c.Failure() != nil {
		t.Error(c.Failure())
	}
}

func TestALookAtAStoreThatFailedIsRefused(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	c := newCommitter(t, disk.Open())
	disk.FailAt(1, false)
	if err := c.Do(set("a", "1"), nil); !errors.Is(err, storetest.ErrInjected) {
		t.Fatal(err)
	}
	var all outcomes
	c.Look(func(store.Reader) error { t.Error("it looked"); return nil }, all.of())
	if err := all.wait()[0]; !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("it is answered %v", err)
	}
}
