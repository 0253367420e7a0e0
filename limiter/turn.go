package limiter

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// Near the end of a budget each request is fitted to all that is left, so others beside
// it find nothing, though much comes back when it settles. Where Ask.Waits is set they
// wait for that, in the line of the account that has too little, the key's or its role's.
// A waiting request holds nothing: no budget, no place among those that run, none of its
// rate. When it is called, everything is judged again, so it is admitted only where any
// other request would be.
//
// The first to come is called first. What it cannot take yet goes to requests that
// can, in the line or not; but after mostPassed of them all others line up. So a
// request that needs much is not starved by many that need little.
const (
	// DefaultTurn bounds how long a request waits for others to settle.
	DefaultTurn = 30 * time.Second
	// MaxKeyTurns bounds how many requests of one key and those below it wait, and
	// MaxTurns how many requests in total.
	MaxKeyTurns = 64
	MaxTurns    = 256

	mostPassed = 16
	// exitingEvery is how long a request waits before it checks whether the
	// process is ending.
	exitingEvery = 200 * time.Millisecond
)

// turn is a request that waits.
type turn struct {
	k        *Live
	at       *account // the account in whose line it stands; nil: none
	due      bool     // it was called, and has not been judged since; at guards it
	called   chan struct{}
	kept     int64 // bytes
	began    time.Time
	patience *time.Timer
}

// turns counts the waiting requests, over all keys.
type turns struct {
	n, bytes atomic.Int64
	patience time.Duration // how long each waits
	most     int64         // bytes
}

// lineUp lets a request wait, behind others, for what is held of an account, and
// returns its turn; nil where it may not wait. The need to wait was found under the
// account's lock, so no settlement is missed. Callers hold the key, its role, and so
// the account.
func (k *Live) lineUp(a *account, ask *Ask, t *turn) *turn {
	if t == nil {
		if !ask.Waits || !k.hasTurn() || !k.l.turns.mayWait(ask.Keeps) {
			return nil
		}
		k.waits(1)
		k.l.markActive(k) // so that the sweeper sees when its time is over
		t = &turn{k: k, called: make(chan struct{}, 1), kept: ask.Keeps, began: time.Now(), patience: time.NewTimer(k.l.turns.patience)}
	}
	if t.at != a {
		if t.at != nil {
			t.at.stepOut(t)
		}
		t.at, a.line = a, append(a.line, t)
	}
	t.due = false
	a.call(slices.Index(a.line, t) + 1)
	return t
}

// hasTurn reports whether one more request of the key may wait. Callers hold the key and
// those above it.
func (k *Live) hasTurn() bool {
	for a := k; a != nil; a = a.parent {
		if int64(a.turns)+a.turnsBelow.Load() >= MaxKeyTurns {
			return false
		}
	}
	return true
}

// waits records that n more requests of the key wait. Callers hold it.
func (k *Live) waits(n int) {
	k.turns += n
	for a := k.parent; a != nil; a = a.parent {
		a.turnsBelow.Add(int64(n))
	}
}

// mayWait counts one more waiting request, if there is room.
func (t *turns) mayWait(kept int64) bool {
	n, bytes := t.n.Add(1), t.bytes.Add(kept)
	if n <= MaxTurns && bytes <= t.most {
		return true
	}
	t.n.Add(-1)
	t.bytes.Add(-kept)
	return false
}

// Turns is how many requests wait for others to settle.
func (l *Limiter) Turns() int64 { return l.turns.n.Load() }

// await waits until the request is called, and reports false if it is to wait no
// longer.
func (t *turn) await(ctx context.Context) bool {
	l := t.k.l
	look := time.NewTicker(exitingEvery)
	defer look.Stop()
	for {
		select {
		case <-t.called:
			return true
		case <-t.patience.C:
			return false
		case <-ctx.Done():
			return false
		case <-l.stop:
			return false
		case <-look.C:
			if l.exiting != nil && l.exiting() {
				return false
			}
		}
	}
}

// leave ends the turn, whatever its outcome.
func (t *turn) leave() {
	if t == nil {
		return
	}
	t.patience.Stop()
	k := t.k
	k.mu.Lock()
	k.waits(-1)
	switch at := t.at; at {
	case nil:
	case &k.account:
		at.stepOut(t)
	default: // its role's
		at.mu.Lock()
		at.stepOut(t)
		at.mu.Unlock()
	}
	k.mu.Unlock()
	k.l.turns.bytes.Add(-t.kept)
	k.l.turns.n.Add(-1)
}

// behind reports whether a request has to let others go first. t is its turn, nil
// if it has none. Callers hold the account.
func (a *account) behind(t *turn) bool {
	if len(a.line) == 0 || a.line[0] == t {
		return false
	}
	if a.passed >= mostPassed {
		return true
	}
	for _, other := range a.line {
		if other == t {
			break
		}
		if other.due {
			return true
		}
	}
	return false
}

// pass records that a request was admitted. Callers hold the account.
func (a *account) pass(t *turn) {
	switch {
	case len(a.line) == 0:
	case t != nil && t.at == a:
		if a.line[0] != t {
			a.passed++
		}
		a.stepOut(t)
	default:
		a.passed++
	}
}

// stepOut takes a request out of the line, and calls those behind it. Callers hold
// the account.
func (a *account) stepOut(t *turn) {
	i := slices.Index(a.line, t)
	a.line, t.at = slices.Delete(a.line, i, i+1), nil
	if i == 0 {
		a.passed = 0
	}
	if len(a.line) == 0 {
		a.line = nil
	}
	a.call(i)
}

// call lets one request in the line look again. Callers hold the account.
func (a *account) call(i int) {
	if i >= len(a.line) {
		return
	}
	t := a.line[i]
	t.due = true
	select {
	case t.called <- struct{}{}:
	default: // it was called, and will look
	}
}

// callAll lets all requests that wait with a key look again, because it was stopped,
// or its limits have changed. Callers hold the key.
func (k *Live) callAll() {
	if k.turns == 0 {
		return
	}
	for i := range k.line {
		k.call(i)
	}
	if role := k.role; role != nil {
		role.mu.Lock()
		for i, t := range role.line {
			if t.k == k {
				role.call(i)
			}
		}
		role.mu.Unlock()
	}
}
