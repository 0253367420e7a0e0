package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// latch is a lock that transactions wait for in the order in which they came.
type latch []*transaction // those that hold it, then those that wait

// transaction is one of a simulated shared store.
type transaction struct {
	overlay

	node      *clusterNode
	exclusive bool
	server    *formerServer // that it runs on; nil: the present one
	held      []string      // rows that it holds or waits for
	declared  map[string]bool
	tells     [][]byte      // rows that other nodes have to follow
	denied    error         // it was told ErrUndeclared
	aborted   error         // the database has given it up
	frozen    time.Duration // since when its client does nothing, while it is paused
}

// grants reports whether a transaction has a latch: it is the first, or shares it with
// all before it.
func (l latch) grants(t *transaction, shares func(t *transaction) bool) bool {
	for _, before := range l {
		if before == t {
			return true
		}
		if !shares(before) || !shares(t) {
			return false
		}
	}
	return false
}

func (l latch) without(t *transaction) latch {
	return slices.DeleteFunc(l, func(other *transaction) bool { return other == t })
}

// acquire waits for the locks of a transaction.
func (c *Cluster) acquire(t *transaction, lock [][]byte) error {
	until := c.elapsed() + lockPatience
	await := func(holds func() bool) error {
		c.wait(func() (bool, time.Duration) {
			next := min(until, c.thaw())
			return t.aborted != nil || holds() || c.elapsed() >= until, next
		})
		switch {
		case t.aborted != nil:
			return t.aborted
		case !holds():
			return fmt.Errorf("%w: others hold the rows for too long", store.ErrUnavailable)
		}
		return nil
	}
	c.all = append(c.all, t)
	err := await(func() bool {
		return c.all.grants(t, func(t *transaction) bool { return !t.exclusive })
	})
	keys := make([]string, len(lock))
	for i, key := range lock {
		keys[i] = string(key)
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if err != nil {
			break
		}
		if c.locks[key] == nil {
			c.locks[key] = new(latch)
		}
		l := c.locks[key]
		*l, t.held = append(*l, t), append(t.held, key)
		err = await(func() bool {
			return l.grants(t, func(*transaction) bool { return false })
		})
	}
	return err
}

// release ends a transaction.
func (c *Cluster) release(t *transaction) {
	c.all = c.all.without(t)
	for _, key := range t.held {
		if l := c.locks[key]; len(*l) > 1 {
			*l = l.without(t)
		} else {
			delete(c.locks, key)
		}
	}
	t.held = nil
	delete(c.open, t)
	c.wakeAll()
}

// abort gives up the open transactions of a node, or of all nodes.
func (c *Cluster) abort(n *clusterNode, err error) {
	for t := range c.open {
		if n == nil || t.node == n {
			c.giveUp(t, err)
		}
	}
}

func (c *Cluster) giveUp(t *transaction, err error) {
	if t.aborted == nil {
		t.aborted = err
		c.release(t)
	}
}

// thaw gives up transactions whose clients have done nothing for too long, and returns
// when the next one will have.
func (c *Cluster) thaw() (next time.Duration) {
	next = forever
	for t := range c.open {
		if !t.node.paused {
			continue
		}
		if at := t.frozen + idlePatience; c.elapsed() > at {
			c.giveUp(t, fmt.Errorf("%w: the transaction was idle for too long", store.ErrUnavailable))
		} else {
			next = min(next, at)
		}
	}
	return next
}

// Update implements store.Store.
func (n *clusterNode) Update(fn func(store.Tx) error) error {
	return n.transact(true, store.Rows{}, fn)
}

// UpdateRows implements store.Shared.
func (n *clusterNode) UpdateRows(rows store.Rows, fn func(store.Tx) error) error {
	return n.transact(false, rows, fn)
}

func (n *clusterNode) transact(exclusive bool, rows store.Rows, fn func(store.Tx) error) error {
	n.c.mu.Lock()
	rehearse := n.c.rehearse
	n.c.mu.Unlock()
	if rehearse {
		err := n.run(exclusive, rows, func(tx store.Tx) error { return errors.Join(fn(tx), errRehearsal) })
		if !errors.Is(err, errRehearsal) {
			return err
		}
	}
	return n.run(exclusive, rows, fn)
}

var errRehearsal = errors.New("only a rehearsal")

// run runs a transaction once.
func (n *clusterNode) run(exclusive bool, rows store.Rows, fn func(store.Tx) error) error {
	c := n.c
	t := &transaction{node: n, exclusive: exclusive, overlay: overlay{changes: make(map[string]change)}}
	c.mu.Lock()
	err := n.enter()
	if err == nil && !n.joined {
		err = errors.New("a transaction before Join")
	}
	if err == nil {
		t.server, err = n.connection(c.flaw != Lingering)
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	c.open[t] = struct{}{}
	err = c.acquire(t, rows.Lock)
	t.base = c.table(t.server)
	fault := c.fault
	c.mu.Unlock()
	if err == nil {
		err = t.declare(rows)
	}
	if err == nil {
		if err = n.nesting.transaction(func() error { return fn(t) }); t.denied != nil && !errors.Is(err, store.ErrUndeclared) {
			err = errors.Join(err, t.denied)
		}
	}
	outcome := Committed
	if err == nil && len(t.changes) > 0 && fault != nil {
		outcome = fault(n.name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.release(t)
	if err != nil || len(t.changes) == 0 {
		return err
	}
	return n.finish(t, outcome)
}

// finish commits, unless something has gone wrong.
func (n *clusterNode) finish(t *transaction, outcome Outcome) error {
	c := n.c
	err := n.enter()
	if t.aborted != nil {
		return t.aborted
	}
	if err != nil {
		return err
	}
	if t.server != nil {
		if !c.keep(t) {
			return fmt.Errorf("%w: another server is used by now", store.ErrUnavailable)
		}
		return nil
	}
	refused := fmt.Errorf("%w: the commit was refused", store.ErrUnavailable)
	switch outcome {
	case Refused:
		return refused
	case CutRefused:
		n.disconnect()
		if err := n.learn(); err != nil {
			return err
		}
		return refused
	case CutCommitted:
		c.commit(t)
		c.release(t)
		n.disconnect()
		return n.learn()
	}
	c.commit(t)
	return nil
}

// learn waits until a node is connected again, and so can learn what has become of a
// commit.
func (n *clusterNode) learn() error {
	n.c.wakeAll()
	n.c.wait(func() (bool, time.Duration) { return n.gone() || n.reachable(), forever })
	switch {
	case n.killed:
		return errKilled
	case n.gone():
		return store.ErrClosed
	case n.doubt() == nil && n.taken(): // nobody tells it
		return errTaken
	}
	return n.doubt()
}

// View implements store.Store.
func (n *clusterNode) View(fn func(store.Reader) error) error {
	n.c.mu.Lock()
	err := n.enter()
	var server *formerServer
	if err == nil {
		server, err = n.connection(n.c.flaw != Outdated)
	}
	rows := n.c.table(server)
	n.c.mu.Unlock()
	if err != nil {
		return err
	}
	return n.nesting.view(func() error { return fn(rows) })
}

// declare notes what a transaction of rows may read. One that runs alone may read all.
func (t *transaction) declare(rows store.Rows) error {
	if t.exclusive {
		return nil
	}
	t.declared = make(map[string]bool)
	for _, key := range rows.Lock {
		if _, found := t.base.find(string(key)); !found {
			return fmt.Errorf("%w: %q does not exist", store.ErrUndeclared, key)
		}
		t.declared[string(key)] = true
	}
	for _, key := range rows.Read {
		t.declared[string(key)] = true
	}
	return nil
}

// deny says that a row is not declared.
func (t *transaction) deny(key []byte) error {
	t.denied = fmt.Errorf("%w: %q", store.ErrUndeclared, key)
	return t.denied
}

// Get implements store.Reader.
func (t *transaction) Get(key []byte) ([]byte, error) {
	if _, written := t.changes[string(key)]; !written && !t.exclusive && !t.declared[string(key)] {
		return nil, t.deny(key)
	}
	return t.overlay.Get(key)
}

// Scan implements store.Reader.
func (t *transaction) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	if !t.exclusive {
		return t.deny(prefix)
	}
	return t.overlay.Scan(prefix, after, reverse, fn)
}

// Set implements store.Tx.
func (t *transaction) Set(key, value []byte) error {
	return t.write(key, change{value: bytes.Clone(value)})
}

// Delete implements store.Tx.
func (t *transaction) Delete(key []byte) error { return t.write(key, change{deleted: true}) }

func (t *transaction) write(key []byte, ch change) error {
	if t.node.follower.Follows(key) {
		if !t.exclusive {
			return t.deny(key)
		}
		if !slices.ContainsFunc(t.tells, func(other []byte) bool { return bytes.Equal(other, key) }) {
			t.tells = append(t.tells, bytes.Clone(key))
		}
	}
	t.changes[string(key)] = ch
	return nil
}

// Interface guards
var (
	_ store.Tx     = (*transaction)(nil)
	_ store.Reader = table(nil)
)
