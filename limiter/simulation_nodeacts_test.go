package limiter_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// What clients and operators ask of the nodes in a simulation, and what they must be
// told.

// newPurse is what is known of a key that any of so many nodes may forward for.
func newPurse(nodes int) *purse {
	return &purse{windows: make(map[int64]*window), unwritten: make([]record.Amounts, nodes)}
}

// window is one window of the key.
func (b *purse) window(epoch int64) *window {
	if b.windows[epoch] == nil {
		b.windows[epoch] = new(window)
	}
	return b.windows[epoch]
}

// last is the latest window in which something was admitted.
func (b *purse) last() (latest int64) {
	for epoch := range b.windows {
		latest = max(latest, epoch)
	}
	return latest
}

// taken is what is settled, held or lost in a window.
func (b *purse) taken(epoch int64) record.Amounts {
	w := b.window(epoch)
	sum := w.used
	sum.Add(w.lost)
	for _, r := range b.running {
		if r.key == epoch {
			sum.Add(r.bound)
		}
	}
	return sum
}

// mint makes a key of some kind on a node.
func (s *ensemble) mint(i int) {
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
	b := newPurse(len(s.c.w))
	b.daily = s.chance(25)
	spec.Limit[record.Activations] = 1 + s.random.Int64N(150)
	if s.chance(40) {
		spec.Limit[record.Tokens] = 1 + s.random.Int64N(5000)
	}
	if s.chance(20) {
		spec.Limit[record.Nanodollars] = 1 + s.random.Int64N(5_000_000_000)
	}
	switch {
	case b.daily:
		spec.Renews = record.Daily
	case s.chance(30):
		spec.Delegate = true
	}
	if !spec.Delegate && s.chance(15) {
		b.within = time.Duration(1+s.random.IntN(40)) * time.Minute
		spec.FirstUseWithin = b.within
	}
	if !spec.Delegate && s.chance(30) {
		names := slices.Sorted(maps.Keys(s.c.w[i].roles))
		b.role = append(names, "")[s.random.IntN(len(names)+1)]
		spec.Role = b.role
	}
	_, lookup, err := token.MintKey()
	if err != nil {
		s.fatalf("%v", err)
	}
	b.lookup, b.limit, b.least = lookup, spec.Limit, spec.Limit
	w := s.c.w[i]
	s.mints[1]++
	s.begin(func() func() {
		view, err := w.Mint(ctx, limiter.Operator, spec, limiter.Birth{Lookup: lookup})
		return func() {
			if s.say("%s mints %s of %v, daily %v, role %q, delegates %v: %v", w.node, view.ID, b.limit, b.daily, b.role, spec.Delegate, err); err != nil {
				return
			}
			s.mints[0]++
			s.mints[1]--
			b.id, b.created = view.ID, view.CreatedAt
			s.purses = append(s.purses, b)
		}
	})
	if len(s.purses) == 0 {
		s.fatalf("nothing is wrong, and no key could be minted")
	}
}

// child mints a child of a key on a node.
func (s *ensemble) child(i int, b *purse) {
	w := s.c.w[i]
	n := 1 + s.random.Int64N(20)
	shares := [...]int64{record.Tokens: 1 + s.random.Int64N(500), record.Nanodollars: 1 + s.random.Int64N(500)}
	_, lookup, err := token.MintKey()
	if err != nil {
		s.fatalf("%v", err)
	}
	s.mints[1]++
	b.kids++
	s.begin(func() func() {
		var view limiter.View
		live, refusal := w.Find(ctx, b.lookup)
		err := error(refusal)
		var spec *record.Key
		if refusal == nil {
			spec = live.Key().Child()
			spec.Limit[record.Activations] = n
			for kind, share := range shares {
				if b.limit[kind] != record.NoLimit && share > 0 {
					spec.Limit[kind] = share
				}
			}
			view, err = w.Delegate(ctx, live, &limiter.Ask{Method: "POST", Path: "/"}, spec, limiter.Birth{Lookup: lookup, Unlimited: true})
		}
		return func() {
			if s.say("%s mints %s of %d, a child of %s: %v", w.node, view.ID, n, b.id, err); err != nil {
				return
			}
			s.mints[0]++
			s.mints[1]--
			kid := newPurse(len(s.c.w))
			kid.id, kid.lookup, kid.parent, kid.role, kid.limit, kid.least = view.ID, lookup, b, b.role, view.Limit, view.Limit
			s.purses = append(s.purses, kid)
		}
	})
}

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
	s.begin(func() func() {
		g := new(limiter.Grant)
		k, refusal := w.Find(ctx, lookup)
		if refusal == nil {
			ask.String, refusal = k.Number(k.Key(), lookup)
		}
		if refusal == nil {
			refusal = k.Reserve(ctx, ask, g)
		}
		return func() {
			if refusal != nil {
				code = refusal.Code
				s.counts.refused++
				if refusal.Code == record.CodeKeyExpired || s.forgets && !b.ending && b.lives() && refusal.Code == record.CodeKeyInvalid {
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
					s.refused(w, b, refusal, &ask.Bound, *least, taken)
					b.judged(least)
				})
				return
			}
			b.judged(least)
			if late && b.within > 0 {
				s.fatalf("%s admits %s, which was not used within %s", w.node, b.id, b.within)
			}
			b.used = true
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

func (s *ensemble) grant(i int, b *purse) {
	w, n := s.c.w[i], 1+s.random.Int64N(30)
	if b.parent != nil {
		return
	}
	b.limit[record.Activations] += n // from now on it may be there
	if b.within > 0 {
		b.within, b.extended = 0, true // it may have more time
	}
	s.begin(func() func() {
		_, err := w.GrantMore(ctx, limiter.Operator, b.id, limiter.More{Activations: n})
		return func() {
			if err == nil {
				b.least[record.Activations] += n
			} else if errors.Is(err, limiter.ErrRevoked) {
				b.limit[record.Activations] -= n // it is not
			}
			s.say("%s grants %d to %s: %v", w.node, n, b.id, err)
		}
	})
}

// change sets another limit.
func (s *ensemble) change(i int, b *purse) {
	w, n := s.c.w[i], 1+s.random.Int64N(150)
	if b.parent != nil || b.kids > 0 {
		return
	}
	before := b.limit[record.Activations]
	b.limit[record.Activations] += n // grants that are on their way may come after it
	s.begin(func() func() {
		_, err := w.Change(ctx, limiter.Operator, b.id, 0, func(key *record.Key) error {
			key.Limit[record.Activations] = n
			return nil
		})
		return func() {
			s.say("%s limits %s to %d: %v", w.node, b.id, n, err)
			switch taken := b.taken(b.last())[record.Activations]; {
			case err == nil && s.quiet:
				b.limit[record.Activations], b.least[record.Activations] = max(n, taken), n
			case err == nil:
				b.least[record.Activations] = min(b.least[record.Activations], n)
			case s.quiet:
				b.limit[record.Activations] = before
			default:
				b.least[record.Activations] = min(b.least[record.Activations], n)
			}
			for _, least := range b.asked {
				least[record.Activations] = min(least[record.Activations], b.least[record.Activations])
			}
		}
	})
}

// reform changes what the configuration says of a role: another limit, none of it any more,
// or one that was not there. The nodes are told one after another, and requests come
// meanwhile: until all know of it, the higher limit holds.
func (s *ensemble) reform() {
	name := []string{"ci", "night", "late"}[s.random.IntN(3)]
	roles := maps.Clone(s.c.w[0].roles)
	role, known := roles[name]
	s.reset[name] = true
	if known && s.chance(30) {
		delete(roles, name)
		s.say("role %s is taken away", name)
	} else {
		role.Budget = ensembleRoles()[name].Budget
		limit := 1 + s.random.Int64N(300)
		role.Budget.Limit = record.Amounts{limit, -1, -1, -1}
		roles[name] = role
		s.most[name] = max(s.most[name], limit)
		for at := range s.spent {
			if at.role == name {
				s.spent[at] += limit // as much as may be new
			}
		}
		s.say("role %s has %d", name, limit)
	}
	told := 0
	for _, i := range s.random.Perm(len(s.c.w)) {
		w := s.c.w[i]
		w.roles = roles // for the next start
		switch {
		case s.down[i]:
			told++
			continue
		case s.paused[i]:
			continue
		}
		s.begin(func() func() {
			err := w.SetRoles(roles)
			return func() {
				if s.say("%s knows role %s: %v", w.node, name, err); err == nil {
					told++
				}
			}
		})
		for range s.random.IntN(4) {
			s.request(s.pick(), s.purse())
		}
	}
	if role, known := roles[name]; known && told == len(s.c.w) && len(s.ops) == 0 {
		s.most[name] = role.Budget.Limit[record.Activations]
		for at, n := range s.roles {
			if at.role == name {
				s.before[at] = max(s.before[at], n)
			}
		}
	}
}

// judged forgets a request.
func (b *purse) judged(asked *record.Amounts) {
	b.asked = slices.DeleteFunc(b.asked, func(other *record.Amounts) bool { return other == asked })
}

// known reports whether a node could find out which others have not followed: these
// admit nothing. One that was killed meanwhile could not.
func known(pending []string) bool {
	return !slices.ContainsFunc(pending, func(name string) bool { return !strings.HasPrefix(name, "node-") })
}

func (s *ensemble) revoke(i int, b *purse) {
	w := s.c.w[i]
	b.ending = true
	s.begin(func() func() {
		view, _, err := w.Revoke(ctx, limiter.Operator, b.id, "")
		return func() {
			b.stopped = b.stopped || err == nil && known(view.Pending)
			s.say("%s revokes %s: %v, pending %q", w.node, b.id, err, view.Pending)
		}
	})
}

func (s *ensemble) suspend(i int, b *purse) {
	if b.pausing {
		return
	}
	w := s.c.w[i]
	b.pausing = true
	s.begin(func() func() {
		view, err := w.Suspend(ctx, limiter.Operator, b.id)
		return func() {
			b.paused = err == nil && known(view.Pending)
			s.say("%s suspends %s: %v, pending %q", w.node, b.id, err, view.Pending)
		}
	})
}

func (s *ensemble) resume(i int, b *purse) {
	if !s.healthy() || !b.paused {
		return
	}
	w := s.c.w[i]
	b.paused = false // from now on it may be admitted
	s.begin(func() func() {
		_, err := w.Resume(ctx, limiter.Operator, b.id)
		return func() {
			b.pausing = err != nil
			s.say("%s resumes %s: %v", w.node, b.id, err)
		}
	})
}

// forget deletes a key that has ended.
func (s *ensemble) forget(i int, b *purse) {
	w := s.c.w[i]
	unexpired := b.within == 0 || b.used || w.Now().Add(closeBy).Before(b.created.Add(b.within))
	s.begin(func() func() {
		err := w.Forget(ctx, limiter.Operator, b.id)
		return func() {
			switch s.say("%s forgets %s: %v", w.node, b.id, err); {
			case err == nil && s.quiet && b.exact() && b.lives() && unexpired:
				s.fatalf("%s forgets %s, which lives with %v taken of %v", w.node, b.id, b.taken(b.last()), b.least)
			case err == nil:
				b.gone, b.stopped, b.ending = true, true, true
			case !errors.Is(err, limiter.ErrAlive) && !errors.Is(err, limiter.ErrFamily) && !errors.Is(err, limiter.ErrInUse):
				b.going, b.ending = true, true
			}
		}
	})
}

// lives reports whether something is left of every budget.
func (b *purse) lives() bool {
	taken := b.taken(b.last())
	for kind, limit := range b.least {
		if limit != record.NoLimit && taken[kind] >= limit {
			return false
		}
	}
	return true
}

// rotate replaces a key's string, after which no node admits the former one.
func (s *ensemble) rotate(i int, b *purse) {
	if !s.healthy() || b.ending || s.forgets && !b.lives() {
		return
	}
	s.c.Inject(nil)
	w, former := s.c.w[i], b.lookup
	_, next, err := token.MintKey()
	if err != nil {
		s.fatalf("%v", err)
	}
	_, _, err = w.Rotate(ctx, limiter.Operator, b.id, record.Issue{Lookup: next}, 0)
	if s.say("%s rotates %s: %v", w.node, b.id, err); err != nil {
		return
	}
	b.lookup = next
	for _, w := range s.c.w {
		k, refusal := w.Find(ctx, former)
		if refusal == nil {
			_, refusal = k.Number(k.Key(), former)
		}
		if refusal == nil {
			s.fatalf("%s admits a string of %s that was replaced", w.node, b.id)
		}
	}
}
