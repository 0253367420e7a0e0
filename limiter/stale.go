package limiter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// StaleReason says why a key should be looked at.
type StaleReason string

const (
	StaleUnused      StaleReason = "unused"
	StaleNeverUsed   StaleReason = "never_used"
	StaleOverGranted StaleReason = "over_granted"
	StaleExpiring    StaleReason = "expiring"
)

var StaleReasons = [...]StaleReason{StaleUnused, StaleNeverUsed, StaleOverGranted, StaleExpiring}

const (
	// overGrantedAfter is when a key that does not expire, or expires late, has
	// had enough time to use what it was granted.
	overGrantedAfter = 30 * 24 * time.Hour
	// overGrantedShare is into how many parts a limit is divided, of which more than one must
	// have been used.
	overGrantedShare = 10
	// A key is expiring when at most a tenth of its life is left, and at most this.
	expiringWithin = 7 * 24 * time.Hour
)

// StaleKey is a key that should be looked at, with what is known about it.
type StaleKey struct {
	View
	Reasons []StaleReason
	// Since is when the key was last used, minted or revived.
	Since time.Time
	// Over are the limits that it hardly uses.
	Over []OverGrant
	Seen *Seen
}

// OverGrant is a limit of which at most a tenth was used.
type OverGrant struct {
	Kind          record.Kind
	Granted, Used int64
}

// StalePage is one page of stale keys.
type StalePage struct {
	Keys    []StaleKey
	Next    string
	Partial bool
}

// Stale returns a page of the active keys that the caller sees and that should be
// looked at: for all reasons, or for one.
func (l *Limiter) Stale(ctx context.Context, by Caller, reason StaleReason, limit int, cursor string) (StalePage, error) {
	var page StalePage
	if err := l.authorise(by, record.KeysRead, nil); err != nil {
		return page, err
	}
	if reason != "" && !slices.Contains(StaleReasons[:], reason) {
		return page, record.Invalid("reason", "must be %s, got %q", record.Either(StaleReasons[:]), reason)
	}
	limit, err := record.PageSize(limit)
	if err != nil {
		return page, err
	}
	now := l.clock.Now()
	after := l.staleAfter()
	err = store.Browse(l.store, func(r store.Reader) (err error) {
		page.Next, err = l.walk(ctx, r, by, &Filter{Status: record.Active, Cursor: cursor}, func(v View) bool {
			s := StaleKey{View: v}
			s.findReasons(now, after)
			s.Reasons = slices.DeleteFunc(s.Reasons, func(r StaleReason) bool { return reason != "" && r != reason })
			if len(s.Reasons) == 0 {
				return true
			}
			page.Keys = append(page.Keys, s)
			return len(page.Keys) < limit
		})
		if err != nil {
			return err
		}
		rows := make([][]byte, len(page.Keys))
		for i := range page.Keys {
			rows[i] = seenKey(page.Keys[i].ID)
		}
		if err := store.Fetch(r, rows...); err != nil {
			return err
		}
		for i := range page.Keys {
			if page.Keys[i].Seen, err = l.seenOf(r, page.Keys[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return StalePage{}, fmt.Errorf("looking for stale keys: %w", err)
	}
	page.Partial = page.Next != "" && len(page.Keys) < limit
	return page, nil
}

// findReasons works out the reasons.
func (s *StaleKey) findReasons(now time.Time, after time.Duration) {
	s.Since = s.unusedSince()
	switch {
	case s.InFlight > 0 || s.Children > 0 || now.Sub(s.Since) < after:
	case s.FirstUsedAt.IsZero():
		s.Reasons = append(s.Reasons, StaleNeverUsed)
	default:
		s.Reasons = append(s.Reasons, StaleUnused)
	}
	if s.Over = s.overGranted(now); len(s.Over) > 0 {
		s.Reasons = append(s.Reasons, StaleOverGranted)
	}
	if left := s.ExpiresAt.Sub(now); !s.ExpiresAt.IsZero() && left <= expiringWithin && left <= s.ExpiresAt.Sub(s.CreatedAt)/10 {
		s.Reasons = append(s.Reasons, StaleExpiring)
	}
}

// overGranted are the limits of which at most a tenth was used, once the key has had
// time to use them. For a limit that renews, it is a tenth of all that was granted in
// the windows that are over.
func (v *View) overGranted(now time.Time) []OverGrant {
	age := now.Sub(v.CreatedAt)
	if age < overGrantedAfter && (v.ExpiresAt.IsZero() || age < v.ExpiresAt.Sub(v.CreatedAt)/2) {
		return nil
	}
	windows := int64(1)
	if v.Renews != "" {
		start, next := v.Renews.Window(now)
		windows = max(int64(age/next.Sub(start)), 1)
	}
	var over []OverGrant
	for _, kind := range record.LimitKinds {
		granted := v.Limit[kind]
		if granted == record.NoLimit || granted == 0 {
			continue
		}
		if granted > record.MaxAmount/windows {
			continue // cannot be known
		}
		used := v.Used[kind] + v.Past[kind] + v.Delegated[kind]
		if granted *= windows; used <= granted/overGrantedShare {
			over = append(over, OverGrant{kind, granted, used})
		}
	}
	return over
}
