package limiter_test

import (
	"errors"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A database that goes back in time in a simulation of several nodes, and its repair.

// failover puts a standby in the database's place, which may lack the last commits. Then
// nothing may be admitted, until an operator repairs it.
func (s *ensemble) failover() {
	if s.stopped {
		return
	}
	if i := s.pick(); i >= 0 && len(s.ops) == 0 && s.chance(30) {
		s.outOfTouch(i)
	}
	lost := 0
	if len(s.ops) == 0 && s.chance(50) {
		lost = 1 + s.random.IntN(5)
	}
	s.counts.failovers++
	lost = s.c.Failover(lost)
	s.say("a standby takes over, which lacks %d commits", lost)
	if s.settle(); lost == 0 {
		return
	}
	s.counts.losses++
	for i, w := range s.c.w {
		if !s.down[i] && s.c.Reaches(w.node) {
			s.doubts(i)
		}
	}
	s.repair()
}

// outOfTouch lets a node lose touch with the database.
func (s *ensemble) outOfTouch(i int) {
	w := s.c.w[i]
	s.say("%s loses touch", w.node)
	s.counts.cuts++
	s.c.Cut(w.node)
	s.pass(isolated + time.Second)
}

// doubts checks that a node knows that the database has lost something, or that it was
// repaired since.
func (s *ensemble) doubts(i int) {
	w := s.c.w[i]
	if err := w.Failed(); !errors.Is(err, store.ErrDoubt) {
		s.fatalf("%s knows nothing of a doubt: %v", w.node, err)
	}
	for _, b := range s.purses {
		k := &key{w: w, id: b.id, lookup: b.lookup}
		if g, refusal := k.ask(); refusal == nil || refusal.Code != record.CodeStoreUnavailable {
			s.fatalf("%s: key %s on a store that has lost commits: %v, %v", w.node, b.id, g, refusal)
		}
	}
	s.cut(i, "the database is in doubt")
}

// repair takes the database as it is. Each node was killed before, or closes its store and
// opens it again afterwards, with the requests that run. Those that have lost touch may hear
// of it only then.
func (s *ensemble) repair() {
	s.say("an operator repairs the database")
	s.c.Inject(nil)
	s.pass(isolated + time.Second)
	late := make([]bool, len(s.c.w))
	for i, w := range s.c.w {
		if late[i] = !s.down[i] && !s.away[i] && !s.c.Reaches(w.node) && s.chance(60); late[i] {
			continue
		}
		s.c.Heal(w.node)
		s.c.Resume(w.node)
		s.settle()
		if !s.down[i] && !s.away[i] {
			s.doubts(i)
		}
		s.paused[i], s.away[i] = false, false
		switch {
		case s.down[i]:
		case s.chance(50):
			s.kill(i)
		default:
			if err := w.Close(); err == nil {
				s.fatalf("%s closes as if the database had lost nothing", w.node)
			}
			w.after = w.Limiter
		}
	}
	s.settle()
	if _, err := limiter.ForfeitShared(s.c.Repair(), limiter.Operator, s.c.w[0].roles, s.c.w[0].Now(), discard); err != nil {
		s.fatalf("repairing the database: %v", err)
	}
	for i, w := range s.c.w {
		if s.start(i); w.after != nil {
			s.open(i)
			w.after = nil
		}
	}
	for i, w := range s.c.w {
		if !late[i] {
			continue
		}
		s.say("%s hears that the database was repaired", w.node)
		s.c.Heal(w.node)
		s.c.Resume(w.node)
		s.paused[i] = false
		s.settle()
		s.doubts(i)
		if err := w.Close(); err == nil {
			s.fatalf("%s closes as if the database had lost nothing", w.node)
		}
		w.after = w.Limiter
		s.open(i)
		w.after = nil
	}
	s.retain()
	s.settle()
	s.forfeited()
}

// forfeited holds the nodes against what a repair promises: every budget is spent, that of
// roles as well, and what no budget stops is suspended.
func (s *ensemble) forfeited() {
	for at, n := range s.roles {
		s.spent[at] = n
	}
	s.repaired = true
	s.mints, s.gone = [2]int{s.audited("key.create"), 0}, [2]int{s.audited("node.remove"), 0}
	rest := s.purses[:0]
	for _, b := range s.purses {
		for _, w := range s.c.w {
			if g, refusal := (&key{w: w, id: b.id, lookup: b.lookup}).ask(); refusal == nil || refusal.Code == record.CodeStoreUnavailable && !s.reset[b.role] {
				s.fatalf("%s: key %s after everything was forfeited: %v, %v", w.node, b.id, g, refusal)
			}
		}
		if _, err := s.c.w[0].Get(limiter.Operator, b.id); err != nil && !errors.Is(err, store.ErrNotFound) {
			s.fatalf("key %s: %v", b.id, err)
		} else if err != nil || b.daily || b.kids > 0 || b.parent != nil {
			continue // nothing is known of it, or it is suspended, or what is a child's is not known
		}
		b.going, b.gone, b.stopped, b.paused, b.pausing, b.within = b.going || b.gone, false, false, false, false, 0
		b.ending, b.extended = true, true
		taken := b.taken(b.last())
		for kind, limit := range b.limit {
			if limit != record.NoLimit { // until more is granted
				b.limit[kind] = taken[kind] - b.window(b.last()).over[kind]
			}
		}
		b.unsure = b.window(b.last()).used
		rest = append(rest, b)
	}
	s.purses = rest
	for range 2 {
		s.mint(s.random.IntN(len(s.c.w)))
	}
	for _, b := range s.purses {
		if b.ending {
			s.grant(s.pick(), b)
		}
	}
}
