package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

const (
	// maxWaiting bounds how many requests wait for the store.
	maxWaiting = 10_000
	// maxAside is how many changes may wait before the sweeper holds back its own.
	maxAside = 256
)

var errCrowded = errors.New("too many requests wait for the store")

// parking is where a caller waits for a block, or for others to settle.
type parking struct {
	turn   *turn
	refill *refill
	at     *account
	bound  record.Amounts
	recall *account // other nodes are to give back what they have reserved of it
	refine bool     // the request's bound is to be worked out again
}

// park0 registers a caller that waits for an account's next window.
func (k *Live) park0(a *account) parking {
	return parking{refill: a.park(&record.Amounts{}), at: a}
}

// park registers a caller that needs a block and asks for one.
func (l *Limiter) park(a *account, k *Live, ask *Ask, bound *record.Amounts, now int64) parking {
	if k != nil {
		k.claim(ask, now)
		l.markActive(k)
	}
	if a.stalled == 0 {
		a.stalled = now
	}
	p := parking{refill: a.park(bound), at: a, bound: *bound}
	l.askBlock(a, k)
	return p
}

// askBlock asks the committer for the next block of an account, and to write the
// use of the key along with it. Callers hold the account.
func (l *Limiter) askBlock(a *account, k *Live) {
	if a.asked {
		return
	}
	a.asked = true
	a.shade(l.shadow)
	var wrote struct{ granted, unlimited record.Amounts }
	var rec record.Account
	var own record.Part
	l.committer.SubmitRows(l.rows(a), func(b *batch) (err error) {
		if rec, own, err = b.books(a); err != nil {
			return err
		}
		if err := errors.Join(a.wentBack(&rec, &own), a.current(&rec)); err != nil {
			return err
		}
		limit := mine(&rec, &own)
		a.mu.Lock()
		for i := range limit {
			wrote.granted[i] = a.want(record.Kind(i), limit[i], own.Reserved[i])
		}
		own.Reserved.Add(wrote.granted)
		a.noting = true
		a.note(b.node, &rec, &own)
		wrote.unlimited = a.noteUnlimited(&rec, &own)
		a.mu.Unlock()
		return b.setBooks(a, &rec, &own)
	}, func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.noting = false
		switch {
		case errors.Is(err, errWindow):
			a.asked = false
			l.renew(a, k, l.clock.Now()) // answers those who wait
			return
		case err != nil:
			l.complain("reserving budget failed", err)
			if k != nil {
				k.unclaim()
			}
		default:
			a.reserved.Add(wrote.granted)
			if k != nil && wrote.granted != (record.Amounts{}) {
				l.markActive(k) // what is not used goes back, even if nobody is admitted
			}
			a.noted(wrote.unlimited)
			a.counted, a.leftOpen = durable(&own), false
			a.firstDurable, a.pinDurable = a.firstDurable || a.first != 0, a.pinDurable || rec.Pin != ""
			l.lookedAt(a, k, &rec, &own)
		}
		now := l.clock.Now()
		a.resume(now.UnixNano())
		a.answer(err)
		l.realign(a, k, now) // the clock may have been repaired meanwhile
	})
}

// current returns errWindow if another node has taken the account into a new window, or was
// the last to use it, in a window that is over: what is reserved there ends with that window.
func (a *account) current(rec *record.Account) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if rec.Lineage != a.lineage || a.renews != "" && rec.Epoch != 0 && rec.Epoch < a.epoch {
		return errWindow
	}
	return nil
}

// await waits for a block, or a window, that was asked for.
func (l *Limiter) await(ctx context.Context, r *refill) error {
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxWaiting {
		return errCrowded
	}
	patience := time.NewTimer(l.committer.Patience())
	defer patience.Stop()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return commit.ErrTooSlow
	}
}

// awaitBooks waits for a block, a window or a look at an account's books, and returns the
// refusal if the store does not give it.
func (l *Limiter) awaitBooks(ctx context.Context, p *parking) *record.Refusal {
	err := l.await(ctx, p.refill)
	p.at.mu.Lock()
	p.at.unpark(&p.bound)
	p.at.mu.Unlock()
	switch {
	case errors.Is(err, store.ErrNoSpace):
		return storeRefusal("the server's disk is full")
	case errors.Is(err, store.ErrUnavailable):
		return storeRefusal("the database is not available")
	case errors.Is(err, errCrowded):
		return storeRefusal("too many requests wait for " + l.medium())
	case errors.Is(err, commit.ErrTooSlow):
		return storeRefusal(l.medium() + " is too slow")
	case err != nil:
		return storeRefusal("its budget could not be reserved")
	}
	return nil
}

// readAccount reads an account's record. That of a role is made on first use, and
// has its limit from the configuration.
func readAccount(r store.Reader, a *account) (record.Account, error) {
	b, err := r.Get(record.AccountKey(a.id))
	if a.forRole {
		rec := record.Account{}
		switch {
		case err == nil:
			if rec, err = a.decode(b); err != nil {
				return rec, err
			}
		case err != store.ErrNotFound:
			return rec, err
		}
		a.mu.Lock()
		rec.Limit = a.whole
		a.mu.Unlock()
		return rec, nil
	}
	if err != nil {
		return record.Account{}, err
	}
	return a.decode(b)
}

// decode reads the account's record. The error names the account as if it were a key's,
// because a role's has no other name in the store.
func (a *account) decode(b []byte) (record.Account, error) {
	rec, err := record.DecodeAccount(b)
	if err != nil {
		err = fmt.Errorf("%s: %w", a.id.KeyID(), err)
	}
	return rec, err
}

// wentBack compares a record with what memory knows of it. Only the owner lowers what is
// reserved, and nobody begins a former window again, so a record below either is older
// than what was acknowledged.
func (a *account) wentBack(rec *record.Account, own *record.Part) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if rec.Lineage < a.lineage {
		return store.Doubt("a budget was in its window number %d, and the store says %d", a.lineage, rec.Lineage)
	}
	for i, limit := range rec.Limit {
		if limit != record.NoLimit && a.limit[i] != record.NoLimit && rec.Lineage == a.lineage && own.Reserved[i] < a.reserved[i] {
			return store.Doubt("a budget of %d %s was reserved, and the store says %d", a.reserved[i], record.Kind(i), own.Reserved[i])
		}
	}
	return nil
}

// noteUnlimited records what was used and is held of the kinds without a limit, of
// which nothing is reserved, in case a limit is set later. Memory follows once
// the returned amounts are durable. Callers hold the account.
func (a *account) noteUnlimited(rec *record.Account, own *record.Part) record.Amounts {
	noted := record.NoLimits()
	for i, limit := range rec.Limit {
		if limit == record.NoLimit && rec.Lineage == a.lineage {
			noted[i] = a.spent[i] + a.held[i]
			own.Reserved[i] = noted[i]
		}
	}
	return noted
}

func (a *account) noted(unlimited record.Amounts) {
	for i, n := range unlimited {
		if n != record.NoLimit {
			a.reserved[i] = n
		}
	}
}

// note puts into a record what is written with each new block.
func (a *account) note(node string, rec *record.Account, own *record.Part) {
	own.Settled, own.Past, own.Kinds = a.spent, a.past, a.kinds
	usage{a.first, a.last, a.pin, a.addr}.write(node, rec)
	if rec.Epoch == 0 {
		rec.Epoch = a.epoch // the first of a role
	}
}

// usage is when an account was used, and by whom.
type usage struct {
	first, last int64
	pin, addr   string
}

// write merges the usage into a record that other nodes may have written, too: the first
// of all uses counts, and binds the key.
func (u usage) write(node string, rec *record.Account) {
	if node != "" {
		if rec.First != 0 && (u.first == 0 || rec.First < u.first) {
			u.first = rec.First
		}
		if rec.Pin != "" {
			u.pin = rec.Pin
		}
		if rec.Last > u.last {
			u.last, u.addr = rec.Last, rec.Addr
		}
	}
	rec.First, rec.Last, rec.Pin, rec.Addr = u.first, u.last, u.pin, u.addr
}
