package limiter_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
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
	flaw   storetest.Flaw

	forgets bool // keys that have ended an hour ago are forgotten, and otherwise after months
	astray  bool // a node's clock was far from the others'

	repaired bool // the database was

	down    []bool // nodes that were killed
	paused  []bool
	stopped bool // the database is

	purses []*purse
	roles  map[roleWindow]int64 // settled, held, and lost: activations
	spent  map[roleWindow]int64 // the same after a repair, which leaves nothing
	before map[roleWindow]int64 // the same when a limit was lowered
	most   map[string]int64     // that any node may allow of a role's budget
	reset  map[string]bool      // roles that were changed
	mints  [2]int               // acknowledged, and not
	ops    []*op
	later  []func() // judgements, once it is known what was admitted besides
	counts ensembleCounts
}

// ensembleCounts counts what simulations did.
type ensembleCounts struct {
	steps, requests, admitted, refused, kills, cuts, pauses, takeovers, outages, failovers, losses, commits int64
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

	windows map[int64]*window
	running []*ticket

	stopped, pausing, paused bool // a revocation was acknowledged; a suspension was asked for, was acknowledged
	ending                   bool // a revocation was asked for, or it has ended by itself
	gone, going              bool // it was forgotten, or perhaps

	created     time.Time
	within      time.Duration // it has to be used first; 0: at any time
	extended    bool          // that may have been put off
	tried, used bool          // a request was made within that, was admitted by all clocks

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
	o := new(op)
	s.ops = append(s.ops, o)
	go func() {
		o.done = call()
		o.over.Store(true)
	}()
	s.settle()
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
		if i := s.random.IntN(len(s.c.w)); !s.down[i] && !s.paused[i] {
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
	return !s.stopped && !slices.Contains(s.down, true) && !slices.Contains(s.paused, true) && len(s.ops) == 0
}

// pass lets time pass, and the sweepers look.
func (s *ensemble) pass(d time.Duration) {
	s.say("%s pass", d)
	s.c.Advance(d)
	synctest.Wait()
	for i, w := range s.c.w {
		if s.down[i] || s.paused[i] {
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

// consistent checks what holds at every moment.
func (s *ensemble) consistent() {
	check := limiter.CheckParts
	if s.repaired {
		check = limiter.CheckPartsAfterRepair
	}
	if err := s.c.View(check); err != nil {
		s.fatalf("%v", err)
	}
	for i := 0; i < len(s.purses) && !s.repaired; i++ { // after that everything counts as reserved
		s.reserved(s.purses[i])
	}
	for i, w := range s.c.w {
		if s.down[i] {
			continue
		}
		if err := w.Failed(); err != nil {
			s.fatalf("%s: a passing fault is taken for a failure: %v", w.node, err)
		}
	}
}

// reserved checks that no more of a key is reserved than its limit has ever been. What
// answers have cost beyond their bounds comes on top of that.
func (s *ensemble) reserved(b *purse) {
	var over, reserved record.Amounts
	for _, w := range b.windows {
		over.Add(w.over)
	}
	err := s.c.View(func(r store.Reader) (err error) {
		reserved, err = limiter.Reserved(r, b.id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) { // it was forgotten, or a failover has lost it
		return
	}
	if err != nil {
		s.fatalf("key %s: %v", b.id, err)
	}
	for kind, limit := range b.limit {
		b.most[kind] = max(b.most[kind], limit)
		if limit != record.NoLimit && reserved[kind] > b.most[kind]+over[kind] {
			s.fatalf("key %s: %d %s are reserved of %d", b.id, reserved[kind], record.Kind(kind), b.most[kind])
		}
	}
}

// heal repairs everything, after which every node has to know what the store holds.
func (s *ensemble) heal() {
	s.say("everything is healed")
	s.c.Inject(nil)
	s.c.LoseRecalls(false)
	if s.stopped {
		s.c.Start()
		s.stopped = false
	}
	for i, w := range s.c.w {
		s.c.Lose(w.node, false)
		s.c.Heal(w.node)
		s.c.Resume(w.node)
		s.paused[i] = false
	}
	s.settle()
	for i := range s.c.w {
		s.start(i)
	}
	for i := range s.c.w {
		s.c.Skew(s.c.w[i].node, 0)
	}
	if s.astray {
		if _, err := s.c.w[0].RepairClock(ctx, limiter.Operator); err != nil {
			s.fatalf("repairing the clock: %v", err)
		}
	}
	for range 3 {
		s.pass(11 * time.Second)
	}
	if s.settle(); len(s.ops) > 0 { // requests that wait for others to settle
		time.Sleep(limiter.DefaultTurn)
		s.settle()
	}
	if len(s.ops) > 0 {
		stacks := make([]byte, 1<<20)
		s.fatalf("%d calls are never answered\n%s", len(s.ops), stacks[:runtime.Stack(stacks, true)])
	}
	s.consistent()
	for _, w := range s.c.w {
		if err := w.Trouble(ctx); err != nil {
			s.fatalf("%s: nothing is wrong any more, but %v", w.node, err)
		}
		if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
			s.fatalf("%s: the audit log: %v", w.node, err)
		}
		for _, b := range s.purses {
			s.agrees(w, b)
		}
	}
	for _, b := range s.purses {
		s.booked(b)
	}
	made := s.made()
	if made < s.mints[0] || made > s.mints[0]+s.mints[1] {
		s.fatalf("the audit log knows of %d keys; %d were minted, and %d perhaps", made, s.mints[0], s.mints[1])
	}
}

// made is how many keys the audit log says were minted.
func (s *ensemble) made() (n int) {
	lines, err := s.c.w[0].AuditLines()
	if err != nil {
		s.fatalf("%v", err)
	}
	for _, line := range lines {
		if strings.Contains(line, `"action":"key.create"`) {
			n++
		}
	}
	return n
}

// mayHaveEnded reports whether the key, or one above it, may have ended long ago.
func (b *purse) mayHaveEnded() bool {
	return b.ending || b.within > 0 || b.extended || !b.lives() || b.parent != nil && b.parent.mayHaveEnded()
}

// booked holds what a key has used against the books, in which everything is by now.
func (s *ensemble) booked(b *purse) {
	if b.daily || b.gone || s.astray { // a clock that was repaired holds up what is written in time
		return
	}
	var reserved record.Amounts
	err := s.c.View(func(r store.Reader) (err error) {
		reserved, err = limiter.Reserved(r, b.id)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.fatalf("key %s: %v", b.id, err)
	}
	for kind, n := range b.window(0).used {
		if n -= b.unsure[kind]; err == nil && b.limit[kind] != record.NoLimit && reserved[kind] < n {
			s.fatalf("key %s has used %d %s, and the books say %d", b.id, n, record.Kind(kind), reserved[kind])
		}
	}
	clear(b.unwritten)
}

// agrees holds a node's memory of a key against the store.
func (s *ensemble) agrees(w *world, b *purse) {
	view, err := w.Get(ctx, limiter.Operator, b.id)
	switch {
	case errors.Is(err, store.ErrNotFound) && (b.gone || b.going || (s.forgets || s.astray) && (!s.quiet || b.mayHaveEnded())): // what a node that is gone has reserved counts as spent
		return
	case b.gone && err == nil:
		s.fatalf("%s: key %s was forgotten and is %s", w.node, b.id, view.Status)
	case err != nil:
		s.fatalf("%s: key %s: %v", w.node, b.id, err)
	}
	if b.stopped != (view.Status == record.Revoked) && b.stopped {
		s.fatalf("%s: key %s was revoked and is %s", w.node, b.id, view.Status)
	}
	if err := w.AgreesOn(b.id); err != nil {
		s.fatalf("%s: key %s: %v", w.node, b.id, err)
	}
}

func (s *ensemble) run() {
	s.random = rand.New(rand.NewPCG(s.seed, 2))
	s.quiet = s.chance(30)
	s.roles, s.spent, s.before = make(map[roleWindow]int64), make(map[roleWindow]int64), make(map[roleWindow]int64)
	s.most, s.reset = make(map[string]int64), make(map[string]bool)
	for name, role := range ensembleRoles() {
		s.most[name] = role.Budget.Limit[record.Activations]
	}
	n := 2 + s.random.IntN(3)
	s.forgets = s.chance(30)
	s.down, s.paused = make([]bool, n), make([]bool, n)
	s.c = newNodes(s.t, n, func(w *world) { w.roles = ensembleRoles() })
	s.retain()
	s.c.Plant(s.flaw)
	for range 2 + s.random.IntN(4) {
		s.mint(s.random.IntN(n))
	}
	s.say("%d nodes, quiet %v", n, s.quiet)
	if s.chance(30) { // nothing is used in the first window
		s.pass(time.Duration(s.random.IntN(30)) * time.Hour)
	}
	for s.counts.steps = range int64(60) {
		s.step()
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
		if s.forgets && !s.down[i] {
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
	case !s.quiet:
		s.fault(i)
	}
}

// TestSimulationOfNodes runs many seeds over several nodes that share a simulated store.
func TestSimulationOfNodes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sum ensembleCounts
	seeds := someSeeds(t, 20, 500)
	t.Cleanup(func() { // when all shares have ended
		t.Logf("%s: %d requests (%d admitted, %d refused), %d kills, %d cuts, %d pauses, %d takeovers, %d outages, %d failovers of which %d lost commits; %d commits",
			seeds, sum.requests, sum.admitted, sum.refused, sum.kills, sum.cuts, sum.pauses, sum.takeovers, sum.outages, sum.failovers, sum.losses, sum.commits)
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
	s.failovers += o.failovers
	s.losses += o.losses
	s.commits += o.commits
}
