package limiter_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// ensemble is one run of several nodes over a simulated store: what each of them is asked
// for, and what goes wrong, all from one seed. It knows what it was told, by whatever
// node, and holds that against what it sees.
type ensemble struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	log    []string
	c      *nodes
	quiet  bool // nothing goes wrong
	gentle bool // what goes wrong loses nothing that is not known
	flaw   storetest.Flaw

	forgets bool // keys that have ended an hour ago are forgotten, and otherwise after months
	astray  bool // a node's clock was far from the others'

	repaired bool // the database was

	down    []bool // nodes that were killed
	paused  []bool
	away    []bool // nodes that are being opened again
	stopped bool   // the database is

	purses []*purse
	roles  map[roleWindow]int64 // settled, held, and lost: activations
	spent  map[roleWindow]int64 // the same after a repair, which leaves nothing
	before map[roleWindow]int64 // the same when a limit was lowered
	most   map[string]int64     // that any node may allow of a role's budget
	reset  map[string]bool      // roles that were changed
	mints  [2]int               // acknowledged, and not
	gone   [2]int               // removals of nodes: acknowledged, and not
	ops    []*op
	later  []func() // judgements, once it is known what was admitted besides
	counts ensembleCounts
}

// ensembleCounts counts what simulations did.
type ensembleCounts struct {
	steps, requests, admitted, refused, kills, cuts, pauses, takeovers, outages, failovers, losses, reopenings, removals, commits int64
}

// purse is what a simulation knows of a key.
type purse struct {
	id     string
	lookup token.Lookup
	limit  record.Amounts    // at most: also what may have been granted
	least  record.Amounts    // at least: what was acknowledged
	most   record.Amounts    // that limit was
	asked  []*record.Amounts // the lowest of that since each request that is not judged yet was made
	daily  bool
	role   string
	parent *purse
	kids   int // that were asked for

	changes, changing, granting int // of the limit: that were begun, that are under way, and grants that are

	windows map[int64]*window
	running []*ticket

	stopped, pausing, paused bool // a revocation was acknowledged; a suspension was asked for, was acknowledged
	ending                   bool // a revocation was asked for, or it has ended by itself
	gone, going              bool // it was forgotten, or perhaps

	created     time.Time
	within      time.Duration // it has to be used first; 0: at any time
	extended    bool          // that may have been put off
	tried, used bool          // a request was made within that, was admitted by all clocks

	forfeit   record.Amounts   // may count as spent, as a node was gone
	unwritten []record.Amounts // on each node: used beyond bounds, and perhaps not durable
	unsure    record.Amounts   // was that when its node lost its memory
}

// window is what was taken in one window of a key; over is the part of used that answers
// have cost beyond their bounds.
type window struct{ used, over, lost record.Amounts }

// ticket is a request that runs on a node.
type ticket struct {
	node       int
	grant      *limiter.Grant
	bound      record.Amounts
	key, roles int64 // windows
}

type roleWindow struct {
	role  string
	epoch int64
}

// ensembleRoles are the budgets that keys share at first.
func ensembleRoles() map[string]record.Role {
	return map[string]record.Role{
		"ci":    {Budget: record.RoleBudget{Limit: record.Amounts{300, -1, -1, -1}}},
		"night": {Budget: record.RoleBudget{Limit: record.Amounts{60, -1, -1, -1}, Renews: record.Daily}},
	}
}

// finding is what a simulation with a flaw has found.
type finding string

func (s *ensemble) fatalf(format string, args ...any) {
	s.t.Helper()
	if s.flaw != storetest.Sound {
		panic(finding(fmt.Sprintf(format, args...)))
	}
	s.t.Fatalf("seed %d: %s\nto replay: %s=%d go test -run TestSimulationOfNodes ./limiter\n%s",
		s.seed, fmt.Sprintf(format, args...), seedVariable, s.seed, strings.Join(s.log, "\n"))
}

func (s *ensemble) say(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%4d  ", s.counts.steps)+fmt.Sprintf(format, args...))
}

func (s *ensemble) chance(percent int) bool { return s.random.IntN(100) < percent }

// begin starts a call and lets everything run until it waits.
func (s *ensemble) begin(call func() func()) {
	s.launch(call)
	s.settle()
}

// launch starts a call.
func (s *ensemble) launch(call func() func()) {
	o := new(op)
	s.ops = append(s.ops, o)
	go func() {
		o.done = call()
		o.over.Store(true)
	}()
}

// settle lets everything run until it waits for what does not come, and takes over
// what was answered.
func (s *ensemble) settle() {
	for range 5 { // requests give other nodes some time to give back
		synctest.Wait()
		rest := s.ops[:0]
		for _, o := range s.ops {
			if o.over.Load() {
				o.done()
			} else {
				rest = append(rest, o)
			}
		}
		if s.ops = rest; len(rest) == 0 {
			break
		}
		time.Sleep(40 * time.Millisecond)
	}
	if later := s.later; len(s.ops) == 0 {
		s.later = nil
		for _, judge := range later {
			judge()
		}
	}
}

// pick returns a node that runs; -1: none does.
func (s *ensemble) pick() int {
	for range 50 {
		if i := s.random.IntN(len(s.c.w)); !s.down[i] && !s.paused[i] && !s.away[i] {
			return i
		}
	}
	return -1
}

// purse returns a key that clients use.
func (s *ensemble) purse() *purse { return s.purses[s.random.IntN(len(s.purses))] }

// healthy reports whether nothing is wrong now.
func (s *ensemble) healthy() bool {
	for _, w := range s.c.w {
		if !s.c.Connected(w.node) {
			return false
		}
	}
	return !s.stopped && !slices.Contains(s.down, true) && !slices.Contains(s.paused, true) && !slices.Contains(s.away, true) && len(s.ops) == 0
}

// pass lets time pass, and the sweepers look.
func (s *ensemble) pass(d time.Duration) {
	s.say("%s pass", d)
	s.c.Advance(d)
	synctest.Wait()
	for i, w := range s.c.w {
		if s.down[i] || s.paused[i] || s.away[i] {
			continue
		}
		s.begin(func() func() {
			w.SweepActive()
			w.SweepDue()
			if d > 10*time.Minute {
				w.SweepIdle()
				w.SweepEnded()
			}
			return func() {}
		})
	}
}

func (s *ensemble) run() {
	s.random = rand.New(rand.NewPCG(s.seed, 2))
	s.quiet = s.chance(30)
	s.gentle = !s.quiet && s.chance(30)
	s.roles, s.spent, s.before = make(map[roleWindow]int64), make(map[roleWindow]int64), make(map[roleWindow]int64)
	s.most, s.reset = make(map[string]int64), make(map[string]bool)
	for name, role := range ensembleRoles() {
		s.most[name] = role.Budget.Limit[record.Activations]
	}
	n := 2 + s.random.IntN(3)
	s.forgets = s.chance(30)
	s.down, s.paused, s.away = make([]bool, n), make([]bool, n), make([]bool, n)
	s.c = newNodes(s.t, n, func(w *world) { w.roles = ensembleRoles() })
	s.retain()
	s.c.Plant(s.flaw)
	for range 2 + s.random.IntN(4) {
		s.mint(s.random.IntN(n))
	}
	s.say("%d nodes, quiet %v, gentle %v", n, s.quiet, s.gentle)
	if s.chance(30) { // nothing is used in the first window
		s.pass(time.Duration(s.random.IntN(30)) * time.Hour)
	}
	for s.counts.steps = range int64(60) {
		s.step()
		s.tend()
		s.consistent()
	}
	s.heal()
	s.drain()
	s.consistent()
	s.counts.commits = int64(s.c.Commits())
}

// retain sets how long the nodes that run keep keys that have ended.
func (s *ensemble) retain() {
	for i, w := range s.c.w {
		if s.forgets && !s.down[i] && !s.away[i] {
			w.Retain(time.Hour)
		}
	}
}

// step is what happens next.
func (s *ensemble) step() {
	b, i := s.purse(), s.pick()
	if i < 0 {
		s.heal()
		return
	}

	switch n := s.random.IntN(100); {
	case n < 41:
		for range 1 + s.random.IntN(12) {
			if s.chance(30) {
				b = s.purse()
			}
			s.request(s.pick(), b)
		}
	case n < 42:
		s.reform()
	case n < 43:
		s.skew(i)
	case n < 45:
		s.forget(i, b)
	case n < 62:
		s.end(s.purse(), false)
	case n < 66:
		s.grant(i, b)
	case n < 68:
		s.change(i, b)
	case n < 69:
		s.revoke(i, b)
	case n < 71:
		s.suspend(i, b)
	case n < 73:
		s.resume(i, b)
	case n < 75:
		s.rotate(i, b)
	case n < 76 && len(s.purses) < 10:
		s.mint(i)
	case n < 79 && len(s.purses) < 10:
		s.child(i, b)
	case n < 83:
		s.pass(time.Duration(s.random.IntN(4000)) * time.Millisecond)
	case n < 84:
		s.pass(20 * time.Minute)
	case n < 85:
		if s.chance(50) {
			s.midnight()
		} else {
			s.pass(time.Duration(s.random.IntN(30)) * time.Hour)
		}
	case n < 87:
		s.restart(i)
	case n < 89:
		s.reopen(i)
	case s.gentle:
		s.mishap(i)
	case !s.quiet:
		s.fault(i)
	}
}

// TestSimulationOfNodes runs many seeds over several nodes that share a simulated store.
func TestSimulationOfNodes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sum ensembleCounts
	seeds := someSeeds(t, 16, 500)
	t.Cleanup(func() { // when all shares have ended
		t.Logf("%s: %d requests (%d admitted, %d refused), %d kills, %d cuts, %d pauses, %d takeovers, %d reopenings, %d removals, %d outages, %d failovers of which %d lost commits; %d commits",
			seeds, sum.requests, sum.admitted, sum.refused, sum.kills, sum.cuts, sum.pauses, sum.takeovers, sum.reopenings, sum.removals, sum.outages, sum.failovers, sum.losses, sum.commits)
	})
	seeds.run(t, func(t *testing.T, seed uint64) {
		s := &ensemble{seed: seed}
		synctest.Test(t, func(t *testing.T) {
			s.t = t
			s.run()
		})
		mu.Lock()
		defer mu.Unlock()
		sum.add(&s.counts)
	})
}

func (s *ensembleCounts) add(o *ensembleCounts) {
	s.requests += o.requests
	s.admitted += o.admitted
	s.refused += o.refused
	s.kills += o.kills
	s.cuts += o.cuts
	s.pauses += o.pauses
	s.takeovers += o.takeovers
	s.outages += o.outages
	s.reopenings += o.reopenings
	s.removals += o.removals
	s.failovers += o.failovers
	s.losses += o.losses
	s.commits += o.commits
}
