package limiter_test

import (
	"errors"
	"runtime"
	"strings"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// What must hold in a simulation of several nodes: at every moment, once nothing is wrong any
// more, and when every key is used up.

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
	s.ended()
	for i, w := range s.c.w {
		if s.down[i] || s.away[i] {
			continue
		}
		if err := w.Failed(); err != nil {
			s.fatalf("%s: a passing fault is taken for a failure: %v", w.node, err)
		}
	}
}

// ended checks that nothing goes on whose key was revoked, as every node has felt.
func (s *ensemble) ended() {
	for _, b := range s.purses {
		for _, r := range b.running {
			if b.dead() && !s.down[r.node] && !s.paused[r.node] && !s.away[r.node] && r.grant.Cut() == nil {
				s.fatalf("%s: a request of %s goes on, which was revoked", s.c.w[r.node].node, b.id)
			}
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
		if _, err := s.c.w[0].RepairClock(limiter.Operator); err != nil {
			s.fatalf("repairing the clock: %v", err)
		}
	}
	for range 3 {
		s.pass(11 * time.Second)
		s.tend()
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
	for action, n := range map[string][2]int{"key.create": s.mints, "node.remove": s.gone} {
		if made := s.audited(action); made < n[0] || made > n[0]+n[1] {
			s.fatalf("the audit log has %d entries of %s; there were %d, and %d perhaps", made, action, n[0], n[1])
		}
	}
}

// audited is how many entries of an action the audit log has.
func (s *ensemble) audited(action string) (n int) {
	lines, err := s.c.w[0].AuditLines()
	if err != nil {
		s.fatalf("%v", err)
	}
	for _, line := range lines {
		if strings.Contains(line, `"action":"`+action+`"`) {
			n++
		}
	}
	return n
}

// mayHaveEnded reports whether the key, or one above it, may have ended long ago.
func (b *purse) mayHaveEnded() bool {
	return b.ending || b.within > 0 || b.extended || !b.lives(record.Amounts{}) || b.parent != nil && b.parent.mayHaveEnded()
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
	view, err := w.Get(limiter.Operator, b.id)
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
	synctest.Wait() // the look may have begun to give something back
	if err := w.AgreesOn(b.id); err != nil {
		s.fatalf("%s: key %s: %v", w.node, b.id, err)
	}
}

// drain uses up every key from random nodes. When nothing went wrong, nothing may be
// left.
func (s *ensemble) drain() {
	for _, b := range s.purses {
		s.end(b, true)
	}
	s.pass(3 * time.Second)
	for _, b := range s.purses {
		over := make([]bool, len(s.c.w))
		for left, held := len(over), 0; left > 0; {
			i := s.random.IntN(len(over))
			if over[i] {
				continue
			}
			code := s.ask(i, b, 1, false)
			s.end(b, true)
			switch code {
			case "":
				held = 0
			case record.CodeStoreUnavailable:
				if !s.reset[b.role] {
					s.fatalf("%s: nothing is wrong any more, and key %s is refused: %s", s.c.w[i].node, b.id, code)
				}
				over[i] = true // not every node knows the role
				left--
			case record.CodeBudgetHeld, "gone":
				if s.quiet && b.role == "" { // two budgets near their ends may take it two attempts
					s.fatalf("key %s: nothing runs, and %s does not get what others have reserved: %q", b.id, s.c.w[i].node, code)
				}
				if held++; held > 30 {
					s.fatalf("key %s: what is held never comes back", b.id)
				}
				s.pass(3 * time.Second)
			default:
				over[i] = true
				left--
			}
		}
		if (s.quiet || s.gentle) && b.exact() && b.role == "" {
			if b.lives(b.forfeit) {
				s.fatalf("key %s: everybody refuses it with %v used of %v, and at most %v were lost", b.id, b.taken(b.last()), b.least, b.forfeit)
			}
		}
		s.remembered(b)
	}
}

// remembered checks that a key's history has each request once.
func (s *ensemble) remembered(b *purse) {
	if !s.quiet && !s.gentle {
		return
	}
	most := b.forfeit[record.Activations] + int64(b.kids) // to mint one takes one
	for epoch := range b.windows {
		most += b.taken(epoch)[record.Activations]
	}
	used, err := s.c.w[0].Usage(limiter.Operator, b.id)
	if errors.Is(err, store.ErrNotFound) {
		return
	}
	if err != nil {
		s.fatalf("key %s: %v", b.id, err)
	}
	var n int64
	for i := range used.Days {
		n += used.Days[i].Activations
	}
	if n > most {
		s.fatalf("key %s: its history has %d requests, and there were at most %d", b.id, n, most)
	}
}

// exact reports whether it is known what the key may use and has used.
func (b *purse) exact() bool {
	return b.limit == b.least && b.kids == 0 && b.parent == nil && !b.ending && !b.pausing
}
