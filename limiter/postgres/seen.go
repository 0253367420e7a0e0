package postgres

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/store"
)

// seen is what this process knows that the database once had. A database that now has less
// went back in time: it was restored from a copy, or a standby took over that had not
// received everything.
type seen struct {
	mu      sync.Mutex
	commits map[string]int64 // by node
	head    int64            // of the feed
	// The sessions of nodes that were alive when the database was asked.
	renewals map[string]renewal
}

// renewal is the last known renewal of a session: when it was, by the database's clock, and
// when this node found out.
type renewal struct {
	at    int64
	found time.Duration
}

// state is what the database says of itself.
type state struct {
	commits  map[string]int64
	head     int64
	database string
	micros   int64

	generation int64
	doubt      []byte // why no node uses it; nil: it is in order

	instance int64            // the server that has answered
	standby  bool             // it has not taken over
	vouched  map[string]bool  // nodes that have found it to have all of their commits
	live     map[string]bool  // nodes whose sessions have not expired
	renewed  map[string]int64 // when their sessions were renewed last
}

func stateOf(result *pgconn.Result) state {
	n := len(result.Rows)
	now := state{commits: make(map[string]int64, n), vouched: make(map[string]bool, n), live: make(map[string]bool, n), renewed: make(map[string]int64, n)}
	instances := make(map[string]int64, n)
	for _, row := range result.Rows {
		if row[0] != nil {
			name := string(row[0])
			now.commits[name], instances[name], now.live[name] = intFrom(row[1]), intFrom(row[6]), boolFrom(row[7])
			now.renewed[name] = intFrom(row[8])
		} else {
			now.head, now.database, now.micros = intFrom(row[1]), string(row[2]), intFrom(row[3])
			now.generation, now.doubt, now.instance, now.standby = intFrom(row[4]), row[5], intFrom(row[6]), boolFrom(row[7])
		}
	}
	for name, instance := range instances {
		now.vouched[name] = instance == now.instance
	}
	return now
}

// before is what was seen until now. A later answer of the database must not have less.
func (s *Store) before() state {
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	known := state{commits: maps.Clone(s.seen.commits), head: s.seen.head, database: s.database}
	known.commits[s.options.Node] = max(known.commits[s.options.Node], s.acked.Load())
	return known
}

// compare finds out whether the database went back in time since before was taken.
func (s *Store) compare(before, now state) error {
	if err := s.instance.past.check(now.instance); err != nil {
		return err
	}
	if err := s.replaced(before, now); err != nil {
		return s.fail(err)
	}
	if err := s.checkState(now.generation, now.doubt); err != nil {
		return err
	}
	if why := s.lacks(before, now); why != nil {
		return s.fail(why)
	}
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	for node, batch := range now.commits {
		s.seen.commits[node] = max(s.seen.commits[node], batch)
	}
	s.seen.head = max(s.seen.head, now.head)
	for node, at := range now.renewed {
		if now.live[node] && s.seen.renewals[node].at != at {
			s.seen.renewals[node] = renewal{at, boottime()}
		}
	}
	return nil
}

// mayBeFresh reports whether a node whose session was renewed at that time may still admit
// something, although the session has expired: the database's clock may have been set. asked
// is when this node began to ask.
func (n *seen) mayBeFresh(node string, at int64, asked time.Duration) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, lived := n.renewals[node]
	if known.at != at {
		known.found = asked
	}
	return lived && boottime() < known.found+freshFor
}

// replaced returns an error if another database is in the place of the one that was seen.
func (s *Store) replaced(before, now state) error {
	if before.database == "" || now.database == before.database {
		return nil
	}
	return fmt.Errorf("%w: %s is another database now; lead this node to the one that it had, or start it again", store.ErrDoubt, s.where)
}

// lacks returns the doubt about a database that has lost something since before was
// taken, or nil.
func (s *Store) lacks(before, now state) error {
	for node, batch := range before.commits {
		if now.commits[node] < batch {
			return doubt("%s has %d commits of node %s, and had %d", s.where, now.commits[node], node, batch)
		}
	}
	if now.head < before.head {
		return doubt("%s has %d changes that nodes follow, and had %d", s.where, now.head, before.head)
	}
	return nil
}

// checkState compares the database's generation with that of this node's session, and
// finds out whether any node has doubted it.
func (s *Store) checkState(generation int64, why []byte) error {
	switch {
	case generation < s.generation:
		return s.fail(doubt("%s is as it was before its last repair", s.where))
	case generation > s.generation:
		return s.fail(errRepaired)
	case why != nil:
		return s.fail(&loss{string(why)})
	}
	return nil
}

// raise notes that the feed has this row.
func (n *seen) raise(head int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.head = max(n.head, head)
}

// checkConn compares the server that a new connection leads to with what was seen before:
// it may be another one.
func (s *Store) checkConn(ctx context.Context, c *conn) error {
	if !s.joined.Load() {
		return nil
	}
	before := s.before()
	results, err := c.run(ctx, say(s.sql.numbers))
	if err != nil {
		return err
	}
	now := stateOf(results[0])
	if err := s.compare(before, now); err != nil {
		return err
	}
	return s.judge(ctx, c, now)
}
