package limiter_test

import (
	"slices"
	"time"
)

// A failover in a simulation of several nodes after which the former server stays for a
// moment: new connections lead to the one that has taken over.

// divide lets a standby that has everything take over while nodes still have connections to
// the former server. Some go on there until their sessions lead to the present one, which
// may lack by then what they have done.
func (s *ensemble) divide() {
	if !s.healthy() {
		return
	}
	s.counts.failovers++
	s.c.Inject(nil)
	var stay []int
	s.c.Divide(func(node string) (stays bool, idle int) {
		i := slices.IndexFunc(s.c.w, func(w *world) bool { return w.node == node })
		if stays = s.chance(60); stays {
			stay = append(stay, i)
		}
		idle = s.random.IntN(4)
		s.say("a standby takes over, and the former server stays: the session of %s there %v, and %d connections", node, stays, idle)
		return stays, idle
	})
	s.settle()
	lacks := false
	for began := s.now(); len(stay) > 0; {
		s.meanwhile()
		if s.now()-began > 2*time.Second || s.chance(40) {
			i := stay[0]
			stay = stay[1:]
			ahead := s.c.Move(s.c.w[i].node)
			s.say("the session of %s leads to the present server, which lacks what it has done: %v", s.c.w[i].node, ahead)
			lacks = lacks || ahead
			s.settle()
		}
	}
	if !lacks {
		for range s.random.IntN(6) {
			s.meanwhile()
			if i := s.pick(); i >= 0 && s.chance(30) {
				s.revoke(i, s.purse())
			}
			s.consistent()
		}
	}
	s.say("the former server has ended")
	s.c.FormerEnds()
	if s.settle(); !lacks {
		return
	}
	s.counts.losses++
	for i := range s.c.w {
		s.doubts(i)
	}
	s.repair()
}

// meanwhile is what happens while a former server stays.
func (s *ensemble) meanwhile() {
	switch s.random.IntN(4) {
	case 0:
		s.end(s.purse(), false)
	case 1:
		s.c.Advance(time.Duration(s.random.IntN(500)) * time.Millisecond)
		s.settle()
	default:
		for range 1 + s.random.IntN(3) {
			s.request(s.pick(), s.purse())
		}
	}
}

// now is how long the simulation has run.
func (s *ensemble) now() time.Duration {
	_, steady := s.c.Clock("").Now()
	return steady
}
