package limiter

import (
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// blockSize bounds how much is reserved beyond what callers wait for.
type blockSize struct {
	perSecond int64 // a block should last for a second divided by this
	most      int64 // in requests
	mostLate  int64 // in requests, while callers have had to wait lately
	part      int64 // a block takes at most what may still be reserved, divided by this
}

// alone is for a store of one node. A power cut costs a key at most 128 requests: a whole
// block and the third of one that is left when the next is asked for, or two blocks of
// mostLate, the second of which is asked for while the first is unused.
var alone = blockSize{perSecond: 50, most: 96, mostLate: 64, part: 16}

// together is for a store that several nodes share, which takes longer to answer. A
// node takes little of what is left, because the others may need it.
func together(nodes int64) *blockSize {
	return &blockSize{perSecond: 4, most: 256, mostLate: 256, part: 8 * max(nodes, 2)}
}

// lateFor is the number of blocks for which a wait is remembered.
const lateFor = 64

// wantsAhead reports whether the next block should be asked for before this one
// has run out: when less than a third of a block is left or, while the store is too
// slow for that, when less than a whole one is. A slow key does not get blocks
// ahead, so that a power cut takes nothing from it.
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

// unit is what one request takes of a kind.
func (a *account) unit(k record.Kind) int64 {
	if k == record.Activations || k == record.Attempts {
		return 1
	}
	return max(a.mean[k], 1)
}

// pace estimates how many requests a second an account would lately have seen if none had
// waited for a block. It decides only how large blocks are: where most of the time is spent
// waiting, the rate over all of it would ask for blocks that are used up at once.
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
	// An estimate from little time is capped at eight times the rate that was served.
	rate := p.n * int64(time.Second) / max(elapsed-p.waited, elapsed/8)
	if elapsed > int64(time.Second) {
		p.perSecond = rate
	} else {
		p.perSecond = (p.perSecond + rate) / 2
	}
	p.start, p.n, p.waited = now, 0, 0
}

// resume notes that callers no longer wait for a block. Callers hold the account.
func (a *account) resume(now int64) {
	if a.stalled != 0 {
		a.pace.waited += now - a.stalled
		a.stalled = 0
	}
}
