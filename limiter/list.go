package limiter

import (
	"context"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// Page is one page of a list.
type Page struct {
	Keys []View
	// Next is the cursor of the page after this one; empty at the end.
	Next string
	// Partial says that the page is short because many keys had to be looked at,
	// not because there are no more: ask for the next page.
	Partial bool
}

// List returns a page of the keys that the caller sees.
func (l *Limiter) List(ctx context.Context, by Caller, f Filter) (Page, error) {
	var page Page
	if err := l.authorise(by, record.KeysRead, nil); err != nil {
		return page, err
	}
	if err := f.validate(); err != nil {
		return page, err
	}
	var err error
	if f.Limit, err = record.PageSize(f.Limit); err != nil {
		return page, err
	}
	page.Keys = make([]View, 0, f.Limit)
	err = store.Browse(l.store, func(r store.Reader) (err error) {
		page.Next, err = l.walk(ctx, r, by, &f, func(v View) bool {
			page.Keys = append(page.Keys, v)
			return len(page.Keys) < f.Limit
		})
		return err
	})
	if err != nil {
		return Page{}, fmt.Errorf("listing keys: %w", err)
	}
	page.Partial = page.Next != "" && len(page.Keys) < f.Limit
	return page, nil
}

// viewOf is the view of a key being listed: from memory if it is there, and otherwise
// from the store, without loading the key into memory.
func (l *Limiter) viewOf(r store.Reader, id string, value []byte, now time.Time) (View, error) {
	if k := l.loaded(id); k != nil {
		return k.viewIn(r)
	}
	key, err := record.DecodeKey(value)
	if err != nil {
		return View{}, fmt.Errorf("key %s: %w", id, err)
	}
	k, err := l.unloaded(r, key)
	if err != nil {
		return View{}, err
	}
	k.stopIfMatched(l.jobs.running()) // in case a job has yet to reach it
	return k.view(now), nil
}

// viewStored is the view of a key that is not in memory.
func (l *Limiter) viewStored(r store.Reader, key *record.Key, now time.Time) (View, error) {
	k, err := l.unloaded(r, key)
	if err != nil {
		return View{}, err
	}
	return k.view(now), nil
}

// unloaded is a key that is not in memory, as the store has it, with its ancestors. It
// is not in use.
func (l *Limiter) unloaded(r store.Reader, key *record.Key) (*Live, error) {
	k, err := l.viewed(r, key)
	if err == nil && key.Attached() {
		k.parent, err = l.above(r, key)
	}
	return k, err
}

// above is the key above a child: the one in memory, or otherwise the key as it would be
// once loaded. Loading it would open a view, which must not happen within another view.
func (l *Limiter) above(r store.Reader, child *record.Key) (*Live, error) {
	if k := l.loaded(child.Parent); k != nil {
		return k, nil
	}
	key, err := record.ReadParent(r, child)
	if err != nil {
		return nil, err
	}
	k, err := l.booked(r, key)
	if err == nil && key.Attached() {
		k.parent, err = l.above(r, key)
	}
	if err != nil {
		return nil, err
	}
	k.stopIfMatched(l.jobs.running())
	return k, nil
}

// stored is a key as the store has it, with its ancestors. It is not in use.
func (l *Limiter) stored(r store.Reader, key *record.Key) (*Live, error) {
	k, err := l.booked(r, key)
	if err != nil || !key.Attached() {
		return k, err
	}
	parent, err := record.ReadParent(r, key)
	if err != nil {
		return nil, err
	}
	k.parent, err = l.stored(r, parent)
	return k, err
}

// fetchViews reads all that the views of keys need in one go.
func (l *Limiter) fetchViews(r store.Reader, ids []string) error {
	return l.fetchKeys(r, ids, record.SaltKey)
}

// viewed is a key as the store has it, without its ancestors.
func (l *Limiter) viewed(r store.Reader, key *record.Key) (*Live, error) {
	k, err := l.booked(r, key)
	if err == nil {
		err = k.readBeside(r)
	}
	return k, err
}

// booked is a key as its record and its account have it. Its status depends on nothing
// else but its ancestors.
func (l *Limiter) booked(r store.Reader, key *record.Key) (*Live, error) {
	account, err := record.KeyAccount(key.ID)
	if err != nil {
		return nil, err
	}
	b, err := r.Get(record.AccountKey(account))
	if err != nil {
		return nil, fmt.Errorf("key %s: its account: %w", key.ID, record.Missing(err))
	}
	acct, err := record.DecodeAccount(b)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", key.ID, err)
	}
	k := &Live{l: l, key: key}
	k.id, k.renews = account, key.Renews
	own, err := ownPart(r, l.node(), account, &acct)
	if err != nil {
		return nil, err
	}
	k.restore(&acct, &own, key.Limit)
	return k, nil
}

// CredentialFingerprint is [Limiter.Fingerprint] for callers who ask which keys
// depend on a real key.
func (l *Limiter) CredentialFingerprint(by Caller, credential token.Secret) (string, error) {
	if err := l.authorise(by, record.KeysRead, nil); err != nil {
		return "", err
	}
	return l.Fingerprint(credential), nil
}
