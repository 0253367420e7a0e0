package access

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

const (
	// maxTokens bounds the tokens that are kept, all of them in memory.
	maxTokens = 10_000
	// keepTokens is how long ended tokens stay listed, and their names taken.
	keepTokens = 90 * 24 * time.Hour
	// usesStep bounds the tokens whose use one commit saves.
	usesStep = 1000
)

// Tokens are all admin tokens. Memory holds them as of the last commit, with their latest
// uses.
type Tokens struct {
	write   commit.Writer
	shared  bool                       // other nodes write to the store, too
	damaged func(id string, err error) // is called with a token that cannot be read

	mu       sync.RWMutex
	byLookup map[token.Lookup]*live
	byID     map[string]*live
}

type live struct {
	rec     *record.AdminToken // replaced, never changed
	used    atomic.Int64
	stopped time.Time // when it was revoked, if that is not durable yet
}

// ReadTokens reads all tokens of a store. One that cannot be read does not work, and damaged
// is called with it, so that the others do not suffer for it.
func ReadTokens(s store.Store, w commit.Writer, damaged func(id string, err error)) (*Tokens, error) {
	t := &Tokens{write: w, damaged: damaged, byLookup: make(map[token.Lookup]*live), byID: make(map[string]*live)}
	_, t.shared = s.(store.Shared)
	return t, s.View(func(r store.Reader) error { return t.each(r, t.put) })
}

// each calls fn with each token of a store, the oldest first, except those that cannot be read.
func (t *Tokens) each(r store.Reader, fn func(rec *record.AdminToken)) error {
	return r.Scan(record.TokenKey(""), nil, false, func(key, value []byte) (bool, error) {
		rec, err := record.DecodeToken(key, value)
		if err == nil {
			fn(rec)
		} else if !t.LeaveOut(string(key[len(record.TokenKey("")):]), err) {
			return false, err
		}
		return true, nil
	})
}

// LeaveOut reports whether an error is about one token alone, which then does not work.
func (t *Tokens) LeaveOut(id string, err error) bool {
	is := errors.Is(err, record.ErrRecord)
	if is {
		t.damaged(id, err)
		t.drop(id)
	}
	return is
}

func (t *Tokens) put(rec *record.AdminToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.byID[rec.ID]
	if known == nil {
		known = new(live)
		t.byID[rec.ID], t.byLookup[rec.Lookup] = known, known
	}
	if !rec.LastUsedAt.IsZero() {
		known.usedAt(rec.LastUsedAt)
	}
	known.rec = rec
}

// Stop lets a token work no more, before its record says so.
func (t *Tokens) Stop(id string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.byID[id]; known != nil && known.stopped.IsZero() {
		known.stopped = at
	}
}

// usedAt notes a use, perhaps on another node.
func (l *live) usedAt(at time.Time) {
	nanos := at.UnixNano()
	for used := l.used.Load(); used < nanos && !l.used.CompareAndSwap(used, nanos); {
		used = l.used.Load()
	}
}

func (l *live) now() record.AdminToken {
	rec := *l.rec
	rec.LastUsedAt = record.FromNanos(l.used.Load())
	if rec.RevokedAt.IsZero() {
		rec.RevokedAt = l.stopped
	}
	return rec
}

func (t *Tokens) drop(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.byID[id]; known != nil {
		delete(t.byID, id)
		delete(t.byLookup, known.rec.Lookup)
	}
}

// All returns the records with their last use, the newest first.
func (t *Tokens) All() []record.AdminToken {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]record.AdminToken, 0, len(t.byID))
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(t.byID))) {
		list = append(list, t.byID[id].now())
	}
	return list
}

// Get returns a token by its id.
func (t *Tokens) Get(id string) (record.AdminToken, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if known := t.byID[id]; known != nil {
		return known.now(), true
	}
	return record.AdminToken{}, false
}

// Fetch is Get, but also finds a token that another node has just made.
func (t *Tokens) Fetch(id string) (rec record.AdminToken, ok bool, err error) {
	if rec, ok = t.Get(id); ok || !t.shared {
		return rec, ok, nil
	}
	if err := t.Follow([]string{id}); err != nil {
		return rec, false, err
	}
	rec, ok = t.Get(id)
	return rec, ok, nil
}

// Find returns a token by the hash of its string.
func (t *Tokens) Find(lookup token.Lookup) (record.AdminToken, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if known := t.byLookup[lookup]; known != nil {
		return known.now(), true
	}
	return record.AdminToken{}, false
}

// Use notes that a token was used, and returns false if it does not work.
func (t *Tokens) Use(id string, now time.Time) (record.AdminToken, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	known := t.byID[id]
	if known == nil {
		return record.AdminToken{}, false
	}
	rec := known.now()
	if rec.Status(now) != record.Active {
		return record.AdminToken{}, false
	}
	known.usedAt(now)
	return rec, true
}

// Add writes a new token, and returns the ones that were dropped to make room for it. Added
// lets memory follow once that is durable.
func (t *Tokens) Add(tx *commit.Transaction, rec *record.AdminToken, now time.Time) (old []record.AdminToken, err error) {
	all := t.All()
	if tx.Shared() {
		all = nil
		if err := t.each(tx, func(rec *record.AdminToken) { all = append(all, *rec) }); err != nil {
			return nil, err
		}
	}
	if old, err = makeRoom(all, rec, now); err != nil {
		return nil, err
	}
	for _, o := range old {
		if err := errors.Join(tx.Delete(record.TokenKey(o.ID)), tx.Delete(record.TokenNameKey(o.Name))); err != nil {
			return nil, err
		}
	}
	if _, err := tx.Get(record.TokenNameKey(rec.Name)); err == nil {
		return nil, record.Invalid("name", "must be one that no other token has, got %q", rec.Name)
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return old, errors.Join(tx.Set(record.TokenNameKey(rec.Name), []byte(rec.ID)), rec.Write(tx))
}

// Added lets memory follow Add.
func (t *Tokens) Added(rec *record.AdminToken, old []record.AdminToken) {
	for i := range old {
		t.drop(old[i].ID)
	}
	t.put(rec)
}

// Changed lets memory follow a change of a token.
func (t *Tokens) Changed(rec *record.AdminToken) { t.put(rec) }

// makeRoom checks a new token against all existing ones, and returns the ended ones that make
// room for it.
func makeRoom(all []record.AdminToken, t *record.AdminToken, now time.Time) (old []record.AdminToken, err error) {
	for _, other := range all {
		if ended := latest(other.RevokedAt, other.ExpiresAt); other.Status(now) != record.Active && now.Sub(ended) > keepTokens {
			old = append(old, other)
		} else if other.Name != t.Name && skeleton(other.Name) == skeleton(t.Name) {
			return nil, record.Invalid("name", "must not look like that of another token, got %+q", t.Name)
		}
	}
	if len(all)-len(old) >= maxTokens {
		return nil, record.Invalid("tokens:", "there are %d, and no more are kept: ended ones make room after 90 days", maxTokens)
	}
	return old, nil
}

func latest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Follow lets memory follow the tokens with these ids, which other nodes have changed; nil:
// all of them.
func (t *Tokens) Follow(ids []string) error {
	var found []*record.AdminToken
	var gone []string
	return t.write.LookPatiently(func(r store.Reader) error {
		found, gone = nil, nil
		known := ids
		if ids == nil {
			known = t.ids()
			err := r.Scan(record.TokenKey(""), nil, false, func(at, _ []byte) (bool, error) {
				if id := string(at[len(record.TokenKey("")):]); !slices.Contains(known, id) {
					known = append(known, id)
				}
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		for _, id := range known {
			rec, err := record.ReadToken(r, id)
			switch {
			case t.LeaveOut(id, err):
			case errors.Is(err, store.ErrNotFound):
				gone = append(gone, id)
			case err != nil:
				return err
			default:
				found = append(found, rec)
			}
		}
		return nil
	}, func() {
		for _, rec := range found {
			t.put(rec)
		}
		for _, id := range gone {
			t.drop(id)
		}
	})
}

func (t *Tokens) ids() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Keys(t.byID))
}

// SaveUses makes the last use of each token durable.
func (t *Tokens) SaveUses() error {
	changed := t.All()
	t.mu.RLock()
	changed = slices.DeleteFunc(changed, func(rec record.AdminToken) bool {
		known := t.byID[rec.ID]
		return known == nil || !rec.LastUsedAt.After(known.rec.LastUsedAt)
	})
	t.mu.RUnlock()
	for some := range slices.Chunk(changed, usesStep) {
		if err := t.saveUses(some); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tokens) saveUses(changed []record.AdminToken) error {
	saved := make([]*record.AdminToken, 0, len(changed))
	return t.write.Do(func(tx *commit.Transaction) error {
		saved = saved[:0]
		for _, used := range changed {
			rec, err := record.ReadToken(tx, used.ID)
			if errors.Is(err, store.ErrNotFound) || t.LeaveOut(used.ID, err) {
				continue
			}
			if err != nil {
				return err
			}
			if !used.LastUsedAt.After(rec.LastUsedAt) {
				continue // it was used later on another node
			}
			rec.LastUsedAt = used.LastUsedAt
			if err := rec.Write(tx); err != nil {
				return err
			}
			saved = append(saved, rec)
		}
		return nil
	}, func() {
		for _, rec := range saved {
			t.put(rec)
		}
	})
}
