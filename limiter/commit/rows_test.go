package commit_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

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
	s := watched{storetest.NewCluster().Bystander(t, "a"), new(diary)}
	c := committest.Start(t, s)
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
	c := committest.Start(t, disk.Open())
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
	c := committest.Start(t, disk.Open())
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
