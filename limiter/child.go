package limiter

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// The holder of a key that may delegate mints children of it. A child has a budget
// of its own, carved out of its parent's in the transaction that makes it:
//
//	what the parent spent + what its children have, net + what it has left = its limit
//
// at every moment. So a request of a child takes from the child's account (and
// its role's) alone, and the keys above are consulted only on status, scope,
// rate and concurrency. Children end with the revocation and the expiry of a key
// above them, stop while one is suspended, and outlive its exhaustion. What is
// left of a child's budget when it ends goes back; see returning.go.
const (
	// maxChildren bounds a key's children whose remaining budget has not been returned.
	maxChildren = 100
)

// attach links a child that is being read to its parent, which stays in memory
// for as long as the child does.
func (l *Limiter) attach(k *Live) error {
	for {
		parent, err := l.load(k.key.Parent)
		if err != nil {
			return fmt.Errorf("key %s: its parent: %w", k.key.ID, err)
		}
		parent.mu.Lock()
		if parent.gone {
			parent.mu.Unlock()
			continue // the parent was evicted meanwhile
		}
		if parent.kids == nil {
			parent.kids = make(map[string]*Live)
		}
		parent.kids[k.key.ID] = k
		k.parent = parent
		parent.mu.Unlock()
		return nil
	}
}

// detach lets the parent leave memory, too. Callers hold the key.
func (k *Live) detach() {
	if k.parent == nil {
		return
	}
	k.parent.mu.Lock()
	if id := k.key.ID; k.parent.kids[id] == k {
		delete(k.parent.kids, id)
	}
	k.parent.mu.Unlock()
}

// lockAbove locks the keys above, nearest first. Callers hold the key.
func (k *Live) lockAbove() {
	for a := k.parent; a != nil; a = a.parent {
		a.mu.Lock()
	}
}

func (k *Live) unlockAbove() {
	for a := k.parent; a != nil; {
		above := a.parent
		a.mu.Unlock()
		a = above
	}
}

// Family is the id of the topmost key: its holder also has those below it.
func (k *Live) Family() string { return k.topmost().Key().ID }

func (k *Live) topmost() *Live {
	for k.parent != nil {
		k = k.parent
	}
	return k
}

// usedBelow notes that a request of a child begins, which is a use of the keys
// above, too. Callers hold the key.
func (k *Live) usedBelow(ask *Ask, nanos int64) {
	k.below.Add(1)
	rate, tokens := k.pacer(ask, nanos)
	tokens.take(rate, nanos)
	if k.first == 0 {
		k.first = nanos
	}
	k.account.shade(k.l.shadow)
	k.used(nanos)
	k.l.markActive(k)
}

// endedBelow notes that a request of a child ends, which is a use as well. Callers
// hold the child.
func (k *Live) endedBelow(nanos int64) {
	k.mu.Lock()
	k.used(nanos)
	k.below.Add(-1)
	k.l.markActive(k)
	k.mu.Unlock()
}

// fromAbove derives the status that a child has from the keys above: none, unless one of
// them is suspended, expired or revoked. Callers hold the key, and none above.
func (k *Live) fromAbove(now time.Time) (record.Status, *record.Refusal) {
	for a := k.parent; a != nil; a = a.parent {
		a.mu.Lock()
		status, code := a.status(now)
		var refusal *record.Refusal
		switch status {
		case record.Revoked, record.Suspended:
			refusal = a.stopped(now)
		case record.Expired:
			refusal = a.timeRefusal(code)
		}
		a.mu.Unlock()
		if refusal != nil {
			return status, k.key.Below(refusal)
		}
	}
	return "", nil
}

// endedCode is the code of refusals by a key whose end is final.
func (k *Live) endedCode() record.Code {
	if reason := record.Code(k.key.EndedReason); reason.Ended() && reason != record.CodeKeyRevoked {
		return reason
	}
	return record.CodeKeyExpired
}

// over is the refusal of a key whose end is final.
func (k *Live) over(now time.Time) *record.Refusal {
	code := k.endedCode()
	for kind := range record.Kind(record.NumKinds) {
		if code == kind.Exhausted() && k.key.Limit[kind] != record.NoLimit {
			return k.key.Refuse(code, "has used all %s", record.FormatAmount(record.Kind(kind), k.key.Limit[kind]))
		}
	}
	if up := k.timeUp(now); up != "" {
		return k.timeRefusal(up)
	}
	if code == record.Code(k.key.EndedReason) {
		return k.timeRefusal(code)
	}
	return k.key.Refuse(code, "has ended: %s", k.key.EndedReason)
}

// admitsAddr judges a client's address by the key and by those above. Callers hold
// the key.
func (k *Live) admitsAddr(addr netip.Addr) *record.Refusal {
	admits := k.key.Scope.AllowsAddr(addr) && k.pinAllows(addr)
	for a := k.parent; a != nil && admits; a = a.parent {
		a.mu.Lock()
		admits = a.key.Scope.AllowsAddr(addr) && a.pinAllows(addr)
		a.mu.Unlock()
	}
	if !admits {
		return k.key.Refuse(record.CodeIPNotAllowed, "may not be used from %s", addr)
	}
	return nil
}

// AllowsModel reports whether the key and all above it allow a model.
func (k *Live) AllowsModel(model string) bool {
	for a := k; a != nil; a = a.parent {
		if !a.Key().Scope.AllowsModel(model) {
			return false
		}
	}
	return true
}

// giveBack writes what memory knows of a key into the store. It refunds what is
// reserved and unused, or reserves an overdraft, so that the record says what is
// left, and reports whether nothing is in flight.
func (l *Limiter) giveBack(ctx context.Context, k *Live) (quiet bool, err error) {
	for range 3 {
		k.mu.Lock()
		unsettled := k.unsettled()
		busy := k.asked || k.pending > 0
		if unsettled && !busy {
			l.save(&k.account, k, true)
		}
		quiet = k.inflight == 0 && k.parked == 0
		k.mu.Unlock()
		if !unsettled && !busy {
			return quiet, nil
		}
		if err := l.Ping(ctx); err != nil {
			return false, err
		}
	}
	return false, nil
}

// givenTo updates memory with what an account has given away. It runs on the
// committer.
func (c *cache) givenTo(id string, acct *record.Account, children int) {
	k := c.inMemory(id)
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.given, k.back = acct.Given, acct.Returned
	k.relimit()
	k.children += children
	k.setMarks()
	k.callAll()
}
