package commit_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

type (
	transaction = committest.Transaction
	committer   = committest.Committer
)

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
	c := committest.Start(t, disk.Open(), func(o *committest.Options) {
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
	c := committest.Start(t, storetest.NewDisk().Open(), func(o *committest.Options) {
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
			c := committest.Start(t, disk.Open())
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

// tail writes something with each batch that has written.
type tail int

func (tail) Begin(*commit.Transaction) error { return nil }
func (tail) Committed()                      {}
func (n tail) Finish(t *commit.Transaction) error {
	for i := range int(n) {
		if err := t.Set(fmt.Appendf(nil, "tail%d", i), nil); err != nil {
			return err
		}
	}
	return nil
}

func TestChangesThatAreTooMuchTogetherAreWrittenApart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tail    int
		changes []int // entries
		commits int
		fail    []int // the changes that are too much by themselves
	}{
		"together":                       {0, []int{5, 5}, 1, nil},
		"apart":                          {0, []int{6, 6, 3}, 2, nil},
		"one is too much":                {0, []int{3, 11, 3}, 2, []int{1}},
		"the first is too much":          {0, []int{11, 3, 3}, 1, []int{0}},
		"all are too much":               {0, []int{11, 11}, 2, []int{0, 1}}, // which writes nothing
		"with what they have in common":  {4, []int{2, 2, 2, 2}, 2, nil},
		"one with what it has in common": {4, []int{2, 8, 2}, 2, []int{1}},
		"the only one, with what it has": {4, []int{8}, 0, []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := storetest.NewDisk()
			disk.Limit(10)
			c := committest.Start(t, disk.Open(), func(o *committest.Options) { o.Participants = []commit.Participant{tail(test.tail)} })
			release := held(c)
			var all outcomes
			want := make(map[string]string)
			for i, n := range test.changes {
				if !slices.Contains(test.fail, i) {
					for k := range n {
						want[fmt.Sprintf("%d/%d", i, k)] = "1"
					}
				}
				c.Submit(func(t transaction) error {
					for k := range n {
						if err := set(fmt.Sprintf("%d/%d", i, k), "1")(t); err != nil {
							return err
						}
					}
					return nil
				}, all.of())
			}
			before := disk.Commits()
			release()
			for i, err := range all.wait() {
				if slices.Contains(test.fail, i) != errors.Is(err, store.ErrTooBig) || !slices.Contains(test.fail, i) && err != nil {
					t.Errorf("change %d: %v", i, err)
				}
			}
			if n := disk.Commits() - before - 1; n != test.commits { // one was of the change that held it
				t.Errorf("%d commits, want %d", n, test.commits)
			}
			if err := c.Failure(); err != nil {
				t.Errorf("the store is taken for failed: %v", err)
			}
			got := content(t, disk.Open())
			maps.DeleteFunc(got, func(key, _ string) bool { return strings.HasPrefix(key, "tail") })
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the store has %v, want %v", got, want)
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
			c := committest.Start(t, disk.Open())
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

func TestACommitterThatClosesWritesWhatWaits(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	c := committest.Start(t, disk.Open())
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
