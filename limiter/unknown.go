package limiter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// Where nodes share a store, looking for a string is a query of a database that all
// of them need. A client that keeps sending a string that no key has must not cause a
// flood of queries, nor take the connections that others need.
const (
	// keepUnknown is how long it is remembered that no key has a string.
	keepUnknown = 10 * time.Second
	// maxUnknown bounds how many such strings are remembered.
	maxUnknown = 4096
	// maxLookUps bounds how many queries look for strings at a time, and maxTogether
	// how many strings one of them looks for.
	maxLookUps  = 2
	maxTogether = 256
)

// unknowns are strings that no key has.
type unknowns struct {
	slots chan struct{} // nil: look-ups are not bounded, because they cost next to nothing

	mu      sync.Mutex
	queue   []*question
	until   map[token.Lookup]time.Time
	learned uint64 // how often strings have become known
}

// question is a string that is looked for. Questions that wait while a query runs are
// asked together by the next one.
type question struct {
	lookup   token.Lookup
	answered chan struct{}
	id       string
	err      error
}

// has reports whether it is remembered that no key has the string.
func (u *unknowns) has(lookup token.Lookup, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.until[lookup]
	return ok && now.Before(until)
}

// add remembers that no key had the string when it was looked for. learned is what take
// returned before that.
func (u *unknowns) add(lookup token.Lookup, now time.Time, learned uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.learned != learned {
		return // a key may have it by now
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
	u.learned++
	for _, lookup := range lookups {
		delete(u.until, lookup)
	}
}

// forget says that keys may have any of these strings now.
func (u *unknowns) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.learned++
	clear(u.until)
}

// ask queues a question.
func (u *unknowns) ask(lookup token.Lookup) *question {
	q := &question{lookup: lookup, answered: make(chan struct{})}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queue = append(u.queue, q)
	return q
}

// withdraw removes a question that nobody waits for any more.
func (u *unknowns) withdraw(q *question) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.queue, q); i >= 0 {
		u.queue = slices.Delete(u.queue, i, i+1)
	}
}

// take returns the questions that have waited longest, and how often strings have
// become known until now.
func (u *unknowns) take() (questions []*question, learned uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := min(len(u.queue), maxTogether)
	questions = slices.Clone(u.queue[:n])
	u.queue = slices.Delete(u.queue, 0, n)
	return questions, u.learned
}

// lookUpShared finds out which key has a string. One caller at a time, or a few, query
// the database for all who wait, so most are answered by another caller's query.
func (l *Limiter) lookUpShared(ctx context.Context, lookup token.Lookup) (id string, err error) {
	now := l.clock.Now()
	if l.unknown.has(lookup, now) {
		return "", store.ErrNotFound
	}
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxWaiting {
		return "", errCrowded
	}
	q := l.unknown.ask(lookup)
	patience := time.NewTimer(l.committer.Patience())
	defer patience.Stop()
	for {
		select {
		case <-q.answered:
			return q.id, q.err
		default:
		}
		select {
		case <-q.answered:
		case l.unknown.slots <- struct{}{}:
			l.unknown.answer(l.store, now)
			<-l.unknown.slots
		case <-ctx.Done():
			l.unknown.withdraw(q)
			return "", ctx.Err()
		case <-patience.C:
			l.unknown.withdraw(q)
			return "", commit.ErrTooSlow
		}
	}
}

// answer answers the questions that have waited longest.
func (u *unknowns) answer(from store.Store, now time.Time) {
	questions, learned := u.take()
	if len(questions) == 0 {
		return
	}
	keys := make([][]byte, len(questions))
	for i, q := range questions {
		keys[i] = record.LookupKey(q.lookup)
	}
	err := from.View(func(r store.Reader) error {
		if err := store.Fetch(r, keys...); err != nil {
			return err
		}
		for i, q := range questions {
			id, err := r.Get(keys[i])
			q.id, q.err = string(id), err
		}
		return nil
	})
	for _, q := range questions {
		if err != nil {
			q.id, q.err = "", err
		}
		if errors.Is(q.err, store.ErrNotFound) {
			u.add(q.lookup, now, learned)
		}
		close(q.answered)
	}
}
