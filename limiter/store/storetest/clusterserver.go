package storetest

import (
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// After a failover the former server may stay for a moment: new connections lead to the
// server that has taken over, and existing ones to the former server still work. A node's
// session is on the server that the connection which renews it leads to. The node vouches
// for the server that its session comes to, if that has all of its commits, and uses neither
// that server nor the former one until all nodes that are alive have vouched, too.

// formerServer is a server that another has taken over from.
type formerServer struct {
	rows table
	feed []entry
	head int // of the feed when the other one took over
	at   time.Duration
}

// place is where a node is while a former server stays.
type place struct {
	stays   bool // its session is on the former server
	idle    int  // other connections to that server, which it does not use
	waits   bool // the present server may not be used yet
	vouched bool // it has said that the present server has all of its commits
	ahead   int  // commits that only the former server has acknowledged to it
}

// Divide puts a standby that has all commits in the database's place, and leaves the former
// server as it is. where says for each node whether its session stays there, and how many
// other connections it has there. Nothing else may go wrong until FormerEnds, which has to
// be called before sessions end.
func (c *Cluster) Divide(where func(node string) (stays bool, idle int)) {
	c.do(func() {
		c.stays = &formerServer{rows: c.rows, feed: append([]entry(nil), c.feed...), head: len(c.feed), at: c.elapsed()}
		c.failovers++
		for t := range c.open {
			t.server = c.stays
		}
		for _, name := range c.names() {
			n := c.sessions[name]
			n.place = place{}
			n.stays, n.idle = where(name)
			if !n.stays {
				n.move()
			}
		}
	})
}

// Move lets a node's session come to the present server, and reports whether only the
// former one has some of its commits.
func (c *Cluster) Move(node string) (ahead bool) {
	c.of(node, func(n *clusterNode) {
		if n.stays {
			ahead = n.ahead > 0
			n.move()
		}
	})
	return ahead
}

// FormerEnds stops the former server, from which all nodes have moved.
func (c *Cluster) FormerEnds() {
	c.do(func() {
		for t := range c.open {
			if t.server != nil {
				c.giveUp(t, store.ErrUnavailable)
			}
		}
		for _, n := range c.sessions {
			n.idle = 0
		}
		c.stays = nil
	})
}

// move ends a node's session on the former server.
func (n *clusterNode) move() {
	n.leave()
	n.c.failovers++
	n.stays, n.waits, n.vouched = false, true, false
	n.followed = min(n.followed, n.c.stays.head)
	n.said = min(n.said, n.followed)
}

// trusts reports whether a node may use the server that its session is on, after it has said
// what it knows of it.
func (n *clusterNode) trusts() bool {
	if !n.waits {
		return true
	}
	c := n.c
	if !n.vouched {
		n.vouched, n.since = true, c.elapsed()
		c.wakeAll()
		if n.ahead > 0 {
			n.heard = store.Doubt("the database lacks %d commits of %s", n.ahead, n.name)
			if c.flaw != Misplaced {
				c.doubt = n.heard
			}
			return false
		}
	}
	for _, other := range c.sessions {
		if other != n && !other.vouched && other.live() && c.elapsed()-n.since < sessionFor {
			return false
		}
	}
	n.waits = false
	return true
}

// connection is the server that a transaction runs on, or a view reads; nil: the present
// one. A connection to the former one is given up once it has shown where it leads.
func (n *clusterNode) connection(checked bool) (*formerServer, error) {
	switch c := n.c; {
	case c.stays == nil:
		return nil, nil
	case n.stays:
		return c.stays, nil
	case n.idle > 0 && !checked:
		return c.stays, nil
	case n.waits:
		n.abandon()
		return nil, fmt.Errorf("%w: other nodes have yet to say whether the server has all of their commits", store.ErrUnavailable)
	}
	n.abandon()
	return nil, nil
}

// abandon gives up the connections that lead to the former server.
func (n *clusterNode) abandon() {
	if n.c.flaw != Outdated {
		n.idle = 0
	}
}

// feed is the feed of the server that a node's session is on.
func (n *clusterNode) feed() []entry {
	if n.stays {
		return n.c.stays.feed
	}
	return n.c.feed
}

// table is what a server holds.
func (c *Cluster) table(s *formerServer) table {
	if s != nil {
		return s.rows
	}
	return c.rows
}

// keep lets the former server commit a transaction, and reports whether its node acknowledges
// that: it does not if its session has left.
func (c *Cluster) keep(t *transaction) bool {
	t.server.rows = t.server.rows.with(t.changes)
	if len(t.tells) > 0 {
		t.server.feed = append(t.server.feed, entry{t.node.name, t.tells, c.elapsed()})
	}
	if t.node.stays {
		t.node.ahead++
	}
	return t.node.stays || c.flaw == Lingering
}
