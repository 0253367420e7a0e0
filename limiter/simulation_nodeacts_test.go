package limiter_test

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// What operators and holders of keys do with the nodes of a simulation.

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
		view, err := w.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup})
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

func (s *ensemble) grant(i int, b *purse) {
	w, n := s.c.w[i], 1+s.random.Int64N(30)
	if b.parent != nil {
		return
	}
	b.limit[record.Activations] += n // from now on it may be there
	changes, changing := b.changes, b.changing
	b.granting++
	if b.within > 0 {
		b.within, b.extended = 0, true // it may have more time
	}
	s.begin(func() func() {
		_, err := w.GrantMore(ctx, limiter.Operator, b.id, limiter.More{Activations: n})
		return func() {
			b.granting--
			if err == nil && changing == 0 && b.changes == changes { // or the limit may have been set after it
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
	most := b.limit[record.Activations]
	alone := b.granting == 0
	b.changes++
	b.changing++
	s.begin(func() func() {
		_, err := w.Change(ctx, limiter.Operator, b.id, 0, func(key *record.Key) error {
			key.Limit[record.Activations] = n
			return nil
		})
		return func() {
			b.changing--
			s.say("%s limits %s to %d: %v", w.node, b.id, n, err)
			switch taken := b.taken(b.last())[record.Activations]; {
			case err == nil && s.quiet && alone && b.limit[record.Activations] == most: // nothing was granted meanwhile
				b.limit[record.Activations], b.least[record.Activations] = max(n, taken), n
			case err == nil:
				b.least[record.Activations] = min(b.least[record.Activations], n)
			case s.quiet && alone && b.limit[record.Activations] == most:
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
		view, err := w.Suspend(limiter.Operator, b.id)
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
		_, err := w.Resume(limiter.Operator, b.id)
		return func() {
			b.pausing = err != nil
			s.say("%s resumes %s: %v", w.node, b.id, err)
		}
	})
}

// forget deletes a key that has ended.
func (s *ensemble) forget(i int, b *purse) {
	w := s.c.w[i]
	unexpired := b.used || !b.extended && (b.within == 0 || w.Now().Add(closeBy).Before(b.created.Add(b.within)))
	s.begin(func() func() {
		err := w.Forget(ctx, limiter.Operator, b.id)
		return func() {
			switch s.say("%s forgets %s: %v", w.node, b.id, err); {
			case err == nil && s.quiet && b.exact() && b.lives(record.Amounts{}) && unexpired:
				s.fatalf("%s forgets %s, which lives with %v taken of %v", w.node, b.id, b.taken(b.last()), b.least)
			case err == nil:
				b.gone, b.stopped, b.ending = true, true, true
			case !errors.Is(err, limiter.ErrAlive) && !errors.Is(err, limiter.ErrFamily) && !errors.Is(err, limiter.ErrInUse):
				b.going, b.ending = true, true
			}
		}
	})
}

// lives reports whether something is left of every budget, with what was lost.
func (b *purse) lives(lost record.Amounts) bool {
	taken := b.taken(b.last())
	taken.Add(lost)
	for kind, limit := range b.least {
		if limit != record.NoLimit && taken[kind] >= limit {
			return false
		}
	}
	return true
}

// rotate replaces a key's string, after which no node admits the former one, but those that
// the answer names: they may not have followed.
func (s *ensemble) rotate(i int, b *purse) {
	if !s.healthy() || b.ending || s.forgets && !b.lives(record.Amounts{}) {
		return
	}
	s.c.Inject(nil)
	w, former := s.c.w[i], b.lookup
	_, next, err := token.MintKey()
	if err != nil {
		s.fatalf("%v", err)
	}
	view, _, err := w.Rotate(limiter.Operator, b.id, record.Issue{Lookup: next}, 0)
	if s.say("%s rotates %s: %v, pending %v", w.node, b.id, err, view.Pending); err != nil {
		return
	}
	b.lookup = next
	for _, w := range s.c.w {
		if slices.Contains(view.Pending, w.node) {
			continue
		}
		k, refusal := w.Find(ctx, former)
		if refusal == nil {
			_, refusal = k.Number(k.Key(), former, netip.Addr{})
		}
		if refusal == nil {
			s.fatalf("%s admits a string of %s that was replaced", w.node, b.id)
		}
	}
}
