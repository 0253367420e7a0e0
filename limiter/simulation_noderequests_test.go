package limiter_test

import (
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// What clients ask of the nodes in a simulation, and what the answers must be.

// request asks a node for one request.
func (s *ensemble) request(i int, b *purse) {
	s.ask(i, b, 1+s.random.Int64N(200), s.chance(50))
}

// midnight lets daily windows begin while requests come, by clocks that do not agree when
// that is.
func (s *ensemble) midnight() {
	now, _ := s.c.Clock("").Now()
	next := now.Truncate(24 * time.Hour).Add(24 * time.Hour)
	s.pass(next.Sub(now) - time.Second)
	for range 4 {
		for range 1 + s.random.IntN(6) {
			if i := s.pick(); i >= 0 {
				s.request(i, s.purse())
			}
		}
		if i := s.pick(); i >= 0 && s.chance(50) {
			s.skew(i)
		}
		s.pass(500 * time.Millisecond)
	}
}

// ask asks a node for one request of so many tokens, and holds the answer against the
// books. It returns the code of the refusal, or "gone" if there is no answer yet.
func (s *ensemble) ask(i int, b *purse, tokens int64, waits bool) (code record.Code) {
	s.counts.requests++
	ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x", Waits: waits}
	for _, kind := range []record.Kind{record.Tokens, record.Nanodollars} {
		if b.limit[kind] != record.NoLimit {
			ask.Bound[kind] = tokens
		}
	}
	w, lookup := s.c.w[i], b.lookup
	mustNot := ""
	switch silence := s.c.Silence(w.node); {
	case b.dead():
		mustNot = "the key was revoked"
	case b.still():
		mustNot = "the key was suspended"
	case silence > isolated:
		mustNot = "the node is isolated for " + silence.String()
	}
	code = "gone"
	now := w.Now()
	expired := b.within > 0 && !now.Before(b.created.Add(b.within))
	late, used := expired && !b.tried, b.used
	b.tried = b.tried || !expired
	least := new(b.least) // what is granted meanwhile need not be felt
	b.asked = append(b.asked, least)
	pausing := b.pausing || b.top().pausing // and so is the end of a suspension
	turning := (b.daily || b.role != "") && midnightIsNear(now)
	s.begin(func() func() {
		g := new(limiter.Grant)
		k, refusal := w.Find(ctx, lookup)
		if refusal == nil {
			ask.String, refusal = k.Number(k.Key(), lookup, ask.Addr)
		}
		if refusal == nil {
			refusal = k.Reserve(ctx, ask, g)
		}
		return func() {
			if refusal != nil {
				code = refusal.Code
				s.counts.refused++
				if refusal.Code == record.CodeKeyExpired || s.forgets && !b.ending && b.lives(record.Amounts{}) && refusal.Code == record.CodeKeyInvalid {
					// Hours may have passed while it waited.
					s.expired(w, b, !s.astray && (used || w.Now().Add(closeBy).Before(b.created.Add(b.within))))
				}
				window := b.last()
				then := b.taken(window) // some of which may be given back before this is judged
				s.later = append(s.later, func() {
					taken := b.taken(window)
					for kind, n := range then {
						taken[kind] = max(taken[kind], n)
					}
					if (!pausing || refusal.Code != record.CodeKeySuspended) && !turning {
						s.refused(w, b, refusal, &ask.Bound, *least, taken)
					}
					b.judged(least)
				})
				return
			}
			b.judged(least)
			if late && b.within > 0 {
				s.fatalf("%s admits %s, which was not used within %s", w.node, b.id, b.within)
			}
			// Where one node finds it used at the last moment, another may have found it expired.
			b.used = b.used || w.Now().Add(closeBy).Before(b.created.Add(b.within))
			code = ""
			s.counts.admitted++
			if mustNot != "" && (b.dead() || b.still() || s.c.Silence(w.node) > isolated) {
				s.fatalf("%s admits %s: %s", w.node, b.id, mustNot)
			}
			r := &ticket{node: i, grant: g, bound: ask.Bound}
			r.key, r.roles = g.Windows()
			s.say("%s admits %s, %v", w.node, b.id, ask.Bound)
			b.running = append(b.running, r)
			if b.role != "" {
				s.roles[roleWindow{b.role, r.roles}]++
			}
			if s.down[i] {
				b.lose(i)
			}
			s.bounded(b, r)
		}
	})
	return code
}

// midnightIsNear reports whether a window may have begun for one node and not for another.
func midnightIsNear(now time.Time) bool {
	const day = 24 * time.Hour
	return !now.Add(-closeBy).Truncate(day).Equal(now.Add(closeBy).Truncate(day))
}

// closeBy is how far the clocks of nodes differ while nothing is wrong, and a little more.
const closeBy = 3 * time.Second

// expired checks the refusal of a key that had to be used within some time; early says
// that it was, or that this time has not passed.
func (s *ensemble) expired(w *world, b *purse, early bool) {
	if b.within > 0 && early {
		s.fatalf("%s: key %s has expired, and it had to be used within %s from %s: used %v", w.node, b.id, b.within, b.created, b.used)
	}
	b.ending = b.ending || b.within > 0 || b.extended
}

// dead reports whether the key, or one above it, was revoked, as all nodes know.
func (b *purse) dead() bool { return b.stopped || b.parent != nil && b.parent.dead() }

// still reports whether the key, or one above it, is suspended, as all nodes know.
func (b *purse) still() bool { return b.paused || b.parent != nil && b.parent.still() }

// bounded checks that no more is forwarded than the limit, of which what ran at a crash
// is a part: it may have been forwarded. What an answer has cost beyond its bound comes on
// top of that.
func (s *ensemble) bounded(b *purse, r *ticket) {
	sum, over := b.taken(r.key), b.window(r.key).over
	for kind, limit := range b.limit {
		if limit != record.NoLimit && sum[kind]-over[kind] > limit {
			s.fatalf("key %s: %d %s forwarded of %d, and %d more than answers might cost", b.id, sum[kind]-over[kind], record.Kind(kind), limit, over[kind])
		}
	}
	at := roleWindow{b.role, r.roles}
	limit, forfeited := s.spent[at]
	if !forfeited {
		limit = max(s.most[b.role], s.before[at])
	}
	if n := s.roles[at]; b.role != "" && n > limit {
		s.fatalf("role %s: %d forwarded of %d in the window of %d, forfeited %v; all windows: %v", b.role, n, limit, r.roles, forfeited, s.roles)
	}
	top := b
	for top.parent != nil {
		top = top.parent
	}
	if top.daily {
		return // what it had given away before is not of this window
	}
	var family record.Amounts
	for _, other := range s.purses {
		if other.top() == top {
			for epoch, w := range other.windows {
				family.Add(other.taken(epoch).Minus(w.over))
			}
		}
	}
	for kind, limit := range top.limit {
		if limit != record.NoLimit && family[kind] > limit {
			s.fatalf("family of %s: %d %s forwarded of %d", top.id, family[kind], record.Kind(kind), limit)
		}
	}
}

// top is the key above all.
func (b *purse) top() *purse {
	for b.parent != nil {
		b = b.parent
	}
	return b
}

// refused checks that nothing was refused that could have been admitted, as long as
// nothing has gone wrong.
func (s *ensemble) refused(w *world, b *purse, r *record.Refusal, bound *record.Amounts, least, taken record.Amounts) {
	s.say("%s refuses %s: %s", w.node, b.id, r.Code)
	if !s.quiet || s.reset[b.role] || b.top().ending || b.top().pausing || b.ending || b.pausing {
		return
	}
	switch r.Code {
	case record.CodeBudgetHeld:
		return // it comes back; see drain
	case record.CodeStoreUnavailable:
		s.fatalf("%s: nothing is wrong, but %v", w.node, r)
	}
	if b.kids > 0 || b.parent != nil {
		return // how much of it is elsewhere is not known
	}
	for kind, limit := range least {
		if limit = min(limit, b.least[kind]); limit != record.NoLimit && taken[kind]+bound[kind] > limit {
			return
		}
	}
	for at, n := range s.roles {
		if at.role == b.role && n+1 > s.most[b.role] {
			return
		}
	}
	s.fatalf("%s: false refusal of key %s: %v, with %v taken of %v", w.node, b.id, r, taken, least)
}

// end settles or cancels what runs.
func (s *ensemble) end(b *purse, all bool) {
	rest := b.running[:0]
	for _, r := range b.running {
		if s.paused[r.node] || !all && s.chance(40) {
			rest = append(rest, r)
			continue
		}
		var used record.Amounts
		if s.chance(80) {
			used[record.Activations] = 1
			beyond := s.chance(10)
			for _, kind := range []record.Kind{record.Tokens, record.Nanodollars} {
				switch n := r.bound[kind]; {
				case n > 0 && beyond:
					over := 1 + s.random.Int64N(2*n)
					used[kind] = n + over
					b.window(r.key).over[kind] += over
					b.unwritten[r.node][kind] += over
				case n > 0:
					used[kind] = s.random.Int64N(n + 1)
				}
			}
			r.grant.Settle(used)
		} else {
			r.grant.Cancel()
			if b.role != "" {
				s.roles[roleWindow{b.role, r.roles}]--
			}
		}
		b.window(r.key).used.Add(used)
	}
	b.running = rest
	s.settle()
}
