package limiter_test

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// A node in a simulation of several nodes that is removed while its process lives.

// mishap lets something go wrong, or ends that, of which it is known what it can lose.
func (s *ensemble) mishap(i int) {
	w := s.c.w[i]
	switch n := s.random.IntN(7); {
	case n < 4 && s.c.Connected(w.node):
		s.remove(i)
	case n == 4:
		s.say("%s is cut off", w.node)
		s.counts.cuts++
		s.mayForfeit(i)
		s.c.Cut(w.node)
	case n == 5:
		lost := s.chance(50)
		s.say("%s is told of nothing: %v", w.node, lost)
		s.c.Lose(w.node, lost)
	default:
		s.say("%s is connected", w.node)
		s.c.Heal(w.node)
		s.settle()
	}
}

// remove cuts a node off, or kills it, until it can be removed. It comes back while another
// removes it, or afterwards.
func (s *ensemble) remove(i int) {
	w, j, former := s.c.w[i], s.pick(), s.c.w[i].Limiter
	if j < 0 || j == i || s.stopped || len(s.ops) > 0 || !s.c.Connected(w.node) || !s.c.Connected(s.c.w[j].node) {
		return
	}
	by, killed := s.c.w[j], s.chance(40)
	opens := killed || s.chance(50) // while it is removed
	s.say("%s is cut off, or killed %v, and %s removes it; it is opened meanwhile: %v", w.node, killed, by.node, opens)
	s.counts.removals++
	s.c.Inject(nil)
	if killed {
		for _, b := range s.purses { // what its shadow alone knows is not believed once it is removed
			b.unsure.Add(b.unwritten[i])
		}
		s.killWith(i, false)
	} else {
		s.c.Cut(w.node)
		for range s.random.IntN(4) { // of what it has reserved
			s.request(i, s.purse())
		}
	}
	s.pass(11 * time.Second)
	s.cut(i, "its node has lost touch")
	for _, b := range s.purses {
		if s.chance(50) {
			s.end(b, false)
		}
	}
	s.mayForfeit(i) // from here on it reserves nothing: it is taken off before anything is folded
	s.c.Inject(func(string) storetest.Outcome {
		time.Sleep(10 * time.Millisecond) // so that the two take turns
		return storetest.Committed
	})
	pauses := rand.New(rand.NewPCG(s.random.Uint64(), 4))
	after := 500 * time.Microsecond
	if s.chance(50) {
		after += time.Duration(pauses.IntN(12)) * 5 * time.Millisecond
	}
	s.launch(func() func() {
		time.Sleep(after)
		if !killed {
			s.c.Heal(w.node)
		}
		if !opens {
			return func() {}
		}
		var closed error
		if !killed {
			closed = former.Close()
		}
		o := s.opening(i, func() int { return pauses.IntN(10) })
		o.meet = func() error {
			time.Sleep(time.Duration(pauses.IntN(8)) * 5 * time.Millisecond)
			return nil
		}
		options := w.options(o)
		if !killed {
			options.After = former
		}
		l, err := limiter.Open(options)
		o.over()
		return func() {
			if closed != nil && former.Failed() == nil {
				s.fatalf("closing %s: %v", w.node, closed)
			}
			if err != nil {
				s.fatalf("%s cannot be opened: %v", w.node, err)
			}
			w.Limiter, s.down[i] = l, false
		}
	})
	err := errors.New("it is not over")
	s.launch(func() func() {
		_, removed := by.RemoveNode(ctx, limiter.Operator, w.node)
		return func() { err = removed }
	})
	s.settle()
	for range 20 {
		if len(s.ops) > 0 {
			s.settle()
		}
	}
	s.c.Inject(nil)
	s.settle()
	s.retain()
	s.say("%s is there again, and its removal says: %v", w.node, err)
	switch {
	case err == nil:
		s.gone[0]++
	case errors.Is(err, store.ErrUnavailable):
		s.gone[1]++
	}
	switch {
	case err == nil && !opens && w.Failed() == nil:
		s.fatalf("%s was removed, and goes on as if it was not", w.node)
	case err != nil && !errors.Is(err, limiter.ErrNodeLives) && !errors.Is(err, limiter.ErrNoNode) && !errors.Is(err, store.ErrUnavailable):
		s.fatalf("removing %s: %v", w.node, err)
	}
	s.tend()
}

// tend opens nodes again that have failed: others have removed them.
func (s *ensemble) tend() {
	for i, w := range s.c.w {
		err := w.Failed()
		if s.down[i] || s.paused[i] || s.away[i] || err == nil || !s.c.Reaches(w.node) || errors.Is(err, store.ErrDoubt) {
			continue
		}
		s.say("%s has failed, and is opened again: %v", w.node, err)
		s.counts.reopenings++
		s.follow(i)
	}
}

// mayForfeit notes what of keys counts as spent if a node is gone from now on: what it has
// reserved and not used, with what runs on it.
func (s *ensemble) mayForfeit(i int) {
	w := s.c.w[i]
	for _, b := range s.purses {
		part, err := s.c.partOf(b.id, w.node)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			s.fatalf("key %s: %v", b.id, err)
		}
		lost, known := w.Unspent(b.id, &part)
		if !known {
			lost = part.Reserved.Minus(part.Settled)
		}
		b.forfeit.Add(lost)
	}
}
