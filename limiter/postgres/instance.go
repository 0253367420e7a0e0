package postgres

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A server that takes over from another may lack commits. Only the node itself knows of its
// latest commits: the others learn how many there are when they renew their sessions. So each
// node compares its own number of commits with the new server's, and vouches for the server
// if none is missing; from then on it acknowledges no commit of another server, such as the
// former one, which may still commit, and never goes back to a server that it has left.
// Before a node goes on there, it waits until the nodes that were alive have vouched. A node
// that finds commits missing writes its doubt for all: see doubt.go. Servers are told apart
// by when they started, so nodes also vouch after a mere restart. That takes no longer than
// they need to connect.
//
// A node that ended together with the former server, or that cannot reach the new one
// within the life of a session, is not waited for: what it alone knows stays unknown.
type instance struct {
	trusted atomic.Int64 // the server that may be used; 0: none yet

	past *past

	mu     sync.Mutex
	judged int64           // the one that others have to vouch for
	since  time.Duration   // when this node saw it first
	live   map[string]bool // other nodes, when the trusted one was last asked
}

// past is which servers a process has left, and which it has gone to. The stores that it opens
// one after the other share one, even those that do not join: each may have vouched.
type past struct {
	mu     sync.Mutex
	chosen int64          // the server that the node has vouched for last, or is about to
	left   map[int64]bool // those before it
}

// choose leaves the server that was chosen until now, unless it is this one.
func (p *past) choose(instance int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left[instance] {
		return errLeft
	}
	if p.chosen != 0 && p.chosen != instance {
		p.left[p.chosen] = true
	}
	p.chosen = instance
	return nil
}

// check returns an error if the server was left.
func (p *past) check(instance int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left[instance] {
		return errLeft
	}
	return nil
}

// vouch says in the database that it has all commits acknowledged to this node.
func (s *Store) vouch(ctx context.Context, c *conn, now state, session []byte, acked int64) error {
	if now.vouched[s.options.Node] {
		return nil
	}
	_, err := c.run(ctx, say(s.sql.vouch, textOf(s.options.Node), byteaOf(session), int8Of(now.instance), int8Of(acked)))
	return err
}

// trust reports whether the server that has answered may be used.
func (s *Store) trust(now state) bool {
	i := &s.instance
	moved := false
	defer func() {
		if moved {
			s.pool.flush() // connections to the former server may still work
		}
	}()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.past.check(now.instance) != nil {
		return false
	}
	if now.instance == i.trusted.Load() {
		i.live = now.live
		return true
	}
	if now.instance != i.judged {
		i.judged, i.since = now.instance, boottime()
	}
	silent := make(map[string]bool)
	for _, nodes := range []map[string]bool{now.live, i.live} { // the server may not know all nodes that were alive
		for name, lives := range nodes {
			if lives && name != s.options.Node && !now.vouched[name] {
				silent[name] = true
			}
		}
	}
	if len(silent) > 0 && boottime()-i.since < sessionLife {
		return false
	}
	if len(silent) > 0 {
		s.log.Warn("the database's server is another than before, and these nodes have not said that it has all of their commits", "nodes", slices.Sorted(maps.Keys(silent)))
	}
	i.trusted.Store(now.instance)
	moved = true
	return true
}

// judge returns an error if the server that has answered may not be used yet, after this
// node has said what it knows of it.
func (s *Store) judge(ctx context.Context, c *conn, now state) error {
	acked, err := s.choose(now)
	if err != nil {
		return err
	}
	if err := s.vouch(ctx, c, now, s.session, acked); err != nil {
		return err
	}
	if !s.trust(now) {
		return errUnvouched
	}
	return nil
}

// choose leaves the server that was used until now for the one that has answered, for good,
// and returns the last commit that was acknowledged. It does not go to a standby that has
// not taken over.
func (s *Store) choose(now state) (acked int64, err error) {
	if now.standby {
		return 0, errStandby
	}
	i := &s.instance
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.past.choose(now.instance); err != nil {
		return 0, err
	}
	acked = s.acked.Load()
	if i.trusted.Load() != now.instance {
		i.trusted.Store(0)
		if now.commits[s.options.Node] < acked { // the next look finds that out
			return 0, errUnvouched
		}
	}
	return acked, nil
}

// acknowledge notes a commit, unless the node has left the server that has made it.
func (s *Store) acknowledge(batch, instance int64) bool {
	s.instance.mu.Lock()
	defer s.instance.mu.Unlock()
	if instance != s.instance.trusted.Load() {
		return false
	}
	s.acked.Store(batch)
	return true
}

// checkInstance returns an error if another server has answered than the one that may be
// used: a connection to the former one is left, or a pooler now leads to another one.
func (s *Store) checkInstance(instance int64) error {
	if !s.joined.Load() || instance == s.instance.trusted.Load() {
		return nil
	}
	return cmp.Or(s.instance.past.check(instance), error(errUnvouched))
}

// errUnvouched is the fault of a server that other nodes have yet to vouch for.
var errUnvouched = &fault{text: "its server has started since, and other nodes have yet to say whether it has all of their commits", away: true, unvouched: true}

// errStandby is the fault of a server that has not taken over, as PostgreSQL says it.
var errStandby = &fault{code: "25006", text: "the server is a standby, which cannot be written to"}

// errLeft is the fault of a server that this node has left for another one. Commits missing
// there are no reason for doubt.
var errLeft = &fault{text: "this node has left this server for another one: stop it, or restart it if it is the one to go on with", away: true, left: true}

const (
	// vouchPatience is how long a transaction waits until other nodes have vouched, and
	// vouchEvery the time between two looks. Nodes that are alive take about a second.
	vouchPatience = 2 * time.Second
	vouchEvery    = 50 * time.Millisecond
)
