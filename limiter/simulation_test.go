package limiter_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// simulation is one run over a simulated machine: its clock, its disk with
// every step a fault can come at, its kills and power cuts, all from one seed.
// It knows what it was told and holds that against what it sees.
type simulation struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	log    []string // what was done, for a failure

	clock *fakeClock
	disk  *storetest.Disk
	roles map[string]record.Role
	l     *limiter.Limiter

	books []*book
	role  roleBook
	ops   []*op // not yet answered
	later []func()
	hold  chan struct{} // the committer waits for it; nil: it does not

	crashed bool // something may have been forfeited
	dead    bool // a fault has failed the store
	counts  simulated
}

// simulated counts what a simulation did.
type simulated struct{ steps, requests, refused, kills, cuts, faults, rollbacks, extra int64 }

// book is what the simulation knows of a key.
type book struct {
	id     string
	lookup token.Lookup
	limit  record.Amounts // at most: also what may have been granted
	least  record.Amounts // at least: what was acknowledged
	daily  bool
	shared bool

	used    record.Amounts // settled
	window  int64          // day that used is about, of a daily key
	running []*running
	lost    record.Amounts // bounds of what ran at a crash

	stopping, stopped  bool // a revocation was asked for, was acknowledged
	pausing, paused    bool // the same of a suspension
	resuming           bool // was asked for, and what came of it is not known
	revokes, revokeErr int  // acknowledged, and not
}

type roleBook struct {
	limit int64
	used  int64 // settled, held, and lost: activations
}

type running struct {
	grant  *limiter.Grant
	bound  record.Amounts
	window int64
}

// op is a call that may take several steps.
type op struct {
	done func() // takes the answer over; once the call has returned
	over atomic.Bool
}

const simulatedShadow, simulatedAnchor = "shadow", "anchor"

func (s *simulation) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("seed %d: %s\nto replay: %s=%d go test -run TestSimulation ./limiter\n%s",
		s.seed, fmt.Sprintf(format, args...), seedVariable, s.seed, strings.Join(s.log, "\n"))
}

func (s *simulation) say(format string, args ...any) {
	line := fmt.Sprintf("%4d  ", s.counts.steps) + fmt.Sprintf(format, args...)
	if n := len(s.log); n == 0 || s.log[n-1] != line {
		s.log = append(s.log, line)
	}
}

// begin starts a call and lets everything run until it waits.
func (s *simulation) begin(call func() func()) {
	o := new(op)
	s.ops = append(s.ops, o)
	go func() {
		o.done = call()
		o.over.Store(true)
	}()
	s.settle()
}

// settle lets everything run until it waits, and takes over what was answered.
func (s *simulation) settle() {
	synctest.Wait()
	rest := s.ops[:0]
	for _, o := range s.ops {
		if o.over.Load() {
			o.done()
		} else {
			rest = append(rest, o)
		}
	}
	s.ops = rest
	later := s.later // refusals, once it is known what was admitted beside them
	s.later = nil
	for _, judge := range later {
		judge()
	}
}

// release lets a held committer go on.
func (s *simulation) release() {
	if s.hold != nil {
		s.disk.BeforeCommit(nil)
		close(s.hold)
		s.hold = nil
	}
	s.settle()
}

func (s *simulation) open(after *limiter.Limiter) error {
	l, err := limiter.Open(limiter.Options{
		Patience: patience,
		Retain:   1 << 62, // whatever the clock says, the books name every key
		Store:    rehearsed{s.disk.Open()}, Disk: s.disk.Files(), Shadow: simulatedShadow, Anchor: simulatedAnchor,
		Clock: s.clock, Roles: s.roles, After: after,
	})
	if err == nil {
		s.l = l
	}
	return err
}

func (s *simulation) pick() *book { return s.books[s.random.IntN(len(s.books))] }

func (s *simulation) chance(percent int) bool { return s.random.IntN(100) < percent }

func (s *simulation) day() int64 { return s.l.Now().Unix() / 86400 }

// consistent checks what must hold whenever nothing is on its way.
func (s *simulation) consistent() {
	if s.hold != nil || s.l.Failed() != nil {
		return
	}
	s.settle()
	for _, b := range s.books {
		view, err := s.l.Get(limiter.Operator, b.id)
		if err != nil {
			s.fatalf("key %s: %v", b.id, err)
		}
		if b.stopped && view.Status != record.Revoked {
			s.fatalf("key %s was revoked and is %s", b.id, view.Status)
		}
		memory, stored, err := s.l.Reserved(b.id)
		if err != nil {
			s.fatalf("key %s: %v", b.id, err)
		}
		for kind, limit := range b.limit {
			if limit == record.NoLimit || s.over(b) {
				continue
			}
			if stored[kind] > limit || memory[kind] > stored[kind] || view.Used[kind]+view.Held[kind] > memory[kind] && view.Used != (record.Amounts{}) {
				s.fatalf("key %s: %d %s used, %d held, %d reserved in memory, %d in the store, of %d",
					b.id, view.Used[kind], record.Kind(kind), view.Held[kind], memory[kind], stored[kind], limit)
			}
			if view.Used[kind] < b.used[kind] {
				s.fatalf("key %s: the limiter counts %d %s, %d were used", b.id, view.Used[kind], record.Kind(kind), b.used[kind])
			}
			if !s.crashed && view.Used[kind] > b.used[kind]+b.lost[kind] {
				s.fatalf("key %s: the limiter counts %d %s; %d were used and %d lost in flight", b.id, view.Used[kind], record.Kind(kind), b.used[kind], b.lost[kind])
			}
		}
	}
}

func (s *simulation) run() {
	s.random = rand.New(rand.NewPCG(s.seed, 1))
	s.clock, s.disk = newClock(), storetest.NewDisk()
	s.t.Cleanup(func() { // also when it has failed
		s.disk.BeforeCommit(nil)
		if s.hold != nil {
			close(s.hold)
		}
		s.l.Abandon()
	})
	s.role.limit = 400
	s.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{s.role.limit, -1, -1, -1}}}}
	if err := s.open(nil); err != nil {
		s.fatalf("%v", err)
	}
	for range 1 + s.random.IntN(4) {
		s.mint()
	}
	var old *storetest.Disk
	for s.counts.steps = range int64(60) {
		b := s.pick()
		switch n := s.random.IntN(100); {
		case n < 45:
			for range 1 + s.random.IntN(12) {
				s.request(b)
				if s.chance(50) {
					s.clock.advance(time.Duration(s.random.IntN(2000)) * time.Microsecond)
				}
			}
		case n < 65:
			s.end(b, false)
		case n < 70:
			s.grant(b)
		case n < 71:
			s.revoke(b)
		case n < 73:
			s.suspend(b)
		case n < 76:
			s.resume(b)
		case n < 79:
			s.pass(time.Duration(s.random.IntN(4000)) * time.Millisecond)
		case n < 80:
			s.pass(20 * time.Minute)
		case n < 82:
			s.pass(time.Duration(s.random.IntN(30)) * time.Hour)
		case n < 85:
			if s.hold == nil {
				hold := make(chan struct{})
				s.hold = hold
				s.disk.BeforeCommit(func(int) { <-hold })
			} else {
				s.release()
			}
		case n < 87:
			s.restart()
		case n < 90:
			s.crash(false)
		case n < 92:
			s.crash(true)
		case n < 95:
			s.fault()
		case n < 97:
			s.full()
		case n < 98:
			jump := jumps[s.random.IntN(len(jumps))]
			s.say("the clock is set by %s", jump)
			s.clock.set(jump)
		case old == nil:
			s.release()
			old = s.disk.Snapshot()
		default:
			s.rollback(old)
			old = nil
		}
		s.consistent()
	}
	s.release()
	for _, b := range s.books {
		s.end(b, true)
	}
	s.consistent()
	s.restart()
	s.consistent()
	s.l.Abandon()
	synctest.Wait()
}

// jumps are how far a clock may be set at once.
var jumps = []time.Duration{
	time.Second, time.Minute, time.Hour, 24 * time.Hour, 10 * 365 * 24 * time.Hour,
	-time.Second, -time.Minute, -time.Hour, -24 * time.Hour, -10 * 365 * 24 * time.Hour,
}

// TestSimulation runs many seeds over the simulated machine.
func TestSimulation(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sum simulated
	seeds := someSeeds(t, 80, 5000)
	t.Cleanup(func() { // when all shares have ended
		t.Logf("%s: %d requests (%d refused), %d kills, %d power cuts, %d faults, %d rollbacks; %d extra",
			seeds, sum.requests, sum.refused, sum.kills, sum.cuts, sum.faults, sum.rollbacks, sum.extra)
	})
	seeds.run(t, func(t *testing.T, seed uint64) {
		s := &simulation{seed: seed}
		synctest.Test(t, func(t *testing.T) {
			s.t = t
			s.run()
		})
		mu.Lock()
		defer mu.Unlock()
		sum.add(&s.counts)
	})
}

func (s *simulated) add(o *simulated) {
	s.requests += o.requests
	s.refused += o.refused
	s.kills += o.kills
	s.cuts += o.cuts
	s.faults += o.faults
	s.rollbacks += o.rollbacks
	s.extra += o.extra
}
