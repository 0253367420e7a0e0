package limiter

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/token"
)

// Live is a key in memory: its record, its account, and the requests it has
// in flight. There is never more than one Live of a key, because only one
// may own its blocks.
type Live struct {
	account // the key's own budget; its mutex guards all of Live

	l    *Limiter
	key  *Key     // replaced, never changed
	role *account // the role's shared budget, or nil

	parent   *Live            // of a child key; nil once its rest went back
	kids     map[string]*Live // children in memory, by id
	children int              // children whose rest has not come back
	// What the children have in flight, and theirs: requests, and streams of events.
	below, streamsBelow atomic.Int64
	turnsBelow          atomic.Int64 // of theirs, those that wait; see turns

	// halt is set while a revocation or suspension holds in memory, which is
	// before it is durable; unsaved tries again to make it so.
	halt    Code
	haltBy  Stopper // of a suspension
	doomed  *job    // that it matched, and that will end it
	unsaved func(*Limiter) error
	kept    atomic.Pointer[any] // see Keep
	// salts are those of a sealed key's boxes, until it is revoked.
	salts salts
	gone  bool // evicted: ask the Limiter for the key again

	dead      afterDeath
	active    bool // listed in Limiter.active
	ending    bool // its final end is on its way to the store
	inflight  int
	listening int    // of them, streams of events; see Ask.Listens
	free      int    // of them, those that take nothing
	turns     int    // requests that wait for others to settle
	grants    *Grant // requests in flight, linked

	marks [NumKinds]int64 // see setMarks

	pacing   pacing
	history  history
	seen     seenBy
	lastAddr netip.Addr
}

// Key returns the record as it stands now.
func (k *Live) Key() *Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.key
}

// Keep holds what the caller worked out from the key, such as its opened box,
// for as long as the key is in memory and not revoked.
func (k *Live) Keep(v any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.gone && k.halt != CodeKeyRevoked && k.key.EndedStatus != Revoked {
		k.kept.Store(&v)
	}
}

// Kept returns what was kept last, or nil.
func (k *Live) Kept() any {
	if v := k.kept.Load(); v != nil {
		return *v
	}
	return nil
}

// View returns the key with what it has used.
func (k *Live) View() View {
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.view(now)
}

func (k *Live) view(now time.Time) View {
	v := View{
		Key: *k.key, Used: k.spent, Held: k.held, Remaining: k.remaining(),
		InFlight: k.inflight, LastAddr: k.addr, Past: k.past, Kinds: k.kinds,
		FirstUsedAt: fromNanos(k.first), LastUsedAt: k.lastUsed(now),
		Delegated: k.given.minus(k.back), Returned: k.back, Children: k.children,
		Unsalted: k.unsalted(),
	}
	if k.due(now) {
		for i, n := range v.Used {
			v.Past[i] += n
		}
		v.Used, v.Held, v.Remaining, v.Delegated = Amounts{}, Amounts{}, k.key.Limit, Amounts{}
	}
	if k.halt == CodeKeySuspended {
		v.SuspendedBy = k.haltBy
	}
	v.RenewsAt = k.renews.Next(now)
	v.Status, _ = k.status(now)
	if v.Status == Active || v.Status == Exhausted {
		if status, _ := k.fromAbove(now); status != "" {
			v.Status = status
		}
	}
	k.asParents(&v)
	return v
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// status derives what the key is now, and the code that a request would be
// refused with. Nothing left counts as exhausted even before it is final.
func (k *Live) status(now time.Time) (Status, Code) {
	switch {
	case k.halt == CodeKeyRevoked || k.key.EndedStatus == Revoked:
		return Revoked, CodeKeyRevoked
	case k.halt == CodeKeySuspended || !k.key.SuspendedAt.IsZero():
		return Suspended, CodeKeySuspended
	}
	if ended := k.key.EndedStatus; ended != "" {
		return ended, k.endedCode() // until more is granted, whatever the time
	}
	if code := k.timeUp(now); code != "" {
		return Expired, code
	}
	if k.due(now) {
		return Active, "" // what was used is of the past
	}
	if v, kind := k.judge(&Amounts{}, k.strict()); v == spent {
		return Exhausted, exhaustedCode[kind]
	}
	return Active, ""
}

// timeUp says by which rule the key's time is over, or "".
func (k *Live) timeUp(now time.Time) Code {
	key := k.key
	switch {
	case !key.ExpiresAt.IsZero() && !now.Before(key.ExpiresAt):
		return CodeKeyExpired
	case key.FirstUseWithin > 0 && k.first == 0 && now.Sub(key.CreatedAt) >= key.FirstUseWithin:
		return CodeKeyExpired
	case key.IdleTimeout > 0 && now.Sub(k.idleSince(now)) >= key.IdleTimeout:
		return CodeKeyIdle
	}
	return ""
}

// inUse reports whether a request of the key runs, or of a child.
func (k *Live) inUse() bool { return k.inflight > 0 || k.below.Load()+k.streamsBelow.Load() > 0 }

// lastUsed is when the key was used last: now, while a request of it runs.
func (k *Live) lastUsed(now time.Time) time.Time {
	if k.inUse() {
		return now
	}
	return fromNanos(k.last)
}

// idleSince is when the key was last used, or made, or revived: now, while a request
// of it waits to be admitted, or of a child.
func (k *Live) idleSince(now time.Time) time.Time {
	if k.turns > 0 || k.parked > 0 || k.turnsBelow.Load() > 0 {
		return now
	}
	if used := k.lastUsed(now); used.After(k.key.RevivedAt) && used.After(k.key.CreatedAt) {
		return used
	}
	if k.key.RevivedAt.After(k.key.CreatedAt) {
		return k.key.RevivedAt
	}
	return k.key.CreatedAt
}

// strict reports whether an admitted activation can not come back by the
// answer's outcome. See [account.judge].
func (k *Live) strict() bool { return k.key.Charge != ChargeSuccess }

var exhaustedCode = [NumKinds]Code{
	Activations: CodeActivationsExhausted,
	Tokens:      CodeTokensExhausted,
	Nanodollars: CodeSpendExhausted,
	Attempts:    CodeActivationsExhausted,
}

// Count adds a refusal that was decided outside the limiter to the key's
// history.
func (k *Live) Count(code Code) {
	now := k.l.clock.Now()
	k.mu.Lock()
	k.history.refused(now, code)
	k.mu.Unlock()
}

// Touch admits a question about the key itself. It works for dead keys and
// takes nothing, but honours the key's addresses and 60 questions a minute.
func (k *Live) Touch(addr netip.Addr) *Refusal {
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if refusal := k.admitsAddr(addr); refusal != nil {
		return refusal
	}
	if d := k.pacing.self.wait(defaultFreeRate, now.UnixNano()); d > 0 {
		return k.key.refuse(CodeRateLimited, "was asked about more than %s", defaultFreeRate).after(d)
	}
	k.pacing.self.take(defaultFreeRate, now.UnixNano())
	return nil
}

// pinOf is what pin_ip binds a key to: the address, or its /64 in IPv6, where
// one host changes its address within the network at will.
func pinOf(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}

func (k *Live) pinAllows(addr netip.Addr) bool {
	return !k.key.Scope.PinIP || k.pin == "" || k.pin == pinOf(addr)
}

// entry is the place of a key in Limiter.live, also while it is being read.
type entry struct {
	ready chan struct{}
	k     *Live
	err   error
	stale bool // the record changed while it was read
}

// Find returns the key with the lookup hash. Keys that were used lately are
// found in memory; for any other the store is asked once.
func (l *Limiter) Find(ctx context.Context, lookup token.Lookup) (*Live, *Refusal) {
	shard := &l.lookups[lookup[0]%lookupShards]
	shard.mu.RLock()
	k := shard.m[lookup]
	shard.mu.RUnlock()
	if k != nil {
		return k, nil
	}
	return l.findStored(ctx, lookup)
}

// findStored asks the store. It is apart so that the way above keeps the hash
// off the heap. A flood of unknown keys costs no disk: Badger's filters, in
// memory, answer for nearly all of them.
func (l *Limiter) findStored(_ context.Context, lookup token.Lookup) (*Live, *Refusal) {
	if r := l.unavailable(); r != nil {
		if locked := l.lockedDown(nil); locked != nil {
			r = locked
		}
		return nil, r
	}
	var k *Live
	var id string
	err := l.store.View(func(r Reader) error {
		b, err := r.Get(lookupKey(lookup))
		id = string(b)
		return err
	})
	if err == nil {
		k, err = l.load(id)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, unknownKey()
	case err != nil:
		l.log.Error("reading a key failed", "error", err)
		return nil, storeRefusal("its record could not be read")
	}
	l.cacheLookup(k, lookup)
	return k, nil
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
	}
	if err == nil {
		k.mu.Lock()
		k.doom(l.runningJobs())
		k.pacing = l.pacings[k.account.id]
		delete(l.pacings, k.account.id)
		k.mu.Unlock()
	}
	e.k, e.err = k, err
	close(e.ready)
	return k, err
}

func (l *Limiter) read(id string) (*Live, error) {
	k := &Live{l: l}
	err := l.store.View(func(r Reader) error {
		account, err := keyAccount(id)
		if err != nil {
			return err
		}
		if err := l.committer.check(r, account); err != nil {
			return err
		}
		key, acct, err := readKey(r, id)
		if errors.Is(err, ErrDoubt) {
			l.committer.poison(err)
		}
		if err != nil {
			return err
		}
		k.key, k.id = key, account
		k.restore(&acct)
		k.limit, k.renews = kept(key.Limit, acct.Given), key.Renews
		if key.attached() {
			if err := checkAncestry(r, key); err != nil {
				return err
			}
		}
		if key.Delegate {
			if k.children, err = countChildren(r, id); err != nil {
				return err
			}
		}
		if key.Custody == CustodySealed {
			if k.salts, err = readSalts(r, key); err != nil {
				return err
			}
		}
		for i := range acct.Reserved {
			if i == int(Activations) && acct.Limit[i] != NoLimit {
				l.forfeited.Add(max(acct.Reserved[i]-acct.Settled[i], 0))
			}
		}
		return err
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
	if k.key.attached() {
		if err := l.attach(k); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// inMemory returns a key whose record was just committed, or nil when it is not
// in memory. One that is being read is read again.
func (l *Limiter) inMemory(id string) *Live {
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	e := l.live[id]
	if e == nil {
		return nil
	}
	select {
	case <-e.ready:
		return e.k // nil when it could not be read
	default:
		e.stale = true
		return nil
	}
}

// follow lets memory take over a record that was just committed. It runs on
// the committer, so records arrive in order.
func (l *Limiter) follow(key *Key, also func(k *Live)) {
	k := l.inMemory(key.ID)
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if key.Version > k.key.Version {
		l.uncacheFormer(k, key)
		k.key, k.limit, k.renews = key, kept(key.Limit, k.given), key.Renews
		k.setMarks()
		k.salts.keep(key)
		if key.EndedStatus == Revoked {
			k.salts = nil
			k.kept.Store(nil)
			if k.halt == CodeKeyRevoked {
				k.halt, k.unsaved = "", nil // the record says it from here on
			}
		}
	}
	if also != nil {
		also(k)
	}
	k.callAll()
}

// evict forgets a key that has nothing in memory which the store has not.
func (l *Limiter) evict(id string) bool {
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	e := l.live[id]
	if e == nil {
		return false
	}
	select {
	case <-e.ready:
	default:
		return false
	}
	k := e.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unsettled() || k.active || k.asked || k.ending || k.parked > 0 ||
		k.pending > 0 || k.inflight > 0 || k.turns > 0 || len(k.kids) > 0 || k.halt != "" || k.slot != nil || k.history.dirty() {
		return false
	}
	k.gone = true
	if !k.pacing.full(l.clock.Now().UnixNano()) {
		l.pacings[k.account.id] = k.pacing
	}
	delete(l.live, id)
	l.uncache(k)
	k.detach()
	if d := l.committer.digest; d != nil {
		d.checked[bucketOf(k.account.id)].Store(false) // memory knew; now the store must be right
	}
	return true
}
