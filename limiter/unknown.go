package limiter

import (
	"context"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/token"
)

// Where nodes share a store, looking for a string is a query of a database that all
// of them need. A client that goes on with a string that no key has must not become a
// flood of queries, nor take the connections that others need.
const (
	// keepUnknown is how long it is remembered that no key has a string.
	keepUnknown = 10 * time.Second
	// maxUnknown bounds how many such strings are remembered.
	maxUnknown = 4096
	// maxLookUps bounds how many strings are looked for at a time.
	maxLookUps = 4
)

// unknowns are strings that no key has.
type unknowns struct {
	slots chan struct{} // nil: look-ups are not bounded, because they cost next to nothing

	mu    sync.Mutex
	until map[token.Lookup]time.Time
	news  uint64 // how often strings have become known
}

// has reports whether no key has the string, and how often strings have become known
// until now.
func (u *unknowns) has(lookup token.Lookup, now time.Time) (unknown bool, news uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.until[lookup]
	return ok && now.Before(until), u.news
}

// add remembers that no key had the string when news was what has returned.
func (u *unknowns) add(lookup token.Lookup, now time.Time, news uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.news != news {
		return // a key may have it since
	}
	if u.until == nil {
		u.until = make(map[token.Lookup]time.Time)
	}
	if len(u.until) == maxUnknown {
		for any := range u.until {
			delete(u.until, any)
			break
		}
	}
	u.until[lookup] = now.Add(keepUnknown)
}

// learn says that keys may have these strings now.
func (u *unknowns) learn(lookups ...token.Lookup) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.news++
	for _, lookup := range lookups {
		delete(u.until, lookup)
	}
}

// forget says that keys may have any strings.
func (u *unknowns) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.news++
	clear(u.until)
}

// lookingUp waits until another string may be looked for. The caller calls lookedUp
// if it may.
func (l *Limiter) lookingUp(ctx context.Context) error {
	select {
	case l.unknown.slots <- struct{}{}:
		return nil
	default:
	}
	defer l.dequeued()
	if !l.enqueued() {
		return errCrowded
	}
	patience := time.NewTimer(l.committer.Patience())
	defer patience.Stop()
	select {
	case l.unknown.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return commit.ErrTooSlow
	}
}

func (l *Limiter) lookedUp() { <-l.unknown.slots }
