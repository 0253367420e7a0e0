package till

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// countPause is how long an upstream that failed to count for a key is not asked
	// for that key, and countAbsent the same for one that seems to have no such
	// endpoint.
	countPause  = time.Minute
	countAbsent = time.Hour
	// countRetry is the same for a failure that may be over soon, unless the vendor
	// says how long it will take, and longestRetry is the longest such time that is
	// believed: some clients do not heed a Retry-After of a minute.
	countRetry   = 10 * time.Second
	longestRetry = 50 * time.Second
	// countPatience is how long a vendor may fail to count, each time for a reason that
	// may be over soon, until the answer says that waiting will not help.
	countPatience = 5 * time.Minute
	// countTries is how often it must have failed for a key in that time: two failures
	// that are minutes apart say nothing about the time between them.
	countTries = 4
	// pausedKeys is how many paused keys pause the upstream for all: if it is one key
	// alone, with those below it, its requests may be impossible to count.
	pausedKeys = 8
)

// countPauses knows for which keys a vendor is not asked to count, and since when it has
// failed. A key is noted until countPatience after its pause, so that a client that keeps
// trying is finally told that trying again will not help.
type countPauses struct {
	mu    sync.Mutex
	since time.Time            // the first failure of any of the keys that might have been over soon
	of    map[string]failedFor // by the id of the topmost key
}

// failedFor is a key that a vendor has failed to count for, and not counted for since.
type failedFor struct {
	since   time.Time // the first failure in a row that might have been over soon; zero if the last one was another
	tries   int       // failures in that row
	until   time.Time // the vendor is not asked before this
	lasting bool      // waiting until then does not help
}

// check reports whether the vendor must not be asked for a key. again is how soon that
// may be over, and 0 if it may not be over soon.
func (p *countPauses) check(id string, now time.Time) (paused bool, again time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	if own := p.of[id]; now.Before(own.until) {
		return true, own.again(now)
	}
	others, lasting, first := 0, 0, time.Duration(0)
	for _, other := range p.of {
		if !now.Before(other.until) {
			continue
		}
		others++
		switch rest := other.again(now); {
		case rest == 0:
			lasting++
		case first == 0 || rest < first:
			first = rest
		}
	}
	switch {
	case others < pausedKeys:
		return false, 0
	case lasting >= pausedKeys, p.hopeless(failedFor{}, now):
		return true, 0
	}
	return true, first
}

func (f failedFor) again(now time.Time) time.Duration {
	if f.lasting {
		return 0
	}
	return f.until.Sub(now)
}

// hopeless reports whether the failures of a key, or those of all keys, have gone on for
// too long.
func (p *countPauses) hopeless(f failedFor, now time.Time) bool {
	return f.tries >= countTries && now.Sub(f.since) >= countPatience || len(p.of) >= pausedKeys && !p.since.IsZero() && now.Sub(p.since) >= countPatience
}

// forget drops the keys that have not failed for long.
func (p *countPauses) forget(now time.Time) {
	for id, f := range p.of {
		end := f.until
		if !f.since.IsZero() {
			end = end.Add(countPatience)
		}
		if !now.Before(end) {
			delete(p.of, id)
		}
	}
	if len(p.of) == 0 {
		p.since = time.Time{}
	}
}

// fail notes that the vendor has not counted for a key. It returns how long the vendor is
// not asked for that key, how soon that may be over, as check does, and whether this is
// news.
func (p *countPauses) fail(id string, now time.Time, why countFailure) (pause, again time.Duration, news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	if p.of == nil {
		p.of = make(map[string]failedFor)
	}
	before, known := p.of[id]
	f := failedFor{lasting: true}
	p.of[id] = f
	if why.passes {
		if f.since, f.tries = before.since, before.tries+1; f.since.IsZero() {
			f.since = now
		}
		if p.since.IsZero() {
			p.since = now
		}
		if f.lasting = p.hopeless(f, now); f.lasting {
			why.pause = max(why.pause, countPause)
		}
	}
	f.until = now.Add(why.pause)
	p.of[id] = f
	return why.pause, f.again(now), !known || f.lasting && !before.lasting
}

// counted notes that the vendor has counted for a key.
func (p *countPauses) counted(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.of, id)
	p.since = time.Time{}
}

// countFailure is why there is no count.
type countFailure struct {
	passes bool          // it may be over soon
	pause  time.Duration // how long the vendor is not asked
}

// failureOf judges an answer without a count; nil is one that never came.
func failureOf(res *http.Response, now time.Time) countFailure {
	if res == nil {
		return countFailure{true, countRetry}
	}
	switch status := res.StatusCode; {
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented:
		return countFailure{false, countAbsent}
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500:
		pause := countRetry
		if asked, ok := retryAfterIn(res.Header, now); ok {
			pause = min(max(asked, time.Second), longestRetry)
		}
		return countFailure{true, pause}
	}
	return countFailure{false, countPause}
}

// retryAfterIn is when an answer says that the request should be tried again (RFC 9110,
// section 10.2.3).
func retryAfterIn(h http.Header, now time.Time) (time.Duration, bool) {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	return at.Sub(now), err == nil
}
