package limiter

import (
	"context"
	"errors"
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
	var wrote struct{ granted, counted, unlimited record.Amounts }
	l.committer.Submit(func(b *batch) error {
		rec, err := readAccount(b, a)
		if err != nil {
			return err
		}
		if err := a.wentBack(&rec); err != nil {
			return err
		}
		limit := rec.Kept()
		a.mu.Lock()
		for i := range limit {
			wrote.granted[i] = a.want(record.Kind(i), limit[i], rec.Reserved[i])
		}
		rec.Reserved.Add(wrote.granted)
		a.note(&rec)
		wrote.unlimited = a.noteUnlimited(&rec)
		a.mu.Unlock()
		wrote.counted = rec.Counted()
		return b.setAccount(a.id, a.forRole, &rec)
	}, func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if err == nil {
			a.reserved.Add(wrote.granted)
			a.noted(wrote.unlimited)
			a.counted = wrote.counted
			a.firstDurable = a.firstDurable || a.first != 0
		} else {
			l.complain("reserving budget failed", err)
		}
		a.answer(err)
	})
}

// await waits for a block, or a window, that was asked for.
func (l *Limiter) await(ctx context.Context, r *refill) error {
	defer l.dequeued()
	if !l.enqueued() {
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

// crowded reports whether the sweeper would delay requests.
func (l *Limiter) crowded() bool { return l.committer.Backlog() >= maxAside }

// enqueued counts a request that is about to wait for the store, and reports
// whether it may. The caller calls dequeued afterwards in any case.
func (l *Limiter) enqueued() bool { return l.waiting.Add(1) <= maxWaiting }
func (l *Limiter) dequeued()      { l.waiting.Add(-1) }

// readAccount reads an account's record. That of a role is made on first use, and
// has its limit from the configuration.
func readAccount(r store.Reader, a *account) (record.Account, error) {
	b, err := r.Get(record.AccountKey(a.id))
	if a.forRole {
		rec := record.Account{}
		switch {
		case err == nil:
			if rec, err = record.DecodeAccount(b); err != nil {
				return rec, err
			}
		case err != store.ErrNotFound:
			return rec, err
		}
		a.mu.Lock()
		rec.Limit = a.limit
		a.mu.Unlock()
		return rec, nil
	}
	if err != nil {
		return record.Account{}, err
	}
	return record.DecodeAccount(b)
}

// wentBack compares a record with what memory knows to be reserved. Only the
// owner lowers that, so a record below it is older than what was acknowledged.
func (a *account) wentBack(rec *record.Account) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, limit := range rec.Limit {
		if limit != record.NoLimit && a.limit[i] != record.NoLimit && rec.Lineage == a.lineage && rec.Reserved[i] < a.reserved[i] {
			return store.Doubt("a budget of %d %s was reserved, and the store says %d", a.reserved[i], record.Kind(i), rec.Reserved[i])
		}
	}
	return nil
}

// noteUnlimited records what was used and is held of the kinds without a limit, of
// which nothing is reserved, in case a limit is set later. Memory follows once what
// it returns is durable. Callers hold the account.
func (a *account) noteUnlimited(rec *record.Account) record.Amounts {
	noted := record.NoLimits()
	for i, limit := range rec.Limit {
		if limit == record.NoLimit && rec.Lineage == a.lineage {
			noted[i] = a.spent[i] + a.held[i]
			rec.Reserved[i] = noted[i]
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

// note puts into a record what is written with any commit of the account.
func (a *account) note(rec *record.Account) {
	rec.Settled = a.spent
	rec.First, rec.Last, rec.Pin, rec.Addr = a.first, a.last, a.pin, a.addr
	rec.Past, rec.Kinds = a.past, a.kinds
	if rec.Epoch == 0 {
		rec.Epoch = a.epoch // the first of a role
	}
}
