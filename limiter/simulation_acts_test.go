package limiter_test

import (
	"errors"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// What clients and operators do in a simulation, and what they must be told.

// mint makes a key of some kind.
func (s *simulation) mint() {
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
	b := &book{daily: s.chance(25), shared: s.chance(30)}
	spec.Limit[record.Activations] = 1 + s.random.Int64N(150)
	if s.chance(40) {
		spec.Limit[record.Tokens] = 1 + s.random.Int64N(5000)
	}
	if b.daily {
		spec.Renews = record.Daily
	}
	if b.shared {
		spec.Role = "ci"
	}
	_, lookup, err := token.MintKey()
	if err != nil {
		s.fatalf("%v", err)
	}
	b.lookup, b.limit, b.least = lookup, spec.Limit, spec.Limit
	view, err := s.l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup})
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
	ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x", Waits: s.chance(50)}
	if b.limit[record.Tokens] != record.NoLimit {
		ask.Bound[record.Tokens] = 1 + s.random.Int64N(200)
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
					s.later = append(s.later, func() { s.refused(b, refusal, &ask.Bound, ask.Waits) })
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
func (s *simulation) refused(b *book, r *record.Refusal, bound *record.Amounts, waits bool) {
	s.say("%s refused: %s", b.id, r.Code)
	if r.Code == record.CodeBudgetHeld && waits {
		return // as many wait as may
	}
	if s.crashed || s.dead || b.stopping || b.pausing || b.resuming || r.Code == record.CodeStoreUnavailable {
		return
	}
	var taken record.Amounts
	if !s.over(b) {
		taken = b.taken()
	}
	for kind, limit := range b.least {
		if limit != record.NoLimit && taken[kind]+bound[kind] > limit {
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
		b.window, b.used, b.lost = day, record.Amounts{}, record.Amounts{}
	}
}

// taken is what is settled, held or lost in the present window.
func (b *book) taken() record.Amounts {
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

// bounded checks that no more is forwarded than the limit (I1), of which what
// ran at a crash is a part: it may have been forwarded.
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
		if limit != record.NoLimit && sum[kind]+b.lost[kind] > limit {
			s.counts.extra++
			s.fatalf("key %s: %d %s forwarded of %d", b.id, sum[kind], record.Kind(kind), limit)
		}
	}
	if b.shared && s.role.used > s.role.limit {
		s.counts.extra++
		s.fatalf("role: %d forwarded of %d", s.role.used, s.role.limit)
	}
}

// end settles or cancels what runs.
func (s *simulation) end(b *book, all bool) {
	for len(b.running) > 0 && (all || s.chance(60)) {
		i := s.random.IntN(len(b.running))
		r := b.running[i]
		b.running = append(b.running[:i], b.running[i+1:]...)
		used := record.Amounts{}
		s.say("%s settles", b.id)
		if s.chance(80) {
			used[record.Activations] = 1
			if n := r.bound[record.Tokens]; n > 0 {
				used[record.Tokens] = s.random.Int64N(n + 1)
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
	b.limit[record.Activations] += n // from now on it may be there
	l := s.l
	s.begin(func() func() {
		_, err := l.GrantMore(s.t.Context(), limiter.Operator, b.id, limiter.More{Activations: n})
		return func() {
			if err == nil {
				b.least[record.Activations] += n
			} else if errors.Is(err, limiter.ErrRevoked) || errors.Is(err, store.ErrNoSpace) {
				b.limit[record.Activations] -= n // it is not
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
		_, err := l.Suspend(limiter.Operator, b.id)
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
		_, err := l.Resume(limiter.Operator, b.id)
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
