package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// How a node of the simulated shared store follows the others, and when it has lost touch.

// miss notes that memory has not followed what was committed since a moment.
func (n *clusterNode) miss(since time.Duration) {
	if !n.missed {
		n.missed, n.since = true, since
	}
}

// sure is the moment up to which memory has followed everything, and whether it stands
// still there, because there is something to follow, or no contact.
func (n *clusterNode) sure() (at time.Duration, stands bool) {
	at = n.contact
	if n.online {
		at = n.c.elapsed()
	}
	if n.missed {
		at = min(at, n.since)
	}
	for feed, i := n.feed(), n.followed; i < len(feed); i++ {
		if feed[i].node != n.name {
			return min(at, feed[i].at), true
		}
	}
	return at, n.missed || !n.online
}

func (n *clusterNode) fresh() error {
	switch {
	case n.doubt() != nil:
		return n.doubt()
	case !n.joined || n.gone():
		return fmt.Errorf("%w: it has not joined", store.ErrStale)
	case n.reachable() && n.taken():
		return errTaken
	}
	sure, _ := n.sure()
	if age := n.c.elapsed() - sure - n.leapt; age > freshFor && n.c.flaw != Timeless {
		return fmt.Errorf("%w since %s", store.ErrStale, age)
	}
	return nil
}

// Fresh implements store.Shared.
func (n *clusterNode) Fresh() error {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.fresh()
}

// watch tells the follower when it begins to be stale.
func (n *clusterNode) watch() {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	for {
		n.c.wait(func() (bool, time.Duration) {
			if n.gone() {
				return true, 0
			}
			err := n.fresh()
			final := n.final || err == nil || errors.Is(err, store.ErrStale) || n.c.flaw == Reticent
			if (err != nil) == n.stale && final || n.paused {
				next := forever
				if sure, stands := n.sure(); err == nil && stands && n.c.flaw != Timeless {
					next = sure + n.leapt + freshFor
				}
				return false, next
			}
			return true, 0
		})
		if n.gone() {
			return
		}
		err := n.fresh()
		n.stale, n.final = err != nil, err != nil && !errors.Is(err, store.ErrStale)
		if err != nil {
			n.c.mu.Unlock()
			n.follower.Stale(err)
			n.c.mu.Lock()
		}
	}
}

// follow tells the follower what others have done.
func (n *clusterNode) follow() {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var step func()
		c.wait(func() (bool, time.Duration) {
			var next time.Duration
			step, next = n.next()
			return step != nil || n.gone(), next
		})
		if n.gone() {
			return
		}
		step()
		if !n.missed && n.followed >= len(n.feed()) {
			n.leapt = 0
		}
		if n.online && n.said != n.followed {
			n.said = n.followed
		}
		c.wakeAll()
	}
}

// next is the next step to take, or when to look again. The step is called with the
// lock held.
func (n *clusterNode) next() (step func(), at time.Duration) {
	c := n.c
	switch now := c.elapsed(); {
	case !n.reachable() || n.doubt() != nil || n.taken():
		return nil, forever
	case !n.online && !n.trusts():
		return nil, n.since + sessionFor
	case !n.online:
		return func() {
			if now-n.contact > sessionFor { // what was told meanwhile may be gone
				n.miss(n.contact)
			}
			n.online = true
		}, 0
	case n.missed && now < n.retry:
		return nil, n.retry
	case n.missed:
		return func() {
			head := len(n.feed())
			if n.tell(func() error { return n.follower.Missed() }) {
				n.missed, n.followed = false, head
			}
		}, 0
	case len(n.recalls) > 0:
		return func() {
			account := n.recalls[0]
			n.recalls = n.recalls[1:]
			n.tell(func() error {
				n.follower.Recalled(account)
				return nil
			})
		}, 0
	case n.followed >= len(n.feed()):
		return nil, forever
	default:
		e := n.feed()[n.followed]
		if e.node == n.name {
			return func() { n.followed++ }, 0
		}
		if n.quiet && now-e.at < heartbeat {
			return nil, e.at + heartbeat
		}
		return func() {
			if n.tell(func() error { return n.follower.Changed(e.keys) }) {
				n.followed++
			} else {
				n.miss(e.at)
			}
		}, 0
	}
}

// tell calls the follower without the lock, and reports whether what it has followed
// is still what the database holds.
func (n *clusterNode) tell(call func() error) bool {
	failovers := n.c.failovers
	n.c.mu.Unlock()
	err := call()
	n.c.mu.Lock()
	if err != nil {
		n.retry = n.c.elapsed() + followRetries
	}
	return err == nil && failovers == n.c.failovers
}
