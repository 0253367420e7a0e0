package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// sharedPatience is how long the tests of a shared store wait for what must come. It
// decides nothing but how a hang is reported.
const sharedPatience = 2 * time.Minute

// RunShared checks a store that several nodes share. Calls of open with the same t
// give nodes of one store, also the same node again; another t gives another store.
// RunShared joins the nodes and closes them.
func RunShared(t *testing.T, open func(t *testing.T, node string) store.Shared) {
	tests := []struct {
		name string
		test func(c *nodes)
	}{
		{"WhatOneNodeCommitsTheOthersRead", sharedState},
		{"UpdatesRunOneAtATime", exclusiveUpdates},
		{"TransactionsOfOneRowRunOneAtATime", rowsOneAtATime},
		{"TransactionsOfSeveralRowsDoNotDeadlock", rowsInAnyOrder},
		{"TransactionsOfDifferentRowsRunBesideEachOther", rowsBesideEachOther},
		{"UpdateAndUpdateRowsExcludeEachOther", updateAndRows},
		{"RowsAreReadOnceTheLocksAreHeld", readAfterLock},
		{"ARowThatIsNotDeclaredIsNotTouched", undeclared},
		{"ATransactionOfRowsSeesItsOwnWrites", ownRowWrites},
		{"AFailedTransactionOfRowsLeavesNothing", failedRows},
		{"EveryOtherNodeFollowsInTheOrderOfCommits", feedOrder},
		{"OnlyWhatIsFollowedAndCommittedIsTold", feedContent},
		{"AFailedChangeIsMissedUntilItIsNot", failedChange},
		{"SettledWaitsUntilEveryNodeHasFollowed", settled},
		{"SettledIsAboutTheOtherNodes", settledOfOthers},
		{"SettledDoesNotWaitForANodeThatHasLeft", settledWithoutLeft},
		{"ARecallReachesTheOtherNodes", recall},
		{"OneNodeLeadsUntilItLeaves", leader},
		{"ANodeIsFreshOnceItHasJoined", fresh},
		{"NodesAreListedWithTheirState", listed},
		{"ANodeThatComesBackFollowsFromThereOn", rejoin},
		{"ANameBelongsToOneNodeAtATime", oneName},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &nodes{t: t, open: open, followers: make(map[string]*follower)}
			t.Cleanup(c.close)
			test.test(c)
		})
	}
}

// nodes are the nodes of one test.
type nodes struct {
	t    *testing.T
	open func(t *testing.T, node string) store.Shared

	mu        sync.Mutex
	joined    []store.Shared
	followers map[string]*follower // by node
}

// join opens a node and begins its session.
func (c *nodes) join(node string) store.Shared {
	c.t.Helper()
	s, f := c.open(c.t, node), newFollower()
	c.mu.Lock()
	c.joined, c.followers[node] = append(c.joined, s), f
	c.mu.Unlock()
	if s.Node() != node {
		c.t.Fatalf("a node calls itself %q, want %q", s.Node(), node)
	}
	check(c.t, s.Join(f))
	return s
}

// leave closes a node, once.
func (c *nodes) leave(s store.Shared) {
	c.t.Helper()
	c.mu.Lock()
	for i, other := range c.joined {
		if other == s {
			c.joined = append(c.joined[:i], c.joined[i+1:]...)
			break
		}
	}
	c.mu.Unlock()
	check(c.t, s.Close())
}

func (c *nodes) close() {
	for _, f := range c.followers {
		f.release()
	}
	for len(c.joined) > 0 {
		c.leave(c.joined[len(c.joined)-1])
	}
}

// again runs a transaction until the store was available for it.
func again(do func() error) error {
	for end := time.Now().Add(sharedPatience); ; {
		if err := do(); !errors.Is(err, store.ErrUnavailable) || time.Now().After(end) {
			return err
		}
	}
}

// rows are the keys of rows.
func rows(keys ...string) (all [][]byte) {
	for _, key := range keys {
		all = append(all, []byte(key))
	}
	return all
}

// set writes a row by Update.
func set(t *testing.T, s store.Shared, key, value string) {
	t.Helper()
	check(t, again(func() error {
		return s.Update(func(tx store.Tx) error { return tx.Set([]byte(key), []byte(value)) })
	}))
}

// number reads a row that holds a number; one that is missing holds 0.
func number(r store.Reader, key string) (int, error) {
	b, there, err := store.Find(r, []byte(key))
	if err != nil || !there {
		return 0, err
	}
	return strconv.Atoi(string(b))
}

// add adds n to a row that holds a number.
func add(tx store.Tx, key string, n int) error {
	have, err := number(tx, key)
	if err != nil {
		return err
	}
	return tx.Set([]byte(key), strconv.AppendInt(nil, int64(have+n), 10))
}

// beside runs two workers on each node, each of which calls do that many times.
func (c *nodes) beside(times int, stores []store.Shared, do func(s store.Shared, worker, round int) error) {
	c.t.Helper()
	var wg sync.WaitGroup
	for i, s := range stores {
		for half := range 2 {
			wg.Go(func() {
				for round := range times {
					if err := again(func() error { return do(s, 2*i+half, round) }); err != nil {
						c.t.Errorf("node %s: %v", s.Node(), err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

func sharedState(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/1", "one")
	want(c.t, b, "k/1", "one")
	check(c.t, again(func() error {
		return b.UpdateRows(store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("two")) })
	}))
	want(c.t, a, "k/1", "two")
	check(c.t, again(func() error { return a.Update(func(tx store.Tx) error { return tx.Delete([]byte("k/1")) }) }))
	if got := scan(c.t, b, "k/", nil, false, -1); len(got) != 0 {
		c.t.Errorf("another node still sees %q", got)
	}
}

func exclusiveUpdates(c *nodes) {
	a, b := c.join("a"), c.join("b")
	const each = 25
	c.beside(each, []store.Shared{a, b}, func(s store.Shared, _, _ int) error {
		return s.Update(func(tx store.Tx) error { return add(tx, "k/n", 1) })
	})
	want(c.t, a, "k/n", fmt.Sprint(4*each))
}

func rowsOneAtATime(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/n", "0")
	const each = 25
	c.beside(each, []store.Shared{a, b}, func(s store.Shared, _, _ int) error {
		return s.UpdateRows(store.Rows{Lock: rows("k/n")}, func(tx store.Tx) error { return add(tx, "k/n", 1) })
	})
	want(c.t, b, "k/n", fmt.Sprint(4*each))
}

func rowsInAnyOrder(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/1", "0")
	set(c.t, a, "k/2", "0")
	const each = 15
	c.beside(each, []store.Shared{a, b}, func(s store.Shared, worker, _ int) error {
		lock := rows("k/1", "k/2", "k/1")
		if worker%2 == 1 {
			lock = rows("k/2", "k/1")
		}
		return s.UpdateRows(store.Rows{Lock: lock}, func(tx store.Tx) error {
			return errors.Join(add(tx, "k/1", 1), add(tx, "k/2", -1))
		})
	})
	want(c.t, a, "k/1", fmt.Sprint(4*each))
	want(c.t, a, "k/2", fmt.Sprint(-4*each))
}

func rowsBesideEachOther(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/1", "0")
	set(c.t, a, "k/2", "0")
	check(c.t, again(func() error {
		return a.UpdateRows(store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error {
			if err := add(tx, "k/1", 1); err != nil {
				return err
			}
			// The other one begins and commits while this one is open.
			done := make(chan error, 1)
			go func() {
				done <- again(func() error {
					return b.UpdateRows(store.Rows{Lock: rows("k/2")}, func(tx store.Tx) error { return tx.Set([]byte("k/2"), []byte("1")) })
				})
			}()
			select {
			case err := <-done:
				return err
			case <-time.After(sharedPatience):
				return errors.New("a transaction of other rows waits for this one")
			}
		})
	}))
	want(c.t, b, "k/1", "1")
	want(c.t, a, "k/2", "1")
}

func updateAndRows(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/1", "0")
	set(c.t, a, "k/2", "0")
	var exclusive, shared atomic.Int64
	const each = 15
	c.beside(each, []store.Shared{a, b}, func(s store.Shared, worker, _ int) error {
		if worker%2 == 0 { // they move amounts between the rows, so the sum stays
			return s.UpdateRows(store.Rows{Lock: rows("k/1", "k/2")}, func(tx store.Tx) error {
				shared.Add(1)
				defer shared.Add(-1)
				if exclusive.Load() != 0 {
					return errors.New("rows are written while an Update runs")
				}
				return errors.Join(add(tx, "k/1", 1), add(tx, "k/2", -1))
			})
		}
		return s.Update(func(tx store.Tx) error {
			exclusive.Add(1)
			defer exclusive.Add(-1)
			if shared.Load() != 0 {
				return errors.New("an Update runs while rows are written")
			}
			one, err := number(tx, "k/1")
			if err != nil {
				return err
			}
			two, err := number(tx, "k/2")
			if err != nil {
				return err
			}
			if one+two != 0 {
				return fmt.Errorf("an Update sees half of a transaction: %d and %d", one, two)
			}
			return errors.Join(add(tx, "k/1", 1), add(tx, "k/2", -1))
		})
	})
	want(c.t, a, "k/1", fmt.Sprint(4*each))
	want(c.t, b, "k/2", fmt.Sprint(-4*each))
}

func readAfterLock(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/lock", "")
	// The row that they read is not there at first: the one that comes first makes
	// it while others wait for the lock.
	const each, reads = 5, 8
	for i := range reads {
		read := fmt.Sprintf("k/read%d", i)
		c.beside(each, []store.Shared{a, b}, func(s store.Shared, _, _ int) error {
			return s.UpdateRows(store.Rows{Lock: rows("k/lock"), Read: rows(read)}, func(tx store.Tx) error { return add(tx, read, 1) })
		})
		want(c.t, a, read, fmt.Sprint(4*each))
	}
}

func undeclared(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/1", "before")
	set(c.t, a, "k/2", "before")
	set(c.t, a, followed+"1", "before")
	for name, test := range map[string]struct {
		rows store.Rows
		fn   func(tx store.Tx) error
	}{
		"a read of another row": {store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error {
			_, err := tx.Get([]byte("k/2"))
			return err
		}},
		"a read of another row that is not there": {store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error {
			_, err := tx.Get([]byte("k/3"))
			return err
		}},
		"a scan": {store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error {
			return tx.Scan([]byte("k/1"), nil, false, func(_, _ []byte) (bool, error) { return true, nil })
		}},
		"writing a row that others follow": {store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error {
			return tx.Set([]byte(followed+"2"), []byte("after"))
		}},
		"deleting a row that others follow": {store.Rows{Lock: rows(followed + "1")}, func(tx store.Tx) error {
			return tx.Delete([]byte(followed + "1"))
		}},
		"a row to hold that is not there": {store.Rows{Lock: rows("k/1", "k/3")}, func(store.Tx) error {
			c.t.Error("it runs without holding its rows")
			return nil
		}},
	} {
		for _, ignored := range []bool{false, true} {
			err := again(func() error {
				return a.UpdateRows(test.rows, func(tx store.Tx) error {
					if err := tx.Set([]byte("k/1"), []byte("after")); err != nil {
						return err
					}
					err := test.fn(tx)
					if !errors.Is(err, store.ErrUndeclared) {
						c.t.Errorf("%s: %v inside, want ErrUndeclared", name, err)
					}
					if ignored {
						return nil
					}
					return err
				})
			})
			if !errors.Is(err, store.ErrUndeclared) {
				c.t.Errorf("%s, ignored %v: %v, want ErrUndeclared", name, ignored, err)
			}
		}
	}
	want(c.t, b, "k/1", "before")
	want(c.t, b, followed+"1", "before")
	if got := scan(c.t, b, followed, nil, false, -1); len(got) != 1 {
		c.t.Errorf("followed rows are %q", got)
	}
}

func ownRowWrites(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/1", "1")
	set(c.t, a, "k/2", "2")
	check(c.t, again(func() error {
		return a.UpdateRows(store.Rows{Lock: rows("k/1"), Read: rows("k/2", "k/3")}, func(tx store.Tx) error {
			if b, err := tx.Get([]byte("k/2")); err != nil || string(b) != "2" {
				return fmt.Errorf("what is read: %q, %w", b, err)
			}
			if b, err := tx.Get([]byte("k/3")); !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("what is read and missing: %q, %w", b, err)
			}
			if err := errors.Join(tx.Set([]byte("k/1"), []byte("one")), tx.Set([]byte("k/own"), []byte("own")), tx.Delete([]byte("k/2"))); err != nil {
				return err
			}
			for key, value := range map[string]string{"k/1": "one", "k/own": "own"} {
				if b, err := tx.Get([]byte(key)); err != nil || string(b) != value {
					return fmt.Errorf("a write is not seen: %q, %w", b, err)
				}
			}
			if _, err := tx.Get([]byte("k/2")); !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("a deletion is not seen: %w", err)
			}
			return nil
		})
	}))
	want(c.t, b, "k/1", "one")
	want(c.t, b, "k/own", "own")
	if got := scan(c.t, b, "k/2", nil, false, -1); len(got) != 0 {
		c.t.Errorf("what was deleted is there: %q", got)
	}
}

func failedRows(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, "k/1", "before")
	boom := errors.New("boom")
	fail := func(tx store.Tx) error {
		return errors.Join(tx.Set([]byte("k/1"), []byte("after")), tx.Set([]byte("k/2"), []byte("after")), boom)
	}
	for name, do := range map[string]func() error{
		"Update":     func() error { return a.Update(fail) },
		"UpdateRows": func() error { return a.UpdateRows(store.Rows{Lock: rows("k/1")}, fail) },
	} {
		if err := again(do); !errors.Is(err, boom) {
			c.t.Errorf("%s returned %v, want the error of the function", name, err)
		}
		if got := scan(c.t, b, "k/", nil, false, -1); len(got) != 1 || got[0] != "k/1=before" {
			c.t.Errorf("after a failed %s: %q", name, got)
		}
		// Nothing is held any more.
		check(c.t, again(func() error {
			return b.UpdateRows(store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("before")) })
		}))
	}
}
