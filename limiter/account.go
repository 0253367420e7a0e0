package limiter

import (
	"sync"

	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
)

// account is one budget in memory: a key's, or the one that all keys of a
// role share.
//
// For every limited kind, at every moment,
//
//	spent + held <= reserved <= limit
//
// where reserved is durable. The only exceptions are an overdraft (an answer used
// more than its bound, and is debited all the same) and a limit that an operator
// lowered below what was used. All of this concerns only this node's part of the
// account: see books.go.
type account struct {
	mu sync.Mutex // guards everything below, and what embeds the account

	id      record.AccountID
	forRole bool           // its limit is what the configuration says
	absent  bool           // its role is not in the configuration
	limit   record.Amounts // of this node's part; see relimit
	lineage uint64
	renews  record.Renewal
	epoch   int64          // the window that everything below is about; see renew
	past    record.Amounts // used in earlier windows
	counted record.Amounts // this node's share of the durable sum over all keys
	booked  record.Amounts // how much of all use was in the history when this was read
	kinds   record.TokenKinds

	reserved record.Amounts // durable; requests are served from it
	spent    record.Amounts // settled
	held     record.Amounts // bounds of the requests in flight

	slot *integrity.Slot // nil when there is no block

	asked   bool    // a block or a window is on its way
	noting  bool    // the store is writing who has used the account
	refill  *refill // what parked callers wait for; nil when nobody waits
	parked  int
	waiting record.Amounts // bounds of the parked callers
	stalled int64          // when callers began to wait for a block, in unix nanoseconds; 0: none waits
	pending int            // saves on their way
	pace    pace
	late    int            // blocks still to be asked for early, after a caller had to wait
	mean    record.Amounts // recent mean bound, for kinds counted in more than ones

	line   []*turn // requests that wait for budget held by others
	passed int     // requests admitted while the first of them waited

	joint
	firstDurable bool           // the store knows of the first use
	pinDurable   bool           // the store knows the address that the key is bound to
	savedAt      int64          // unix nanoseconds of the last save
	leftOpen     bool           // a crash left open how much of reserved was used; that all of it counts as used is not stored yet
	looked       int64          // unix nanoseconds of the last look at the other nodes' parts
	inStore      record.Amounts // how much of spent is in the store, where other nodes read it
	size         *blockSize
}

// joint is the part of an account in memory that other nodes can change; see adopt.
type joint struct {
	whole  record.Amounts // the limit of its record or role
	given  record.Amounts // part of its record's limit, given to children or back to a parent
	back   record.Amounts // the part of given that went to a parent
	others record.Part    // the other nodes' parts together, as last read
	busy   int64          // when other nodes last used it, as far as is known; 0: never
	first  int64          // unix nanoseconds of the first use; 0: never
	last   int64          // when the last request ended or, if it still runs, began
	pin    string
	addr   string
}

// refill is one answer of the committer that parked callers share.
type refill struct {
	done chan struct{}
	err  error
}

// restore takes over what the store says. Everything reserved counts as spent:
// whatever was not spent has been given back, or recovered from the shadow.
func (a *account) restore(r *record.Account, own *record.Part, limit record.Amounts) {
	a.whole, a.lineage = limit, r.Lineage
	a.epoch, a.past, a.booked = r.Epoch, own.Past, own.Booked
	a.reserved, a.spent = own.Reserved, own.Reserved
	a.counted, a.kinds, a.inStore = durable(own), own.Kinds, own.Settled
	a.leftOpen = own.Reserved != own.Settled
	a.first, a.firstDurable, a.pinDurable = r.First, r.First != 0, r.Pin != ""
	a.last, a.pin, a.addr = r.Last, r.Pin, r.Addr
	a.adopt(r, own)
}

// forfeits is the most activations that a crash has made count as used, in an account that
// was just read.
func (a *account) forfeits() int64 {
	if a.limit[record.Activations] == record.NoLimit {
		return 0
	}
	return max(a.spent[record.Activations]-a.inStore[record.Activations], 0)
}

// verdict is whether an account can take a bound, and if not, why.
type verdict uint8

const (
	fits   verdict = iota // may be debited now
	wait                  // the limit allows it, but a block must come first
	heldUp                // would fit if requests in flight gave back what they hold
	tooBig                // more than is left
	spent                 // nothing is left
)

// canDebit reports whether the bound can be debited, and which kind decides.
// strict is set when an activation in flight can no longer come back, so that
// a key is spent as soon as its last activation was admitted.
func (a *account) canDebit(bound *record.Amounts, strict bool) (verdict, record.Kind) {
	answer, which := fits, record.Kind(0)
	for i := range bound {
		k, limit := record.Kind(i), a.limit[i]
		if limit == record.NoLimit {
			continue
		}
		b := bound[i]
		if b < 0 {
			return tooBig, k // a negative bound can only be a mistake
		}
		left := limit - a.spent[i] - a.held[i]
		if left > 0 && b <= left {
			if b > a.reserved[i]-a.spent[i]-a.held[i] {
				answer = max(answer, wait)
			}
			continue
		}
		final := left + a.held[i] + a.lent(k) // what would be left if everything came back
		if strict && (k == record.Activations || k == record.Attempts) {
			final = left + a.lent(k)
		}
		switch {
		case final <= 0:
			return spent, k
		case max(b, 1) > final:
			return tooBig, k
		case answer != heldUp:
			answer, which = heldUp, k // unless another kind never fits
		}
	}
	return answer, which
}

// debit holds the bound. The caller has judged that it fits.
func (a *account) debit(bound *record.Amounts, now int64) {
	for i, b := range bound {
		if b == 0 {
			continue
		}
		a.held[i] += b
		a.slot.Set(record.Kind(i), a.spent[i]+a.held[i])
		if a.mean[i] == 0 {
			a.mean[i] = b
		} else {
			a.mean[i] += (b - a.mean[i]) / 8
		}
	}
	a.pace.note(now)
	a.used(now)
}

// used notes a use: its beginning, its end, or that it goes on.
func (a *account) used(now int64) {
	a.last = now
	a.slot.SetLast(now)
}

// maxUse is more than any single request uses of one kind. A larger figure is
// the reporter's mistake, or an attempt to make sums wrap around.
const maxUse = 1 << 50

// more adds what was used, up to what an account can hold.
func more(a, b int64) int64 { return min(a+b, record.MaxAmount) }

// settle ends a hold of an epoch: the bound is released, and what was used is
// spent.
func (a *account) settle(epoch int64, bound, used *record.Amounts) {
	if epoch != a.epoch {
		a.settleElsewhere(epoch, bound, used)
		return
	}
	for i := range bound {
		if bound[i] == 0 && used[i] == 0 {
			continue
		}
		a.held[i] -= bound[i]
		a.spent[i] = more(a.spent[i], used[i])
		a.slot.Set(record.Kind(i), a.spent[i]+a.held[i])
	}
	a.call(0)
}

// settleElsewhere ends a hold that is not of the present window. Use in a window that is over
// counts as past. Use that already counts does not count again.
func (a *account) settleElsewhere(epoch int64, bound, used *record.Amounts) {
	over := beyond(used, bound)
	switch epoch {
	case spentEpoch, bookedEpoch:
		for i, n := range over {
			if n > 0 {
				a.spent[i] = more(a.spent[i], n)
				a.slot.Set(record.Kind(i), a.spent[i]+a.held[i])
			}
		}
		return
	case bookedPast:
		used = &over
	}
	for i, n := range used {
		a.past[i] = more(a.past[i], n)
	}
}

// beyond is what was used beyond a bound.
func beyond(used, bound *record.Amounts) (over record.Amounts) {
	for i, n := range used {
		over[i] = max(n-bound[i], 0)
	}
	return over
}

// overdrawn reports whether more was used than is durably reserved.
func (a *account) overdrawn() bool {
	for i, limit := range a.limit {
		if limit != record.NoLimit && a.spent[i]+a.held[i] > a.reserved[i] {
			return true
		}
	}
	return false
}

// cover lets a record reserve all that was taken, and returns by how much that
// raised it.
func (a *account) cover(rec *record.Account, own *record.Part) (raised record.Amounts) {
	for i, limit := range a.limit {
		if n := a.spent[i] + a.held[i] - own.Reserved[i]; limit != record.NoLimit && rec.Limit[i] != record.NoLimit && n > 0 {
			own.Reserved[i] += n
			raised[i] = n
		}
	}
	return raised
}

// unsettled reports whether more or less is reserved than taken. The store has
// to learn of either before the account may leave memory.
func (a *account) unsettled() bool {
	_, unused := a.unused()
	return unused || a.overdrawn()
}

// unused is what is reserved and neither spent nor held.
func (a *account) unused() (record.Amounts, bool) {
	var free record.Amounts
	any := false
	for i, limit := range a.limit {
		if limit == record.NoLimit {
			continue
		}
		if n := a.reserved[i] - a.spent[i] - a.held[i]; n > 0 {
			free[i], any = n, true
		}
	}
	return free, any
}

// remaining is what is left of each limit once everything held is spent.
func (a *account) remaining() record.Amounts {
	left := record.NoLimits()
	for i, limit := range a.limit {
		if limit != record.NoLimit {
			left[i] = max(limit-a.spent[i]-a.held[i], 0)
		}
	}
	return left
}

// recorded reports whether the store knows what was used of the kinds without a
// limit, of which nothing is reserved.
func (a *account) recorded() bool {
	for i, limit := range a.limit {
		if limit == record.NoLimit && a.reserved[i] != a.spent[i]+a.held[i] {
			return false
		}
	}
	return true
}

// taken is used + held: what the shadow must show.
func (a *account) taken() record.Amounts {
	var t record.Amounts
	for i := range t {
		t[i] = a.spent[i] + a.held[i]
	}
	return t
}

func (a *account) park(bound *record.Amounts) *refill {
	if a.refill == nil {
		a.refill = &refill{done: make(chan struct{})}
	}
	a.parked++
	a.late = lateFor
	for i, b := range bound {
		a.waiting[i] += b
	}
	return a.refill
}

func (a *account) unpark(bound *record.Amounts) {
	a.parked--
	for i, b := range bound {
		a.waiting[i] -= b
	}
}

// answer wakes the parked callers.
func (a *account) answer(err error) {
	a.asked = false
	a.late = max(a.late-1, 0)
	if a.refill != nil {
		a.refill.err = err
		close(a.refill.done)
		a.refill = nil
	}
}

// shade gives the account a slot of the shadow, which keeps what was used, unless the
// account has a slot or all are taken. Callers hold the account.
func (a *account) shade(s *integrity.Shadow) {
	if s != nil && a.slot == nil {
		a.slot = s.Take(integrity.Remembered{ID: a.id, Lineage: a.lineage, First: a.first, Last: a.last, Used: a.taken()})
	}
}
