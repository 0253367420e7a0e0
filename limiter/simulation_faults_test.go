package limiter_test

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// What goes wrong in a simulation: stops, kills, power cuts, faults, full disks,
// rollbacks.

// restart stops cleanly and starts again.
func (s *simulation) restart() {
	s.release()
	s.say("restart")
	for _, b := range s.books { // what runs at a stop counts as used
		for _, r := range b.running {
			if r.window == b.window {
				for i, n := range r.bound {
					b.used[i] += n
				}
			}
		}
		b.running = nil
	}
	if err := s.l.Close(); err != nil {
		s.fatalf("closing: %v", err)
	}
	if err := s.open(nil); err != nil {
		s.fatalf("opening after a clean stop: %v", err)
	}
	s.settle()
}

// crash kills the process, or cuts the power, at once or some steps from now.
func (s *simulation) crash(power bool) {
	var next *storetest.Disk
	if s.hold == nil && s.chance(70) {
		at := s.disk.Steps() + 1 + s.random.IntN(6)
		reached := s.chance(50)
		s.say("crash, power %v, at step %d, reached %v", power, at, reached)
		s.disk.Inject(func(n int, _ storetest.Step) (error, bool) {
			switch {
			case n < at:
				return nil, true
			case n == at:
				return storetest.ErrInjected, reached
			default:
				return storetest.ErrInjected, false
			}
		})
		// What is done on the way to that step is cut off at it.
		for range 8 {
			if s.l.Failed() != nil {
				break
			}
			s.request(s.pick())
			if s.chance(30) {
				s.grant(s.pick())
			}
			s.end(s.pick(), false)
		}
		next = s.disk.Restarted(power, func() bool { return s.chance(50) })
		s.disk.Inject(func(int, storetest.Step) (error, bool) { return storetest.ErrInjected, false })
	} else {
		s.say("crash, power %v", power)
		next = s.disk.Restarted(power, func() bool { return s.chance(50) })
		s.disk.Inject(func(int, storetest.Step) (error, bool) { return storetest.ErrInjected, false })
	}
	if power {
		s.counts.cuts++
		s.crashed = true
	} else {
		s.counts.kills++
	}
	s.lose()
	s.gone()
	s.disk = next
	s.reopened(nil)
}

// gone ends the process: nothing it does reaches a disk any more.
func (s *simulation) gone() {
	if s.hold != nil {
		s.disk.BeforeCommit(nil)
		close(s.hold)
		s.hold = nil
	}
	s.l.Abandon()
	s.settle()
	if len(s.ops) > 0 {
		s.fatalf("%d calls are never answered", len(s.ops))
	}
	for _, b := range s.books {
		// What ran was lost before; what these calls admitted, too.
		for _, r := range b.running {
			if r.window == b.window {
				for i, n := range r.bound {
					b.lost[i] += n
				}
			}
		}
		b.running = nil
		b.uncertain()
	}
}

// uncertain forgets what was asked for and not acknowledged: it may be there.
func (b *book) uncertain() {
	b.stopping = b.stopped
	if !b.paused {
		b.pausing = false
	}
}

// reopened opens the store again, through crashes on the way.
func (s *simulation) reopened(after *limiter.Limiter) {
	for tries := 0; ; tries++ {
		if tries < 3 && s.chance(30) {
			at := s.disk.Steps() + 1 + s.random.IntN(8)
			reached := s.chance(50)
			s.say("and again while it opens, at step %d, reached %v", at, reached)
			s.disk.Inject(func(n int, _ storetest.Step) (error, bool) { return when(n >= at), n < at || n == at && reached })
			err := s.open(after)
			s.disk.Inject(nil)
			s.settle()
			if err == nil && s.l.Failed() == nil {
				break // it came too late
			}
			if err == nil { // open, and failed at once
				after = s.l
				_ = after.Close()
				continue
			}
			if errors.Is(err, store.ErrDoubt) {
				s.fatalf("a crash is taken for a rollback: %v", err)
			}
			if after == nil {
				power := s.chance(50)
				s.crashed = s.crashed || power
				s.disk = s.disk.Restarted(power, func() bool { return s.chance(50) })
			}
			continue
		}
		s.disk.Inject(nil)
		if err := s.open(after); err != nil {
			s.fatalf("opening after a crash: %v", err)
		}
		break
	}
	s.settle()
	s.dead = false
	if _, err := s.l.AuditVerify(s.t.Context(), limiter.Operator); err != nil {
		s.fatalf("the audit log after a crash: %v", err)
	}
}

func when(fails bool) error {
	if fails {
		return storetest.ErrInjected
	}
	return nil
}

// fault fails one step while the process lives on: the store is closed, opened
// again, and everything that runs goes on.
func (s *simulation) fault() {
	s.release()
	at, reached := s.disk.Steps()+1, s.chance(50)
	s.counts.faults++
	s.say("fault at step %d, reached %v", at, reached)
	s.disk.Inject(func(n int, _ storetest.Step) (error, bool) { return when(n >= at), n == at && reached })
	s.dead = true
	for range 1 + s.random.IntN(5) {
		b := s.pick()
		switch s.random.IntN(6) {
		case 0:
			s.grant(b)
		case 1:
			s.revoke(b)
		case 2:
			s.suspend(b)
		case 3:
			s.end(b, false)
		default:
			s.request(b)
		}
	}
	if err := s.l.Ping(s.t.Context()); err == nil {
		s.fatalf("the store has not failed")
	}
	s.settle()
	for range 3 {
		s.end(s.pick(), false)
	}
	former := s.l
	if err := former.Close(); err == nil {
		s.fatalf("a failed store closes as if nothing had been")
	}
	s.settle()
	s.end(s.pick(), false)
	s.reopened(former)
	for _, b := range s.books { // stopped in memory is stopped
		b.stopped = b.stopping
		b.paused = b.pausing && !b.resuming
	}
}

// full fills the disk for a while.
func (s *simulation) full() {
	s.release()
	s.say("the disk is full")
	s.disk.Fill()
	for range 10 {
		b := s.pick()
		switch s.random.IntN(8) {
		case 0:
			s.grant(b)
		case 1:
			s.revoke(b)
		case 2:
			s.pass(11 * time.Second)
		case 3:
			s.end(b, false)
		default:
			s.request(b)
		}
	}
	s.disk.Heal()
	s.pass(11 * time.Second)
	if s.l.Failed() != nil {
		s.fatalf("a full disk is taken for a failed one: %v", s.l.Failed())
	}
	for _, b := range s.books { // what was stopped in memory has become durable
		b.stopped = b.stopping
	}
}

// commitOf is the number of the last commit on a disk.
func commitOf(s *simulation, d *storetest.Disk) (seq uint64) {
	err := d.Open().View(func(r store.Reader) error {
		b, err := r.Get([]byte("m/commit"))
		if err == nil {
			seq = binary.BigEndian.Uint64(b)
		}
		return err
	})
	if err != nil {
		s.fatalf("%v", err)
	}
	return seq
}

// rollback puts an older state of the store beside the newer anchor.
func (s *simulation) rollback(old *storetest.Disk) {
	s.release()
	if commitOf(s, s.disk) <= commitOf(s, old)+1 {
		return
	}
	s.counts.rollbacks++
	s.say("rollback")
	s.lose()
	next := s.disk.Restarted(false, nil)
	next.TakeData(old)
	s.disk.Inject(func(int, storetest.Step) (error, bool) { return storetest.ErrInjected, false })
	s.gone()
	s.disk = next
	for range 2 {
		if err := s.open(nil); !errors.Is(err, store.ErrDoubt) {
			s.fatalf("an older store opens: %v", err)
		}
	}
	if _, err := limiter.Forfeit(limiter.Offline{Store: rehearsed{s.disk.Open()}, Anchor: simulatedAnchor, Disk: s.disk.Files(), Now: s.l.Now()}, limiter.Operator, s.roles); err != nil {
		s.fatalf("forfeiting: %v", err)
	}
	s.reopened(nil)
	s.crashed = true
	for _, b := range s.books {
		g := new(limiter.Grant)
		k, refusal := s.l.Find(s.t.Context(), b.lookup)
		if refusal == nil {
			refusal = k.Reserve(s.t.Context(), &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/"}, g)
		}
		if refusal == nil {
			s.fatalf("key %s is admitted after everything was forfeited", b.id)
		}
	}
	s.books = nil
	s.role.used = s.role.limit
	for range 2 {
		s.mint()
	}
}
