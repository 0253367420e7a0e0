package limiter_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/storetest"
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
	roles map[string]limiter.Role
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
	limit  limiter.Amounts // at most: also what may have been granted
	least  limiter.Amounts // at least: what was acknowledged
	daily  bool
	shared bool

	used    limiter.Amounts // settled
	window  int64           // day that used is about, of a daily key
	running []*running
	lost    limiter.Amounts // bounds of what ran at a crash

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
	bound  limiter.Amounts
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
		Retain: 1 << 62, // whatever the clock says, the books name every key
		Store:  s.disk.Open(), Disk: s.disk.Files(), Shadow: simulatedShadow, Anchor: simulatedAnchor,
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

// mint makes a key of some kind.
func (s *simulation) mint() {
	spec := &limiter.Key{Upstream: "openai", Custody: limiter.CustodyHeld, Limit: limiter.NoLimits()}
	b := &book{daily: s.chance(25), shared: s.chance(30)}
	spec.Limit[limiter.Activations] = 1 + s.random.Int64N(150)
	if s.chance(40) {
		spec.Limit[limiter.Tokens] = 1 + s.random.Int64N(5000)
	}
	if b.daily {
		spec.Renews = limiter.Daily
	}
	if b.shared {
		spec.Role = "ci"
	}
	_, lookup, err := token.MintKey()
	if err != nil {
		s.fatalf("%v", err)
	}
	b.lookup, b.limit, b.least = lookup, spec.Limit, spec.Limit
	view, err := s.l.Mint(s.t.Context(), limiter.Operator, spec, limiter.Birth{Lookup: lookup})
	if err != nil {
		s.fatalf("minting: %v", err)
	}
	b.id, b.window = view.ID, s.day()
	s.books = append(s.books, b)
	s.say("minted %s of %v, daily %v, shared %v", b.id, b.limit, b.daily, b.shared)
}

// request asks for one request and holds the answer against the books.
func (s *simulation) request(b *book) {
	s.counts.requests++
	ask := &limiter.Ask{Bound: limiter.Amounts{limiter.Activations: 1}, Method: "POST", Path: "/v1/x"}
	if b.limit[limiter.Tokens] != limiter.NoLimit {
		ask.Bound[limiter.Tokens] = 1 + s.random.Int64N(200)
	}
	mustNot := ""
	switch {
	case b.stopping:
		mustNot = "revoked"
	case b.pausing && !b.resuming:
		mustNot = "suspended"
	}
	l, asked := s.l, s.counts.steps
	s.begin(func() func() {
		g := new(limiter.Grant)
		k, refusal := l.Find(s.t.Context(), b.lookup)
		if refusal == nil {
			refusal = k.Reserve(s.t.Context(), ask, g)
		}
		return func() {
			if refusal != nil {
				s.counts.refused++
				if s.counts.steps == asked { // else much has changed since
					s.later = append(s.later, func() { s.refused(b, refusal, &ask.Bound) })
				}
				return
			}
			if mustNot != "" {
				s.fatalf("admitted: key %s was %s", b.id, mustNot)
			}
			s.say("%s admitted, %v", b.id, ask.Bound)
			s.roll(b)
			b.running = append(b.running, &running{g, ask.Bound, b.window})
			if b.shared {
				s.role.used++
			}
			s.bounded(b)
		}
	})
}

// refused checks that nothing was refused that could have been admitted.
func (s *simulation) refused(b *book, r *limiter.Refusal, bound *limiter.Amounts) {
	s.say("%s refused: %s", b.id, r.Code)
	if s.crashed || s.dead || b.stopping || b.pausing || b.resuming || r.Code == limiter.CodeStoreUnavailable {
		return
	}
	var taken limiter.Amounts
	if !s.over(b) {
		taken = b.taken()
	}
	for kind, limit := range b.least {
		if limit != limiter.NoLimit && taken[kind]+bound[kind] > limit {
			return
		}
	}
	if b.shared && s.role.used+1 > s.role.limit {
		return
	}
	s.fatalf("false refusal of key %s: %s with %v taken of %v", b.id, r.Code, taken, b.least)
}

// over reports whether the window that the books are about is over.
func (s *simulation) over(b *book) bool { return b.daily && s.day() > b.window }

// roll begins a new window of the books, at the first request that is admitted
// in it: after a crash, a clock that was set back may tell the day before again,
// as long as nobody was told of the new one.
func (s *simulation) roll(b *book) {
	if day := s.day(); s.over(b) {
		b.window, b.used, b.lost = day, limiter.Amounts{}, limiter.Amounts{}
	}
}

// taken is what is settled, held or lost in the present window.
func (b *book) taken() limiter.Amounts {
	sum := b.used
	for i := range sum {
		sum[i] += b.lost[i]
	}
	for _, r := range b.running {
		if r.window == b.window {
			for i := range sum {
				sum[i] += r.bound[i]
			}
		}
	}
	return sum
}

// bounded checks that no more is forwarded than the limit: I1, with what was
// lost in crashes left out, because it may have been forwarded and must not be
// counted on.
func (s *simulation) bounded(b *book) {
	sum := b.used
	for _, r := range b.running {
		if r.window == b.window {
			for i := range sum {
				sum[i] += r.bound[i]
			}
		}
	}
	for kind, limit := range b.limit {
		if limit != limiter.NoLimit && sum[kind]+b.lostAt(kind) > limit {
			s.counts.extra++
			s.fatalf("key %s: %d %s forwarded of %d", b.id, sum[kind], limiter.Kind(kind), limit)
		}
	}
	if b.shared && s.role.used > s.role.limit {
		s.counts.extra++
		s.fatalf("role: %d forwarded of %d", s.role.used, s.role.limit)
	}
}

// lostAt counts requests that ran at a crash as forwarded: they may have been.
func (b *book) lostAt(kind int) int64 { return b.lost[kind] }

// end settles or cancels what runs.
func (s *simulation) end(b *book, all bool) {
	for len(b.running) > 0 && (all || s.chance(60)) {
		i := s.random.IntN(len(b.running))
		r := b.running[i]
		b.running = append(b.running[:i], b.running[i+1:]...)
		used := limiter.Amounts{}
		s.say("%s settles", b.id)
		if s.chance(80) {
			used[limiter.Activations] = 1
			if n := r.bound[limiter.Tokens]; n > 0 {
				used[limiter.Tokens] = s.random.Int64N(n + 1)
			}
			r.grant.Settle(used)
		} else {
			r.grant.Cancel()
			if b.shared {
				s.role.used--
			}
		}
		if s.chance(10) {
			r.grant.Settle(r.bound) // twice: nothing
		}
		if r.window == b.window {
			for i := range used {
				b.used[i] += used[i]
			}
		}
	}
	s.settle()
}

// lose ends what runs without an answer: its process is gone.
func (s *simulation) lose() {
	for _, b := range s.books {
		for _, r := range b.running {
			if r.window == b.window {
				for i, n := range r.bound {
					b.lost[i] += n
				}
			}
		}
		b.running = nil
	}
}

func (s *simulation) grant(b *book) {
	n := 1 + s.random.Int64N(30)
	b.limit[limiter.Activations] += n // from now on it may be there
	l := s.l
	s.begin(func() func() {
		_, err := l.GrantMore(s.t.Context(), limiter.Operator, b.id, limiter.More{Activations: n})
		return func() {
			if err == nil {
				b.least[limiter.Activations] += n
			} else if errors.Is(err, limiter.ErrRevoked) || errors.Is(err, limiter.ErrNoSpace) {
				b.limit[limiter.Activations] -= n // it is not
			}
			s.say("granted %d to %s: %v", n, b.id, err)
		}
	})
}

func (s *simulation) revoke(b *book) {
	b.stopping = true
	l := s.l
	s.begin(func() func() {
		_, _, err := l.Revoke(s.t.Context(), limiter.Operator, b.id, "")
		return func() {
			if err == nil {
				b.stopped = true
				b.revokes++
			} else {
				b.revokeErr++
			}
			s.say("revoked %s: %v", b.id, err)
		}
	})
}

func (s *simulation) suspend(b *book) {
	if b.resuming {
		return
	}
	b.pausing = true
	l := s.l
	s.begin(func() func() {
		_, err := l.Suspend(s.t.Context(), limiter.Operator, b.id)
		return func() {
			b.paused = b.paused || err == nil
			s.say("suspended %s: %v", b.id, err)
		}
	})
}

func (s *simulation) resume(b *book) {
	b.resuming = true
	l := s.l
	s.begin(func() func() {
		_, err := l.Resume(s.t.Context(), limiter.Operator, b.id)
		return func() {
			if err == nil {
				b.pausing, b.paused, b.resuming = false, false, false
			}
			s.say("resumed %s: %v", b.id, err)
		}
	})
}

// pass lets time pass, and the sweeper look.
func (s *simulation) pass(d time.Duration) {
	s.clock.advance(d)
	s.say("%s pass; it is %s", d, s.l.Now().Format(time.DateTime))
	l := s.l
	s.begin(func() func() {
		l.SweepActive()
		l.SweepDue()
		if d > 10*time.Minute {
			l.SweepIdle()
		}
		return func() {}
	})
}

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
			if errors.Is(err, limiter.ErrDoubt) {
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
	err := d.Open().View(func(r limiter.Reader) error {
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
		if err := s.open(nil); !errors.Is(err, limiter.ErrDoubt) {
			s.fatalf("an older store opens: %v", err)
		}
	}
	if _, err := limiter.Forfeit(s.disk.Open(), s.disk.Files(), limiter.Operator, simulatedAnchor, s.roles, s.l.Now(), discard); err != nil {
		s.fatalf("forfeiting: %v", err)
	}
	s.reopened(nil)
	s.crashed = true
	for _, b := range s.books {
		g := new(limiter.Grant)
		k, refusal := s.l.Find(s.t.Context(), b.lookup)
		if refusal == nil {
			refusal = k.Reserve(s.t.Context(), &limiter.Ask{Bound: limiter.Amounts{limiter.Activations: 1}, Method: "POST", Path: "/"}, g)
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

// consistent checks what must hold whenever nothing is on its way.
func (s *simulation) consistent() {
	if s.hold != nil || s.l.Failed() != nil {
		return
	}
	s.settle()
	for _, b := range s.books {
		view, err := s.l.Get(s.t.Context(), limiter.Operator, b.id)
		if err != nil {
			s.fatalf("key %s: %v", b.id, err)
		}
		if b.stopped && view.Status != limiter.Revoked {
			s.fatalf("key %s was revoked and is %s", b.id, view.Status)
		}
		memory, stored, err := s.l.Reserved(b.id)
		if err != nil {
			s.fatalf("key %s: %v", b.id, err)
		}
		for kind, limit := range b.limit {
			if limit == limiter.NoLimit || s.over(b) {
				continue
			}
			if stored[kind] > limit || memory[kind] > stored[kind] || view.Used[kind]+view.Held[kind] > memory[kind] && view.Used != (limiter.Amounts{}) {
				s.fatalf("key %s: %d %s used, %d held, %d reserved in memory, %d in the store, of %d",
					b.id, view.Used[kind], limiter.Kind(kind), view.Held[kind], memory[kind], stored[kind], limit)
			}
			if view.Used[kind] < b.used[kind] {
				s.fatalf("key %s: the limiter counts %d %s, %d were used", b.id, view.Used[kind], limiter.Kind(kind), b.used[kind])
			}
			if !s.crashed && view.Used[kind] > b.used[kind]+b.lost[kind] {
				s.fatalf("key %s: the limiter counts %d %s; %d were used and %d lost in flight", b.id, view.Used[kind], limiter.Kind(kind), b.used[kind], b.lost[kind])
			}
		}
	}
}

// seedVariable names one seed to replay.
const seedVariable = "TILL_SEED"

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
	s.roles = map[string]limiter.Role{"ci": {Budget: limiter.RoleBudget{Limit: limiter.Amounts{s.role.limit, -1, -1, -1}}}}
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
	from, n := uint64(1), 200
	if os.Getenv(ciVariable) != "" || os.Getenv(tortureVariable) != "" {
		n = tortureSize(t, 0, 5000)
		from = uint64(time.Now().UnixNano())
	}
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if from, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s must be a number, got %q", seedVariable, text)
		}
		n = 1
	}
	var sum simulated
	for seed := from; seed < from+uint64(n) && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := &simulation{t: t, seed: seed}
			s.run()
			sum.add(&s.counts)
		})
	}
	t.Logf("%d seeds from %d: %d requests (%d refused), %d kills, %d power cuts, %d faults, %d rollbacks; %d extra",
		n, from, sum.requests, sum.refused, sum.kills, sum.cuts, sum.faults, sum.rollbacks, sum.extra)
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
