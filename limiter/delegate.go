package limiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
)

// The errors of minting a child, besides those of any mint.
var (
	// ErrChildren says that the key has too many children.
	ErrChildren = fmt.Errorf("the key has %d child keys, and no more are allowed: revoke one, and try again within a minute", maxChildren)
	// ErrParentEnded says that the parent is suspended or has ended.
	ErrParentEnded = errors.New("the parent key is suspended or has ended")
	// ErrReturned says that a child's budget went back to its parent.
	ErrReturned = errors.New("the child key has ended and what it had left went back to its parent, which cannot be undone: mint another")
)

// ShortError says that a parent has less left than a child is to get.
type ShortError struct {
	Parent     string
	Kind       record.Kind
	Want, Left int64
	// Held says that requests in flight hold what is missing.
	Held bool
}

func (e *ShortError) Error() string {
	s := fmt.Sprintf("%s: %s asked for, and parent key %s has %s left to give",
		e.Kind.LimitField(), record.FormatAmount(e.Kind, e.Want), e.Parent, record.FormatAmount(e.Kind, e.Left))
	if e.Held {
		s += "; requests in flight hold the rest"
	}
	return s
}

// errWindow says that the budget of an account, such as a parent's, has to renew first.
var errWindow = errors.New("a new window has begun")

// Delegate mints a child of a key for its holder. What the child may use is
// taken from what the parent has left, in the same transaction, and the mint
// itself is a use of the parent: ask is the request for it. An error that is a
// *Refusal says that the parent may not be used.
func (l *Limiter) Delegate(ctx context.Context, parent *Live, ask *Ask, spec *record.Key, birth Birth) (View, error) {
	pkey := parent.Key()
	by := Holder(pkey, ask.Addr.String())
	by.Token = pkey.Token // the token that minted the parent sees its children
	if err := spec.Clone().ChildOf(pkey); err != nil {
		return View{}, err
	}
	born, err := l.newborn(by, itself, spec, birth)
	if err != nil {
		return View{}, l.noted(itself, err)
	}
	if refusal := parent.mayMint(); refusal != nil {
		return View{}, refusal
	}
	var g Grant
	ask.Own, ask.Bound = true, record.Amounts{record.Activations: 1}
	if refusal := parent.Reserve(ctx, ask, &g); refusal != nil {
		return View{}, refusal
	}
	defer g.Cancel() // unless it was settled
	var key *record.Key
	err = l.carving(ctx, pkey.ID, g.bound, func(b *batch, pkey *record.Key, pacct *record.Account) error {
		key = born.Clone()
		if err := key.ChildOf(pkey); err != nil {
			return err
		}
		switch n, err := record.CountChildren(b, pkey.ID); {
		case err != nil:
			return err
		case n >= maxChildren:
			return ErrChildren
		}
		if err := carve(pkey, pacct, key, key.Limit); err != nil {
			return err
		}
		if err := b.Set(record.ChildKey(pkey.ID, key.ID), nil); err != nil {
			return err
		}
		return writeNew(b, by, key, &record.Account{Limit: key.Limit, Lineage: 1}, birth)
	}, 1, nil)
	if errors.Is(err, commit.ErrOutcome) {
		g.SettleBound() // the child may have been minted
	}
	if err != nil {
		return View{}, err
	}
	g.Settle(record.Amounts{record.Activations: 1})
	l.log.Info("child key minted", "key_id", key.ID, "name", key.Name, "parent", pkey.ID)
	return l.viewNow(key.ID)
}

// mintRate bounds how many children are minted below a key without a limit in
// activations, where a mint costs nothing: all keys below it share this. Each mint
// leaves a record and an entry of the audit log.
var mintRate = record.Rate{N: 60, Per: time.Minute}

// mayMint takes a mint from the topmost key's rate.
func (k *Live) mayMint() *record.Refusal {
	key, top := k.Key(), k.topmost()
	now := k.l.clock.Now().UnixNano()
	top.mu.Lock()
	defer top.mu.Unlock()
	if top.key.Limit[record.Activations] != record.NoLimit {
		return nil
	}
	if d := top.pacing.mints.wait(mintRate, now); d > 0 {
		return key.Refuse(record.CodeRateLimited, "may mint %s child keys, together with all keys below the same topmost key; try again in %s", mintRate, roundUp(d)).After(d)
	}
	top.pacing.mints.take(mintRate, now)
	return nil
}

// carve takes a child's grant out of its parent's budget. What the parent has
// reserved cannot be given: a request may have used it.
func carve(pkey *record.Key, pacct *record.Account, key *record.Key, grant record.Amounts) error {
	left := pacct.Kept()
	if !key.CarvedFrom(pacct) {
		key.CarvedNow = record.Amounts{}
	}
	key.CarvedIn, key.CarvedLineage = pacct.Epoch, pacct.Lineage
	for kind, n := range grant {
		if pkey.Limit[kind] == record.NoLimit || n == record.NoLimit {
			continue
		}
		if free := left[kind] - pacct.Reserved[kind]; n > free {
			return &ShortError{Parent: pkey.ID, Kind: record.Kind(kind), Want: n, Left: max(free, 0)}
		}
		pacct.Given[kind] += n
		key.Carved[kind] += n
		key.CarvedNow[kind] += n
	}
	return nil
}

// carving runs fn on the record of a living parent, and writes its account.
// What is reserved and unused of the parent's budget is refunded first, because
// budget that memory may hand out cannot be given away. own is what the caller
// itself holds of that budget.
func (l *Limiter) carving(ctx context.Context, id string, own record.Amounts, fn func(b *batch, key *record.Key, acct *record.Account) error, children int, done func()) error {
	var err error
	for range 8 {
		var parent *Live
		if parent, err = l.load(id); err != nil {
			return err
		}
		if err := l.renewed(ctx, parent); err != nil {
			return err
		}
		if _, err := l.giveBack(ctx, parent); err != nil {
			return err
		}
		var acct record.Account
		err = l.committer.Do(func(b *batch) error {
			var key *record.Key
			var err error
			if key, acct, err = record.ReadKey(b, id); err != nil {
				return err
			}
			if key.Renews != "" && key.Renews.Epoch(l.clock.Now()) > acct.Epoch {
				return errWindow
			}
			if alive, err := parent.alive(b, key, &acct); err != nil || !alive {
				return cmp.Or(err, ErrParentEnded)
			}
			if err := fn(b, key, &acct); err != nil {
				return err
			}
			account, err := record.KeyAccount(id)
			if err != nil {
				return err
			}
			return b.setAccount(account, false, &acct)
		}, func() {
			l.givenTo(id, &acct, children)
			if done != nil {
				done()
			}
		})
		var short *ShortError
		switch {
		case errors.Is(err, errWindow):
		case errors.As(err, &short):
			v := parent.View()
			short.Left = max(v.Remaining[short.Kind], 0)
			if short.Left >= short.Want {
				// Another request has reserved a block meanwhile, or other nodes have.
				if err := l.gather(ctx, &parent.account); err != nil {
					return err
				}
				continue
			}
			short.Held = short.Left+v.Held[short.Kind]-own[short.Kind] >= short.Want
			return err
		default:
			return err
		}
	}
	return fmt.Errorf("carving out of key %s: it is too busy: %w", id, err)
}

// alive reports whether a key with that record may have children: neither it nor any key
// above it has ended, exhaustion aside, or is suspended.
func (k *Live) alive(b *batch, key *record.Key, acct *record.Account) (bool, error) {
	status, _, err := k.derive(b, key, acct)
	if err != nil || status != record.Active && status != record.Exhausted {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	status, _ = k.fromAbove(k.l.clock.Now())
	return status == "", nil
}

// renewed waits until the key's budget is that of the present window.
func (l *Limiter) renewed(ctx context.Context, k *Live) error {
	for {
		now := l.clock.Now()
		k.mu.Lock()
		due := k.account.due(now)
		if due {
			l.renew(&k.account, k, now)
		}
		k.mu.Unlock()
		if !due {
			return nil
		}
		if err := l.Ping(ctx); err != nil {
			return err
		}
	}
}

// grantChild grants more to a child, out of its parent's budget alone.
func (l *Limiter) grantChild(ctx context.Context, by Caller, k *Live, add record.Amounts, lifetime time.Duration) error {
	before := k.Key()
	var key *record.Key
	return l.carving(ctx, before.Parent, record.Amounts{}, func(b *batch, pkey *record.Key, pacct *record.Account) error {
		old, acct, err := record.ReadKey(b, before.ID)
		if err != nil {
			return err
		}
		key = old.Clone()
		if err := l.addGrant(b, by, k, key, &acct, add, lifetime); err != nil {
			return err
		}
		key.Version++
		if err := key.Within(old, pkey); err != nil {
			return err
		}
		if err := carve(pkey, pacct, key, key.Limit.Minus(old.Limit)); err != nil {
			return err
		}
		acct.Limit = key.Limit
		if err := b.Set(record.ChildKey(pkey.ID, key.ID), nil); err != nil { // so that nodes that have only the parent in memory follow
			return err
		}
		return writeKey(b, old, key, &acct, by.entry(audit.ActKeyGrant, key.ID, record.Changes(old, key)))
	}, 0, func() { l.follow(key, func(k *Live) { k.ending = false }) })
}
