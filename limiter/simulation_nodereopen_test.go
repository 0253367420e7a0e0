package limiter_test

import (
	"errors"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/store"
)

// A node that opens its database again in a simulation of several nodes, while requests run
// on it.

// opening is the store of a node that is being opened. Something happens before some of its
// first transactions.
type opening struct {
	store.Shared
	turn chan struct{} // holds one token while nothing happens
	left int           // transactions until then
	meet func() error  // its error is that of the transaction; nil: nothing happens any more
	next func() int    // transactions until something happens again
}

func (o *opening) reach() error {
	<-o.turn
	defer func() { o.turn <- struct{}{} }()
	if o.left--; o.left >= 0 || o.meet == nil {
		return nil
	}
	o.left = o.next()
	return o.meet()
}

// over lets nothing happen any more.
func (o *opening) over() {
	<-o.turn
	o.meet = nil
	o.turn <- struct{}{}
}

// View implements store.Store.
func (o *opening) View(fn func(store.Reader) error) error {
	return o.Shared.View(func(r store.Reader) error {
		if err := o.reach(); err != nil {
			return err
		}
		return fn(r)
	})
}

// Update implements store.Store.
func (o *opening) Update(fn func(store.Tx) error) error {
	if err := o.reach(); err != nil {
		return err
	}
	return o.Shared.Update(fn)
}

// opening returns the store of a node that is to be opened.
func (s *ensemble) opening(i int, next func() int) *opening {
	o := &opening{Shared: s.c.Node(s.c.w[i].node), turn: make(chan struct{}, 1), left: next(), next: next}
	o.turn <- struct{}{}
	return o
}

// reopen closes a node and opens it again with what runs on it, as when its database is
// reached in another way. Attempts may fail, and others go on meanwhile.
func (s *ensemble) reopen(i int) {
	if w := s.c.w[i]; s.stopped || len(s.ops) > 0 || !s.c.Connected(w.node) {
		return
	}
	s.say("%s opens its store again", s.c.w[i].node)
	s.counts.reopenings++
	s.follow(i)
}

// follow closes a node's limiter, and opens others after it until that succeeds, which
// happens unless something is wrong with the database. Nothing is but what interrupts an
// attempt: a commit that is refused ends one, too.
func (s *ensemble) follow(i int) {
	s.c.Inject(nil)
	w := s.c.w[i]
	former := w.Limiter
	s.away[i] = true
	if err := former.Close(); err != nil && former.Failed() == nil {
		s.fatalf("closing %s: %v", w.node, err)
	}
	for failing := s.random.IntN(4); ; failing-- {
		s.elsewhere(i)
		o := s.opening(i, func() int { return s.random.IntN(14) })
		lacks := 0
		if failing > 0 {
			o.meet = func() error { return s.interrupt(i, &lacks) }
		}
		err := w.follow(former, o)
		o.over()
		if err != nil {
			s.say("%s cannot be opened: %v", w.node, err)
			err = errors.Join(err, o.Close())
			s.cut(i, "its node could not be opened again")
		}
		s.c.Heal(w.node)
		s.settle()
		switch {
		case lacks > 0:
			if err == nil {
				err = w.Failed()
			}
			if !errors.Is(err, store.ErrDoubt) {
				s.fatalf("%s was opened while the database lost commits, and knows nothing of it: %v", w.node, err)
			}
			s.repair()
			return
		case err == nil:
			s.away[i] = false
			s.retain()
			s.settle()
			s.known(i)
			return
		case failing <= 0:
			s.fatalf("%s cannot be opened again: %v", w.node, err)
		}
	}
}

// elsewhere is what happens while a node is closed: its requests end, and others go on.
func (s *ensemble) elsewhere(i int) {
	switch s.random.IntN(6) {
	case 0:
		s.end(s.purse(), false)
	case 1:
		for range 1 + s.random.IntN(8) {
			if j := s.pick(); j >= 0 {
				s.request(j, s.purse())
			}
		}
	case 2:
		if j := s.pick(); j >= 0 {
			s.revoke(j, s.purse())
		}
	case 3:
		if j := s.pick(); j >= 0 {
			s.grant(j, s.purse())
		}
	case 4:
		s.pass(time.Duration(s.random.IntN(3000)) * time.Millisecond)
	}
}

// interrupt is what happens in the middle of an attempt to open a node.
func (s *ensemble) interrupt(i int, lacks *int) error {
	w := s.c.w[i]
	switch n := s.random.IntN(12); {
	case *lacks > 0: // nothing else happens
	case n < 4:
		s.say("%s is interrupted", w.node)
		return store.ErrUnavailable
	case n < 6 && !s.quiet:
		s.say("%s is cut off while it is opened", w.node)
		s.c.Cut(w.node)
		s.pass(isolated + time.Second)
		s.cut(i, "its node has lost touch")
		return store.ErrUnavailable
	case n < 7 && !s.quiet && !s.gentle:
		if *lacks = s.c.Failover(1 + s.random.IntN(3)); *lacks > 0 {
			s.say("a standby takes over, which lacks %d commits", *lacks)
			s.counts.failovers++
			s.counts.losses++
		}
		s.settle()
	default:
		s.elsewhere(i)
	}
	return nil
}

// cut checks that what runs on a node was cut.
func (s *ensemble) cut(i int, why string) {
	for _, b := range s.purses {
		for _, r := range b.running {
			if r.node == i && r.grant.Cut() == nil {
				s.fatalf("%s: a request of %s goes on although %s", s.c.w[i].node, b.id, why)
			}
		}
	}
}

// known checks that a node knows what runs on it.
func (s *ensemble) known(i int) {
	w := s.c.w[i]
	for _, b := range s.purses {
		n := 0
		for _, r := range b.running {
			if r.node == i {
				n++
			}
		}
		if n == 0 || b.gone || b.going {
			continue
		}
		view, err := w.Get(limiter.Operator, b.id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil || view.InFlight != n {
			s.fatalf("%s: %d requests of %s run, and it knows %d: %v", w.node, n, b.id, view.InFlight, err)
		}
	}
}
