package limiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Forget removes the record of an ended key. Its use stays in the tally. Where nodes
// share the store, it waits until the others know that the key has ended, or may admit
// nothing, and until their use of its limits is written.
func (l *Limiter) Forget(ctx context.Context, by Caller, id string) error {
	return l.forgetWithin(ctx, by, id, settlePatience)
}

// forgetWithin is Forget for a caller who waits at most patience for the other nodes.
func (l *Limiter) forgetWithin(ctx context.Context, by Caller, id string, patience time.Duration) error {
	k, err := l.reach(by, record.KeysUpdate, id)
	if err != nil {
		return err
	}
	err = l.forget(ctx, by, k, patience)
	for n := 0; errors.Is(err, ErrInUse) && n < maxRecalls && patience >= settlePatience; n++ {
		if err := l.gather(ctx, &k.account); err != nil {
			return err
		}
		err = l.forget(ctx, by, k, patience)
	}
	if errors.Is(err, store.ErrTooBig) {
		if err = l.forgetHistory(by, k); err == nil {
			err = l.forget(ctx, by, k, patience)
		}
	}
	if err == nil {
		l.log.Info("key forgotten", "key_id", id, "by", by.Name)
	}
	return err
}

// forget is one attempt of Forget.
func (l *Limiter) forget(ctx context.Context, by Caller, k *Live, patience time.Duration) error {
	revived := k.Key().RevivedAt
	view := k.View()
	begins := view.Status == record.Exhausted && view.Renews != "" // a new window revives it
	if !view.Status.Ended() || begins || view.InFlight > 0 {
		return ErrAlive
	}
	if l.shared != nil {
		if err := l.recordEnd(by, k); err != nil {
			return err
		}
	}
	l.windUpNow(ctx, by, view.ID)
	if l.shared != nil {
		switch behind, err := l.shared.Settled(patience); {
		case err != nil:
			return fmt.Errorf("it is not known whether the other nodes know that the key has ended: %w", err)
		case len(behind) > 0 && patience < settlePatience: // after that, they admit nothing
			return ErrInUse
		}
	}
	k.mu.Lock()
	k.forgetting++
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.forgetting--
		k.mu.Unlock()
	}()
	return l.committer.Do(func(b *batch) error {
		key, acct, err := record.ReadKey(b, view.ID)
		if err != nil {
			return err
		}
		switch n, err := record.CountChildren(b, view.ID); {
		case err != nil:
			return err
		case !key.RevivedAt.Equal(revived): // by another node, just now
			return ErrAlive
		case n > 0 || key.Attached():
			return ErrFamily
		case b.node == "":
			used := view.Used
			used.Add(view.Past)
			return b.erase(by, key, used)
		case key.EndedStatus == "":
			return ErrAlive
		}
		if out, err := l.reservedElsewhere(b, k.id, acct.Lineage); err != nil || out {
			return cmp.Or(err, ErrInUse)
		}
		own, err := b.own(k.id, &acct)
		if err != nil {
			return err
		}
		used := acct.Counted()
		k.mu.Lock()
		if acct.Lineage == k.lineage { // memory knows what is not written yet
			used = used.Minus(durable(&own))
			used.Add(k.spent)
			used.Add(k.past)
		}
		k.mu.Unlock()
		return b.erase(by, key, used)
	}, func() { l.drop(k) })
}

// recordEnd makes the end of a key durable, so that the other nodes learn of it: memory
// may know of an end that is not written yet, or that could not be written. An end that
// memory has only inferred is judged again, by what the other nodes have written.
func (l *Limiter) recordEnd(by Caller, k *Live) error {
	k.mu.Lock()
	redo, recorded, id := k.unsaved, k.key.EndedStatus != "", k.key.ID
	status, code := k.status(l.clock.Now())
	k.mu.Unlock()
	switch {
	case redo != nil:
		if err := redo(l); err != nil {
			return notDurable("key", err)
		}
		return nil
	case recorded:
		return nil
	case status == record.Revoked: // by a job, which any write of the record completes
		return l.edit(by, audit.ActKeyRevoke, id, func(*record.Key, *record.Account) error { return nil }, nil)
	case status != record.Expired && status != record.Exhausted:
		return nil
	}
	var end *record.Key
	var out bool
	err := l.committer.Do(func(b *batch) (err error) {
		end, out, err = l.writeOwnEnd(b, k, status, code)
		return err
	}, func() {
		if end != nil {
			l.follow(end, nil)
		}
	})
	if err == nil && out {
		err = ErrInUse
	}
	return err
}

// dropFamily takes a key and those below it out of memory, and cuts their requests. If those
// below stayed, they would be judged by a key that is no longer known, and would not follow
// what is done to it once it is read again.
func (l *Limiter) dropFamily(k *Live, why *record.Refusal) {
	l.drop(k) // first, so that no request begins that is not cut
	k.mu.Lock()
	kids := slices.Collect(maps.Values(k.kids))
	k.mu.Unlock()
	k.cut(why)
	for _, kid := range kids {
		l.dropFamily(kid, kid.Key().Below(why))
	}
}

// drop takes a forgotten key out of memory.
func (l *Limiter) drop(k *Live) {
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	delete(l.live, k.key.ID)
	l.uncache(k)
	k.detach()
	l.retire(k)
	l.shadow.Release(k.slot)
	k.slot = nil
}
