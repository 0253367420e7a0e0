package limiter_test

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// What goes wrong in a simulation of several nodes.

// isolated is after how long without contact a node must refuse.
const isolated = 7 * time.Second

// fault lets something go wrong, or ends that.
func (s *ensemble) fault(i int) {
	w := s.c.w[i]
	switch s.random.IntN(16) {
	case 0:
		s.kill(i)
	case 1:
		for i := range s.c.w {
			s.start(i)
		}
	case 2, 3:
		s.say("%s is cut off", w.node)
		s.counts.cuts++
		s.c.Cut(w.node)
	case 4:
		s.say("%s is paused", w.node)
		s.counts.pauses++
		s.c.Pause(w.node)
		s.paused[i] = true
	case 5:
		for i, w := range s.c.w {
			s.say("%s is connected and goes on", w.node)
			s.c.Heal(w.node)
			s.c.Resume(w.node)
			s.paused[i] = false
			if !s.down[i] && s.chance(50) { // before it has found its way
				s.request(i, s.purse())
			}
		}
		s.settle()
	case 6:
		s.counts.outages++
		switch {
		case s.stopped:
			s.say("the database is there again")
			s.c.Start()
		case s.chance(50):
			s.say("the database is restarted")
			s.c.Restart()
			s.settle()
			return
		default:
			s.say("the database is gone")
			s.c.Stop()
		}
		s.stopped = !s.stopped
		s.settle()
	case 7:
		s.failover()
	case 8:
		lost := s.chance(50)
		s.say("%s is told of nothing: %v", w.node, lost)
		s.c.Lose(w.node, lost)
		s.c.LoseRecalls(s.chance(20))
	case 9, 10:
		s.outcomes()
	case 11:
		s.usurp(i)
	case 12:
		s.remove(i)
	case 13, 14:
		s.divide()
	default:
		s.heal()
	}
}

// skew moves a node's clock: a little, as when it takes long to hear what time the
// database has, or by far, as nothing should. The clock of its machine is not looked at: in
// a bubble of testing/synctest that is always years away.
func (s *ensemble) skew(i int) {
	w, d := s.c.w[i], time.Duration(s.random.IntN(2001)-1000)*time.Millisecond
	if !s.quiet && s.chance(50) {
		d = jumps[s.random.IntN(len(jumps))]
		s.astray = true
	}
	s.say("the clock of %s is %s ahead", w.node, d)
	s.c.Skew(w.node, d)
}

// outcomes lets some of the next commits fail, or be cut off.
func (s *ensemble) outcomes() {
	s.say("commits fail")
	random := rand.New(rand.NewPCG(s.random.Uint64(), 3))
	var mu sync.Mutex
	left := 1 + random.IntN(3)
	s.c.Inject(func(string) storetest.Outcome {
		mu.Lock()
		defer mu.Unlock()
		if left == 0 || random.IntN(2) == 0 {
			return storetest.Committed
		}
		left--
		return storetest.Outcome(1 + random.IntN(3))
	})
}

// kill ends a node's process as kill -9 does, or a power cut. It stays down for a while.
func (s *ensemble) kill(i int) {
	if s.down[i] {
		return
	}
	s.killWith(i, s.chance(40))
}

// killWith is kill, with a power cut or not.
func (s *ensemble) killWith(i int, power bool) {
	w := s.c.w[i]
	s.say("%s is killed, power %v", w.node, power)
	s.counts.kills++
	s.down[i], s.paused[i] = true, false
	s.c.Kill(w.node)
	w.Abandon()
	s.settle() // what it was asked for ends
	for _, b := range s.purses {
		b.lose(i)
		b.forgetUnwritten(i, power)
	}
	w.disk = w.disk.Restarted(power, func() bool { return s.chance(50) })
	w.files = w.disk.Files()
}

// usurp stalls a node until its session has expired, starts another process under its
// name, as from a copy of its machine, and lets the first go on. That one may neither
// admit nor change anything any more, and what runs on it is cut.
func (s *ensemble) usurp(i int) {
	if !s.healthy() {
		return
	}
	w, power := s.c.w[i], s.chance(40)
	former := w.Limiter
	s.say("%s is stalled, and another process takes its name, with a shadow %v", w.node, !power)
	s.counts.takeovers++
	s.c.Inject(nil)
	s.c.Pause(w.node)
	s.paused[i] = true
	var ran []*ticket
	for _, b := range s.purses {
		for _, r := range b.running {
			if r.node == i {
				ran = append(ran, r)
			}
		}
		b.lose(i)
		b.forgetUnwritten(i, power)
	}
	s.pass(11 * time.Second)
	w.disk = w.disk.Restarted(power, func() bool { return s.chance(50) })
	w.files = w.disk.Files()
	s.open(i)
	s.paused[i] = false
	s.settle()
	for range s.random.IntN(12) {
		s.request(i, s.purse())
	}
	defer func() {
		s.c.KillOutlived(w.node)
		former.Abandon()
	}()
	s.c.ResumeOutlived(w.node)
	for range 2 { // at once, and after it has looked around
		for _, b := range s.purses {
			s.askFormer(w, former, b)
		}
		for _, r := range ran {
			if r.grant.Cut() == nil {
				s.fatalf("%s: another process has its name, and a request goes on", w.node)
			}
			r.grant.Settle(record.Amounts{record.Activations: 1})
		}
		former.SweepActive()
		s.pass(4 * time.Second)
	}
}

// askFormer asks a process whose name another has taken for a request, and for a change.
func (s *ensemble) askFormer(w *world, former *limiter.Limiter, b *purse) {
	s.begin(func() func() {
		k, refusal := former.Find(ctx, b.lookup)
		if refusal == nil {
			refusal = k.Reserve(ctx, &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}, new(limiter.Grant))
		}
		_, err := former.GrantMore(ctx, limiter.Operator, b.id, limiter.More{Activations: 1})
		return func() {
			switch {
			case refusal == nil:
				s.fatalf("%s: another process has its name, and it admits %s", w.node, b.id)
			case err == nil:
				s.fatalf("%s: another process has its name, and it has changed %s", w.node, b.id)
			}
		}
	})
}

// lose ends what runs on a node without an answer.
func (b *purse) lose(node int) {
	rest := b.running[:0]
	for _, r := range b.running {
		if r.node != node {
			rest = append(rest, r)
			continue
		}
		b.window(r.key).lost.Add(r.bound)
	}
	b.running = rest
}

// forgetUnwritten notes that a node has lost its memory. Without a shadow nobody knows what
// answers have cost beyond their bounds, unless it was written.
func (b *purse) forgetUnwritten(node int, power bool) {
	if power {
		b.unsure.Add(b.unwritten[node])
	}
	b.unwritten[node] = record.Amounts{}
}

// open opens a node that knows nothing but what its store and its shadow say.
func (s *ensemble) open(i int) {
	w := s.c.w[i]
	w.open(s.c.Node(w.node))
}

// start starts a node that was killed, unless it could not join now.
func (s *ensemble) start(i int) {
	if !s.down[i] || s.stopped {
		return
	}
	w := s.c.w[i]
	s.say("%s starts", w.node)
	s.c.Inject(nil)
	s.open(i)
	s.down[i] = false
	s.retain()
	s.settle()
}

// restart stops a node cleanly and starts it again, unless something is wrong.
func (s *ensemble) restart(i int) {
	if !s.healthy() {
		return
	}
	w := s.c.w[i]
	s.say("%s is restarted", w.node)
	s.c.Inject(nil)
	for _, b := range s.purses { // what runs at a stop counts as used
		rest := b.running[:0]
		for _, r := range b.running {
			if r.node == i {
				b.window(r.key).used.Add(r.bound)
			} else {
				rest = append(rest, r)
			}
		}
		b.running = rest
	}
	if err := w.Close(); err != nil {
		s.fatalf("closing %s: %v", w.node, err)
	}
	w.open(s.c.Node(w.node))
	s.retain()
	s.settle()
}
