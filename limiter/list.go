package limiter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Filter picks keys for a list. Empty fields pick all.
type Filter struct {
	Status    Status
	Upstream  string
	Role      string
	Owner     string
	CreatedBy string
	// Parent is a key's id: it picks that key's children.
	Parent string
	// Name is the whole name, in the case that it has.
	Name   string
	Labels map[string]string
	// UnusedFor picks keys that were not used for at least this long, or
	// never since they were made that long ago.
	UnusedFor time.Duration
	// Query is the beginning of an id or of a name (in any case).
	Query string

	// Fingerprint picks keys that depend on a credential: those with a box that
	// holds it, and those with held custody of the upstreams in Holders, which
	// go out with it.
	Fingerprint string
	Holders     []string

	// Except are the ids of keys that are left out.
	Except []string `json:",omitempty"`
	// Within picks what was minted by a token or under a role.
	Within *Within `json:",omitempty"`
	// Thorough asks for all that has to be found in the store alone, without
	// what memory knows.
	Thorough bool `json:"-"`

	// Sort is "-created" (newest first), "created", "-last_used" or "last_used",
	// which is right to a minute; a key that was never used stands where it was
	// minted. Default: the longest unused first where only UnusedFor is set, else
	// "-created".
	Sort string
	// Limit is the size of a page. Default: 50. At most 500.
	Limit int
	// Cursor is the Next of the page before.
	Cursor string
}

// Within is what a caller sees; see [Sight].
type Within struct{ Token, Role string }

// Page is one page of a list.
type Page struct {
	Keys []View
	// Next is the cursor of the page after this one; empty at the end.
	Next string
	// Partial says that the page is short because many keys had to be
	// looked at, not because there are no more: ask for the next one.
	Partial bool
}

const (
	defaultPage = 50
	maxPage     = 500
	// maxLookedAt bounds what one page may cost when few keys match.
	maxLookedAt = 5000
)

func (f *Filter) validate() error {
	switch f.Sort {
	case "", "-created", "created", "last_used", "-last_used":
	default:
		return invalid("sort", `must be "created", "-created", "last_used" or "-last_used", got %q`, f.Sort)
	}
	switch f.Status {
	case "", Active, Exhausted, Expired, Revoked, Suspended:
	default:
		return invalid("status", "must be active, exhausted, expired, revoked or suspended, got %q", f.Status)
	}
	return nil
}

// List returns a page of the keys that the caller sees.
func (l *Limiter) List(ctx context.Context, by Caller, f Filter) (Page, error) {
	var page Page
	if err := l.authorise(by, KeysRead, nil); err != nil {
		return page, err
	}
	if err := f.validate(); err != nil {
		return page, err
	}
	if f.Limit < 0 || f.Limit > maxPage {
		return page, invalid("limit", "must be from 1 to %d, got %d", maxPage, f.Limit)
	}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	page.Keys = make([]View, 0, f.Limit)
	err := l.store.View(func(r Reader) (err error) {
		page.Next, err = l.walk(ctx, r, by, &f, maxLookedAt, func(v View) bool {
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

// viewOf is the view of a key being listed: from memory when it is there,
// else from the store, without taking it into memory.
func (l *Limiter) viewOf(r Reader, id string, record []byte, now time.Time) (View, error) {
	l.liveMu.Lock()
	e := l.live[id]
	l.liveMu.Unlock()
	if e != nil {
		select {
		case <-e.ready:
			if e.err == nil {
				return e.k.View(), nil
			}
		default:
		}
	}
	key, err := decodeKey(record)
	if err != nil {
		return View{}, fmt.Errorf("key %s: %w", id, err)
	}
	if key.attached() { // its status depends on others
		k, err := l.load(id)
		if err != nil {
			return View{}, err
		}
		return k.View(), nil
	}
	v, err := l.viewStored(r, key, now)
	if err != nil {
		return v, err
	}
	for _, j := range l.runningJobs() {
		if v.Status != Revoked && j.matches(key, func(at time.Time) View {
			v, err := l.viewStored(r, key, at)
			if err != nil {
				l.log.Error("reading a key failed", "error", err)
			}
			return v
		}) {
			v.Status = Revoked // the job has not come to it yet
		}
	}
	return v, nil
}

// viewStored is the view of a key that is not in memory.
func (l *Limiter) viewStored(r Reader, key *Key, now time.Time) (View, error) {
	account, err := keyAccount(key.ID)
	if err != nil {
		return View{}, err
	}
	b, err := r.Get(accountKey(account))
	if err != nil {
		return View{}, fmt.Errorf("key %s: its account: %w", key.ID, err)
	}
	acct, err := decodeAccount(b)
	if err != nil {
		return View{}, fmt.Errorf("key %s: %w", key.ID, err)
	}
	k := &Live{l: l, key: key}
	k.restore(&acct)
	if key.Delegate {
		if k.children, err = countChildren(r, key.ID); err != nil {
			return View{}, err
		}
	}
	if key.Custody == CustodySealed {
		if k.salts, err = readSalts(r, key); err != nil {
			return View{}, err
		}
	}
	return k.view(now), nil
}

// byUse reports whether what a filter picks depends on more than the records.
func (f *Filter) byUse() bool { return f.Status != "" || f.UnusedFor > 0 }

func (f *Filter) picks(v *View, now time.Time) bool {
	switch {
	case f.Status != "" && v.Status != f.Status,
		f.Upstream != "" && v.Upstream != f.Upstream,
		f.Role != "" && v.Role != f.Role,
		f.Owner != "" && v.Owner != f.Owner,
		f.CreatedBy != "" && v.CreatedBy != f.CreatedBy,
		f.Parent != "" && v.Parent != f.Parent,
		f.Name != "" && v.Name != f.Name,
		f.Query != "" && !strings.HasPrefix(v.ID, f.Query) &&
			!strings.HasPrefix(strings.ToLower(v.Name), strings.ToLower(f.Query)):
		return false
	}
	if slices.Contains(f.Except, v.ID) {
		return false
	}
	if w := f.Within; w != nil && v.Token != w.Token && (w.Role == "" || v.Role != w.Role) {
		return false
	}
	for name, want := range f.Labels {
		if v.Labels[name] != want {
			return false
		}
	}
	if f.Fingerprint != "" && !v.dependsOn(f.Fingerprint) &&
		!(v.Custody != CustodySealed && v.EndedStatus != Revoked && slices.Contains(f.Holders, v.Upstream)) {
		return false
	}
	since := v.LastUsedAt
	if since.IsZero() {
		since = v.CreatedAt
	}
	return f.UnusedFor <= 0 || now.Sub(since) >= f.UnusedFor
}
