package limiter

import (
	"context"
	"errors"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// Find returns the key with the lookup hash. Keys that were used lately are
// found in memory; for any other the store is asked once.
func (l *Limiter) Find(ctx context.Context, lookup token.Lookup) (*Live, *record.Refusal) {
	shard := &l.lookups[lookup[0]%lookupShards]
	shard.mu.RLock()
	k := shard.m[lookup]
	shard.mu.RUnlock()
	if k != nil {
		return k, nil
	}
	return l.findStored(ctx, lookup)
}

// findStored asks the store. It is a function of its own so that Find keeps the hash
// off the heap. A flood of unknown keys costs no disk: Badger's filters, in
// memory, answer for nearly all of them. Where nodes share a store, see unknown.go.
func (l *Limiter) findStored(ctx context.Context, lookup token.Lookup) (*Live, *record.Refusal) {
	if r := l.unavailable(); r != nil {
		if locked := l.lockedDown(nil); locked != nil {
			r = locked
		}
		return nil, r
	}
	id, err := l.lookUpString(ctx, lookup)
	var k *Live
	if err == nil {
		k, err = l.load(id)
	}
	if err == nil && l.shared != nil && !k.hasString(lookup) {
		// Another node has just given it to the key, which is in memory without it.
		if err = l.refreshKeys([]string{id}, nil); err == nil {
			k, err = l.load(id)
		}
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, record.UnknownKey()
	case errors.Is(err, store.ErrUnavailable):
		return nil, storeRefusal("the database is not available")
	case errors.Is(err, errCrowded), errors.Is(err, commit.ErrTooSlow), errors.Is(err, context.Canceled):
		return nil, storeRefusal("too many requests wait for " + l.medium())
	case err != nil:
		if !l.leaveOut("admitting requests", id, err) { // there may be many such requests
			l.log.Error("reading a key failed", "error", err)
		}
		return nil, storeRefusal("its record could not be read")
	}
	l.cacheLookup(k, lookup)
	return k, nil
}

// lookUpString asks the store which key has a string.
func (l *Limiter) lookUpString(ctx context.Context, lookup token.Lookup) (id string, err error) {
	if l.shared != nil {
		return l.lookUpShared(ctx, lookup)
	}
	err = l.store.View(func(r store.Reader) error {
		b, err := r.Get(record.LookupKey(lookup))
		id = string(b)
		return err
	})
	return id, err
}

// load returns the Live of a key, reading it when it is not in memory.
func (l *Limiter) load(id string) (*Live, error) {
	l.liveMu.Lock()
	if e := l.live[id]; e != nil {
		l.liveMu.Unlock()
		<-e.ready
		return e.k, e.err
	}
	e := &entry{ready: make(chan struct{})}
	l.live[id] = e
	l.liveMu.Unlock()

	k, err := l.read(id)
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	for err == nil && e.stale {
		e.stale = false
		l.liveMu.Unlock()
		k, err = l.read(id)
		l.liveMu.Lock()
	}
	if err != nil {
		delete(l.live, id)
	} else {
		k.mu.Lock()
		k.stopIfMatched(l.jobs.running())
		k.pacing = l.pacings[k.account.id]
		delete(l.pacings, k.account.id)
		if k.leftOpen {
			l.forfeited.Add(k.forfeits())
			l.markActive(k)
		}
		k.mu.Unlock()
	}
	e.k, e.err = k, err
	close(e.ready)
	return k, err
}

func (l *Limiter) read(id string) (*Live, error) {
	k := &Live{l: l}
	err := l.store.View(func(r store.Reader) error {
		account, err := record.KeyAccount(id)
		if err != nil {
			return err
		}
		if err := l.check(r, account); err != nil {
			return err
		}
		if err := store.Fetch(r, l.rowsOfKey(account, id)...); err != nil {
			return err
		}
		key, acct, err := record.ReadKey(r, id)
		if errors.Is(err, store.ErrDoubt) {
			l.committer.Poison(err)
		}
		if err != nil {
			return err
		}
		own, err := ownPart(r, l.node(), account, &acct)
		if err != nil {
			return err
		}
		k.key, k.id, k.renews = key, account, key.Renews
		k.restore(&acct, &own, key.Limit)
		if key.Attached() {
			if err := record.CheckAncestry(r, key); err != nil {
				return err
			}
		}
		return k.readBeside(r)
	})
	if err != nil {
		return nil, err
	}
	now := l.clock.Now()
	k.mu.Lock()
	k.setMarks()
	k.savedAt = now.UnixNano()
	l.realign(&k.account, k, now)
	k.mu.Unlock()
	if k.key.Role != "" {
		if k.role, err = l.role(k.key.Role); err != nil {
			return nil, err
		}
	}
	if k.key.Attached() {
		if err := l.attach(k); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// readBeside reads what the store has of a key besides its record and its account.
func (k *Live) readBeside(r store.Reader) (err error) {
	if k.key.Delegate {
		k.children, err = record.CountChildren(r, k.key.ID)
	}
	if err == nil && k.key.Custody == record.CustodySealed {
		k.salts, err = readSalts(r, k.key)
	}
	return err
}

// follow lets memory take over a record that was just committed. It runs on
// the committer, so records arrive in order.
func (l *Limiter) follow(key *record.Key, also func(k *Live)) {
	k := l.inMemory(key.ID)
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if key.Version > k.key.Version {
		key = k.withGraceEnds(key)
		l.uncacheFormer(k, key)
		k.key, k.renews = key, key.Renews
		k.pacing.bound(key.Rate, l.clock.Now().UnixNano()) // the rate may have changed
		l.lower(&k.account, key.Limit)
		k.setMarks()
		k.salts.keep(key)
		if key.EndedStatus == record.Revoked {
			k.salts = nil
			k.kept.Store(nil)
			if k.halt == record.CodeKeyRevoked {
				k.halt, k.unsaved = "", nil // from here on the record says so
			}
		}
	}
	if also != nil {
		also(k)
	}
	k.callAll()
}

// evict drops a key from memory if the store has all that memory holds of it.
func (l *Limiter) evict(id string) {
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	k := l.live[id].peek()
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unsettled() || k.active || k.asked || k.ending || k.parked > 0 ||
		k.pending > 0 || k.inflight > 0 || k.turns > 0 || len(k.kids) > 0 || k.halt != "" || len(k.graceEnds) > 0 || k.forgetting > 0 || k.slot != nil || k.history.dirty() {
		return
	}
	k.gone = true
	if !k.pacing.full(l.clock.Now().UnixNano()) {
		l.pacings[k.account.id] = k.pacing
	}
	delete(l.live, id)
	l.uncache(k)
	k.detach()
	l.digest.Recheck(k.account.id)
}

// check compares what the store says of an account with the digest, at least the
// first time that its bucket is read. A store that disagrees is refused.
func (l *Limiter) check(r store.Reader, id record.AccountID) error {
	err := l.digest.Check(r, id)
	if errors.Is(err, store.ErrDoubt) {
		l.committer.Poison(err)
	}
	return err
}
