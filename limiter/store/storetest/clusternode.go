package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// clusterNode is a process that has the simulated shared store open.
type clusterNode struct {
	c        *Cluster
	name     string
	started  time.Time
	follower store.Follower
	running  sync.WaitGroup // its goroutines
	nesting  nesting

	joined, closed, killed, cut, paused bool

	online  bool          // its session is renewed all the time
	contact time.Duration // when it was online last
	left    bool          // its session was ended
	fenced  bool          // by another node
	repairs int           // of the database, when it joined
	heard   error         // a doubt, or a repair that its memory is older than

	followed int           // how many entries of the feed its memory has followed
	said     int           // how many of these the others know of
	leapt    time.Duration // time that passed at once since it began to follow
	missed   bool          // memory has to be read again
	since    time.Duration // what was committed later may be missing in memory
	retry    time.Duration // when to try to follow again
	quiet    bool          // notifications are lost
	recalls  [][]byte
	stale    bool // its follower was told
	final    bool // and was told that this stays

	place
}

// Node returns another process with a name. Only one of a name can have joined.
func (c *Cluster) Node(name string) store.Shared {
	now, _ := c.Clock("").Now()
	return &clusterNode{c: c, name: name, started: now}
}

// Bystander joins as a node that follows nothing. It leaves at the end of the test, if not
// before.
func (c *Cluster) Bystander(t testing.TB, name string) store.Shared {
	t.Helper()
	n := c.Node(name)
	if err := n.Join(store.Bystander{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Write changes rows as no node of the test would.
func (c *Cluster) Write(t testing.TB, fn func(tx store.Tx) error) {
	t.Helper()
	n := c.Bystander(t, "stranger")
	if err := errors.Join(n.Update(fn), n.Close()); err != nil {
		t.Fatal(err)
	}
}

// Node implements store.Shared.
func (n *clusterNode) Node() string { return n.name }

func (n *clusterNode) gone() bool { return n.closed || n.killed }

func (n *clusterNode) reachable() bool { return !n.c.down && !n.cut && !n.paused }

// live reports whether others have to wait for a node.
func (n *clusterNode) live() bool {
	return n.c.sessions[n.name] == n && !n.left && (n.online || n.c.elapsed()-n.contact <= sessionFor)
}

// leave ends the contact to the database.
func (n *clusterNode) leave() {
	if n.online {
		n.online, n.contact, n.leapt = false, n.c.elapsed(), 0
	}
	for t := range n.c.open {
		if t.node == n {
			t.frozen = n.c.elapsed()
		}
	}
}

// kill ends the process.
func (n *clusterNode) kill() {
	n.leave()
	n.killed = true
	n.c.abort(n, errKilled)
	if n.c.leader == n {
		n.c.leader = nil
	}
}

// taken reports whether another process has the node's name now, or another node has fenced
// it.
func (n *clusterNode) taken() bool {
	return n.joined && (n.c.sessions[n.name] != n || n.fenced) && n.c.flaw != Impostors
}

// disconnect takes the network away.
func (n *clusterNode) disconnect() {
	n.leave()
	n.cut = true
	n.c.abort(n, store.ErrUnavailable)
}

// doubt is why a node may not believe the database, or not its own memory, as far as it
// has heard.
func (n *clusterNode) doubt() error {
	switch {
	case n.heard != nil || !n.reachable() || n.stays:
	case n.c.doubt != nil:
		n.heard = n.c.doubt
	case n.joined && n.repairs != n.c.repairs:
		n.heard = store.Doubt("it was repaired since this node has joined")
	}
	return n.heard
}

// enter waits while the process is paused, and says whether it can use the database.
func (n *clusterNode) enter() error {
	n.c.wait(func() (bool, time.Duration) { return n.gone() || !n.paused, forever })
	switch {
	case n.killed:
		return errKilled
	case n.closed:
		return store.ErrClosed
	case n.doubt() != nil:
		return n.doubt()
	case !n.reachable():
		return fmt.Errorf("%w: no connection", store.ErrUnavailable)
	case n.taken():
		return errTaken
	}
	return nil
}

// Join implements store.Shared.
func (n *clusterNode) Join(f store.Follower) error {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait(func() (bool, time.Duration) {
		former := c.sessions[n.name]
		free := former == nil || former.killed || !former.live()
		if free || former.online {
			return free || n.gone(), forever
		}
		return n.gone(), former.contact + sessionFor
	})
	if err := n.enter(); err != nil {
		return err
	}
	n.follower, n.joined, n.online = f, true, true
	n.followed, n.said, n.repairs = len(c.feed), len(c.feed), c.repairs
	if former := c.sessions[n.name]; former != nil && !former.gone() {
		c.outlived[n.name] = former
	}
	c.sessions[n.name] = n
	n.running.Go(n.follow)
	n.running.Go(n.watch)
	c.wakeAll()
	return nil
}

// Close implements store.Store.
func (n *clusterNode) Close() error {
	n.c.do(func() {
		n.left = n.left || n.reachable()
		n.leave()
		n.closed = true
		if n.c.leader == n {
			n.c.leader = nil
		}
	})
	n.running.Wait()
	return nil
}

// Settled implements store.Shared.
func (n *clusterNode) Settled(patience time.Duration) (behind []string, err error) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	head, began, on := len(n.feed()), time.Now(), n.stays
	c.wait(func() (bool, time.Duration) {
		until := c.elapsed() + patience - time.Since(began) // what passes at once does not count, as in fresh
		if n.gone() || n.doubt() != nil || n.stays != on {
			return true, 0
		}
		behind = behind[:0]
		next := until
		for _, name := range c.names() {
			other := c.sessions[name]
			if other == n || !other.live() || other.stays == on && other.said >= head && !other.missed {
				continue
			}
			behind = append(behind, name)
			if !other.online {
				next = min(next, other.contact+sessionFor)
			}
		}
		return n.reachable() && len(behind) == 0 || c.elapsed() >= until, next
	})
	switch {
	case n.gone():
		return nil, store.ErrClosed
	case n.doubt() != nil:
		return nil, n.doubt()
	case !n.reachable() || n.stays != on:
		return nil, fmt.Errorf("%w: no connection", store.ErrUnavailable)
	}
	return behind, nil
}

// Recall implements store.Shared.
func (n *clusterNode) Recall(account []byte) {
	n.c.do(func() {
		if n.gone() || !n.reachable() || n.c.deaf || n.c.flaw == Deaf {
			return
		}
		for _, other := range n.c.sessions {
			if other != n && other.online && !other.quiet && other.stays == n.stays {
				other.recalls = append(other.recalls, slices.Clone(account))
			}
		}
	})
}

// Leads implements store.Shared.
func (n *clusterNode) Leads() bool {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case n.gone() || !n.joined:
		return false
	case !n.online: // nobody has told it yet that it does not
		return c.leader == n && c.elapsed()-n.contact <= freshFor
	case c.leader == nil || !c.leader.live():
		c.leader = n
	}
	return c.leader == n
}

// Nodes implements store.Shared.
func (n *clusterNode) Nodes() ([]store.Node, error) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := n.enter(); err != nil {
		return nil, err
	}
	var all []store.Node
	for _, name := range c.names() {
		other := c.sessions[name]
		seen := other.contact
		if other.online {
			seen = c.elapsed()
		}
		all = append(all, store.Node{
			Name: name, Version: "simulated", Started: other.started, Seen: clusterEpoch.Add(seen),
			Live: other.live(), Behind: int64(len(c.feed) - other.said), Leads: c.leader == other,
		})
	}
	return all, nil
}

// Fence implements store.Shared.
func (n *clusterNode) Fence(node string) error {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := n.enter(); err != nil {
		return err
	}
	if other := c.sessions[node]; other != nil {
		if other.live() {
			return fmt.Errorf("%w: %s", store.ErrAlive, node)
		}
		other.left, other.fenced = true, true
		c.wakeAll()
	}
	return nil
}

// Forget implements store.Shared.
func (n *clusterNode) Forget(node string) error {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := n.enter(); err != nil {
		return err
	}
	other := c.sessions[node]
	switch {
	case other == nil:
	case other.live():
		return fmt.Errorf("%w: %s", store.ErrAlive, node)
	case !other.gone():
		c.outlived[node] = other
	}
	delete(c.sessions, node)
	return nil
}

// Interface guards
var _ store.Shared = (*clusterNode)(nil)
