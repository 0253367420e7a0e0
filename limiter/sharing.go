package limiter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A node's knowledge of the others' use of a key may be old. So before it refuses a
// request because of that, it looks at the books. Where other nodes have reserved budget
// that this one lacks, it asks for it back; whatever they cannot give back counts as held,
// and only what all of them have spent counts as spent.
const (
	// lookedFor is how long a look at the books is believed. It bounds how often
	// requests that are refused cost a transaction.
	lookedFor = 50 * time.Millisecond
	// recallWait is how long other nodes have to give back what they do not use, and
	// maxRecalls how often a request asks for that per account.
	recallWait = 30 * time.Millisecond
	maxRecalls = 3
)

// inquiry is what one request has found out before it is refused, most of it about other
// nodes.
type inquiry struct {
	looked   []*account      // whose books were read since it began, or since the last recall
	recalled []*account      // that other nodes were asked to give back, once for each time
	refined  bool            // its bound was worked out again since it waited
	again    *record.Refusal // replaces a final refusal, as the bound could not be worked out; nil: nothing
}

// refines reports whether a request that is too large should work out its bound again
// before it is refused, which it does once after each wait.
func (q *inquiry) refines(ask *Ask, v verdict) bool {
	if v != tooBig || ask.Refine == nil || q.refined {
		return false
	}
	q.refined = true
	return true
}

// unsure reports whether a request should look at an account before it is refused by
// it, which it does once. Callers hold the account.
func (n *nodes) unsure(q *inquiry, a *account, nanos int64) bool {
	if n.shared == nil || slices.Contains(q.looked, a) {
		return false
	}
	if age := nanos - a.looked; -int64(lookedFor) < age && age < int64(lookedFor) {
		return false
	}
	q.looked = append(q.looked, a)
	return true
}

// inquire returns what judge finds, again after each look at an account's books that judge asks
// for before it refuses.
func (l *Limiter) inquire(ctx context.Context, judge func(*inquiry) (*record.Refusal, parking)) *record.Refusal {
	var inq inquiry
	for {
		refusal, look := judge(&inq)
		if look.refill == nil {
			return refusal
		}
		if stopped := l.awaitBooks(ctx, &look); stopped != nil {
			return stopped
		}
	}
}

// look lets a caller wait for a transaction on the account's books. Callers hold the
// account.
func (l *Limiter) look(a *account, k *Live) parking {
	if a.refill == nil {
		a.refill = &refill{done: make(chan struct{})}
	}
	a.parked++
	l.askBlock(a, k)
	return parking{refill: a.refill, at: a}
}

// restsOnUse returns the key, of this one and those above, whose status depends on
// when or from where it was used first or last: other nodes may know better. nil: none.
// Callers hold all of them.
func (k *Live) restsOnUse(now time.Time) *Live {
	if k.l.shared == nil {
		return nil
	}
	for a := k; a != nil; a = a.parent {
		if a.key.EndedStatus == "" && (a.key.IdleTimeout > 0 || a.key.FirstUseWithin > 0) && a.timeUp(now) != "" ||
			a.key.Scope.PinIP && !a.pinDurable {
			return a
		}
	}
	return nil
}

// recalls reports whether a request that finds too little should ask other nodes for
// what they have reserved. Callers hold the account.
func (n *nodes) recalls(q *inquiry, a *account) bool {
	if n.shared == nil || !a.lends() {
		return false
	}
	times := 0
	for _, other := range q.recalled {
		if other == a {
			times++
		}
	}
	if times == maxRecalls {
		return false
	}
	q.recalled, q.looked = append(q.recalled, a), nil
	return true
}

// lends reports whether other nodes have unspent reservations on the account.
func (a *account) lends() bool {
	for i, limit := range a.limit {
		if limit != record.NoLimit && a.lent(record.Kind(i)) > 0 {
			return true
		}
	}
	return false
}

// gather asks the other nodes for their unused reservations on an account, and gives them
// time. Reservations of nodes that are gone count as spent. It does nothing where the
// store is not shared.
func (l *Limiter) gather(ctx context.Context, a *account) error {
	if l.shared == nil {
		return nil
	}
	l.shared.Recall(a.id[:])
	if err := l.writeOff(a); err != nil {
		return err
	}
	patience := time.NewTimer(recallWait)
	defer patience.Stop()
	select {
	case <-patience.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeOff counts the reservations of nodes that are gone on an account as spent. A node
// that comes back with its shadow file corrects that.
func (l *Limiter) writeOff(a *account) error {
	var lost record.Amounts
	left := func(r store.Reader, p *nodePart) (bool, error) {
		if p.node == l.node() || p.Settled == p.Reserved {
			return false, nil
		}
		return l.nodes.gone(r, p.node)
	}
	if !l.nodes.anyGone() {
		return nil
	}
	some := false // otherwise no other node has to wait for this
	err := l.store.View(func(r store.Reader) error {
		parts, err := readParts(r, a.id)
		for i := 0; i < len(parts) && err == nil && !some; i++ {
			some, err = left(r, &parts[i])
		}
		return err
	})
	if err != nil || !some {
		return err
	}
	err = l.committer.Do(func(b *batch) error {
		lost = record.Amounts{}
		rec, err := readAccount(b, a)
		if err != nil {
			return err
		}
		parts, err := readParts(b, a.id)
		if err != nil {
			return err
		}
		for i := range parts {
			p := &parts[i]
			if p.Lineage != rec.Lineage {
				continue
			}
			if is, err := left(b, p); err != nil {
				return err
			} else if !is {
				continue
			}
			lost.Add(p.Reserved.Minus(p.Settled))
			p.Settled = p.Reserved
			if err := b.setPart(p.key, &rec, &p.Part); err != nil {
				return err
			}
		}
		if lost == (record.Amounts{}) {
			return nil
		}
		return b.setAccount(a.id, a.forRole, &rec)
	}, nil)
	if err == nil && lost != (record.Amounts{}) {
		l.forfeited.Add(lost[record.Activations])
		l.log.Warn("what a node that is gone had reserved counts as spent", "activations", lost[record.Activations],
			"tokens", lost[record.Tokens], "spend_usd", record.FormatUSD(lost[record.Nanodollars]))
	}
	return err
}

// nodePart is a node's part of an account.
type nodePart struct {
	record.Part
	node string
	key  []byte
}

// readParts reads all nodes' parts of an account.
func readParts(r store.Reader, id record.AccountID) (parts []nodePart, err error) {
	prefix := record.PartPrefix(id)
	err = r.Scan(prefix, nil, false, func(key, value []byte) (bool, error) {
		p, err := record.DecodePart(value)
		if err != nil {
			return false, fmt.Errorf("%q: %w", key, err)
		}
		parts = append(parts, nodePart{Part: p, node: string(key[len(prefix):]), key: slices.Clone(key)})
		return true, nil
	})
	return parts, err
}

// reservedElsewhere reports whether another living node may still spend from an account,
// or give something back to it.
func (n *nodes) reservedElsewhere(b *batch, id record.AccountID, lineage uint64) (bool, error) {
	if b.node == "" {
		return false, nil
	}
	parts, err := readParts(b, id)
	if err != nil {
		return false, err
	}
	for i := range parts {
		p := &parts[i]
		if p.node == b.node || p.Lineage != lineage || p.Reserved == p.Settled {
			continue
		}
		if gone, err := n.gone(b, p.node); err != nil || !gone {
			return err == nil, err
		}
	}
	return false, nil
}

// settleOwn writes what this node has spent of an account: the others believe that
// nothing is left only once they have read that. The caller still has to write acct.
func (b *batch) settleOwn(k *Live, acct *record.Account) error {
	own, err := b.own(k.id, acct)
	if err != nil || b.node == "" {
		return err
	}
	k.mu.Lock()
	if acct.Lineage == k.lineage {
		settle(acct, &own, k.spent)
	}
	k.mu.Unlock()
	return b.setOwn(k.id, acct, &own)
}

// busyFor is how long a key that other nodes have used counts as used by them.
const busyFor = time.Minute

// portion is what this node admits of a rate, or of a number of requests at a time:
// all of it, for a key that no other node uses, and otherwise an equal share, but at
// least one. So with n nodes a key that moves from one to others may get up to twice
// its limit for a moment, and one whose limit is below n gets n. Callers hold the key.
func (k *Live) portion(limit, nanos int64) int64 {
	if limit == 0 || k.busy == 0 || nanos-k.busy > int64(busyFor) { // busy is only set with a shared store
		return limit
	}
	return k.l.nodes.portion(limit)
}
