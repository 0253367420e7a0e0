package limiter

import (
	"sync"
	"time"

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
// where reserved is durable. The only exceptions are an overdraft (an answer
// used more than its bound: debited all the same) and a limit that an
// operator lowered below what was used. All of it is about this node's part of the
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
	counted record.Amounts // what the durable sum over all keys holds of this node's part
	booked  record.Amounts // what stood in the history of all use when it was read
	kinds   record.TokenKinds

	reserved record.Amounts // durable; requests are served from it
	spent    record.Amounts // settled
	held     record.Amounts // bounds of the requests in flight

	slot *integrity.Slot // nil when there is no block

	asked   bool    // a block is on its way
	noting  bool    // and the store is writing who has used the account
	refill  *refill // what parked callers wait for; nil when nobody waits
	parked  int
	waiting record.Amounts // bounds of the parked callers
	stalled int64          // unix nanoseconds since callers wait for a block; 0: none does
	pending int            // saves on their way
	pace    pace
	late    int            // blocks still to be asked for early, after a caller had to wait
	mean    record.Amounts // recent mean bound, for kinds counted in more than ones

	line   []*turn // of requests that wait for what others hold
	passed int     // requests admitted while the first of them waited

	joint
	firstDurable bool           // the store knows of the first use
	pinDurable   bool           // and of the address that the key is bound to
	savedAt      int64          // unix nanoseconds of the last save
	leftOpen     bool           // a crash left open what of reserved was used: that all counts so is not stored yet
	looked       int64          // unix nanoseconds of the last look at what other nodes have
	inStore      record.Amounts // how much of spent the store knows of, where other nodes read it
	size         *blockSize
}

// joint is the part of an account in memory that other nodes can change; see adopt.
type joint struct {
	whole  record.Amounts // the limit of its record or role
	given  record.Amounts // part of its record's limit, given to children or back to a parent
	back   record.Amounts // the part of given that went to a parent
	others record.Part    // what all other nodes have of it, as last read
	busy   int64          // when other nodes last used it, as far as is known; 0: never
	first  int64          // unix nanoseconds of the first use; 0: never
	last   int64          // when the last request ended, or began and runs
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

// forfeits is how many activations of an account that was just read a crash has made count
// as used, at most.
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

// settleElsewhere ends a hold that the present window does not have. Once the window of the
// hold is over, the use counts as past. What of the use counts already does not count again.
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

// wantsAhead reports whether the next block should be asked for before this
// one has run out: when less than a third of one is left, or already when less
// than one is, while the store is too slow for that. A slow key does not get
// blocks ahead, so that a power cut takes nothing from it.
func (a *account) wantsAhead() bool {
	for i, limit := range a.limit {
		if limit == record.NoLimit || a.held[i]+a.spent[i] == 0 {
			continue
		}
		free := limit - a.reserved[i]
		ahead := a.ahead(record.Kind(i), free)
		least := ahead / 3
		if a.late > 0 {
			least = ahead
		}
		if free > 0 && ahead > a.unit(record.Kind(i)) && a.reserved[i]-a.spent[i]-a.held[i] < least {
			return true
		}
	}
	return false
}

// unit is what one request takes of a kind.
func (a *account) unit(k record.Kind) int64 {
	if k == record.Activations || k == record.Attempts {
		return 1
	}
	return max(a.mean[k], 1)
}

// blockSize bounds how much is reserved beyond what callers wait for.
type blockSize struct {
	perSecond int64 // a block should last for a second divided by this
	most      int64 // in requests
	mostLate  int64 // in requests, while callers have had to wait lately
	part      int64 // a block takes at most what may still be reserved, divided by this
}

// alone is for a store of one node. With the third that is left when the next block is
// asked for, a power cut costs a key at most 128 requests. So do two blocks of mostLate,
// the second of which is asked for while the first is unused.
var alone = blockSize{perSecond: 50, most: 96, mostLate: 64, part: 16}

// together is for a store that several nodes share, which takes longer to answer. A
// node takes little of what is left, which the others may need.
func together(nodes int64) *blockSize {
	return &blockSize{perSecond: 4, most: 256, mostLate: 256, part: 8 * max(nodes, 2)}
}

// lateFor is the number of blocks for which a wait is remembered.
const lateFor = 64

// ahead is how much to reserve beyond what callers wait for.
func (a *account) ahead(k record.Kind, free int64) int64 {
	unit, size := a.unit(k), a.size
	if size == nil {
		size = &alone
	}
	most := size.most
	if a.late > 0 {
		most = size.mostLate
	}
	// The two divisions are left out for a busy key, because they take as long as the
	// rest.
	n := most
	if a.pace.perSecond < most*size.perSecond {
		n = max(a.pace.perSecond/size.perSecond, 1)
	}
	n *= unit
	if n > free>>10 || size.part > 1<<10 {
		n = min(n, free/size.part)
	}
	return max(n, min(unit, free))
}

// want is how much of a kind the next block should hold, given what the
// durable record still allows.
func (a *account) want(k record.Kind, limit, reserved int64) int64 {
	over := a.spent[k] + a.held[k] - a.reserved[k] // an overdraft, or minus what is unused
	if limit == record.NoLimit {
		return 0
	}
	free := limit - reserved
	queued := a.waiting[k] + over
	if free <= 0 {
		return max(over, 0)
	}
	block := queued
	if ahead := a.ahead(k, free); -over < ahead {
		block = max(queued, ahead)
	}
	return max(min(block, free), over, 0)
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

// pace measures how many requests a second an account would see if none had to wait for a
// block, as it has seen them lately. It decides only how large blocks are: where most of
// the time goes in waiting, what was served in all of it would ask for blocks that are
// used up at once.
type pace struct {
	start, n, waited int64
	perSecond        int64
}

func (p *pace) note(now int64) {
	p.n++
	elapsed := now - p.start
	if elapsed < int64(100*time.Millisecond) {
		return
	}
	// A guess from little time is held to eight times what was served.
	rate := p.n * int64(time.Second) / max(elapsed-p.waited, elapsed/8)
	if elapsed > int64(time.Second) {
		p.perSecond = rate
	} else {
		p.perSecond = (p.perSecond + rate) / 2
	}
	p.start, p.n, p.waited = now, 0, 0
}

// resume says that callers no longer wait for a block. Callers hold the account.
func (a *account) resume(now int64) {
	if a.stalled != 0 {
		a.pace.waited += now - a.stalled
		a.stalled = 0
	}
}

// shade gives the account a slot of the shadow, which keeps what was used, unless
// it has one or all are taken. Callers hold the account.
func (a *account) shade(s *integrity.Shadow) {
	if s != nil && a.slot == nil {
		a.slot = s.Take(integrity.Remembered{ID: a.id, Lineage: a.lineage, First: a.first, Last: a.last, Used: a.taken()})
	}
}
