package limiter

import (
	"errors"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
)

// attempts tells the audit log of what was refused to somebody: the first time
// at once, then once a minute with a count, so that nobody can fill the disk by
// asking. It holds a bounded number of callers; all beyond them share one.
type attempts struct {
	mu   sync.Mutex
	seen map[attempt]*attemptCount
}

type attempt struct{ by, from, action, what string }

type attemptCount struct {
	caller Caller
	told   time.Time // when the audit log was told last
	since  int64     // attempts that it was not told of
	recent int64     // attempts in the present minute
	minute int64
}

// What the audit log calls those who are not known, and those who are too many.
const (
	unknownCaller = "unknown"
	manyCallers   = "many"
)

const (
	maxAttempters   = 1024
	attemptsAMinute = 20
	tellAttempts    = time.Minute
)

// attemptError is about an act that a caller is not entitled to; what is how the
// audit log names it.
type attemptError struct {
	error
	what string
}

func (e *attemptError) Unwrap() error { return e.error }

// noted counts an attempt at what err refuses, if it is one, and returns err. What
// is judged inside a transaction is noted after it, because that may run again.
func (l *Limiter) noted(by Caller, err error) error {
	var refused *attemptError
	var above *record.CeilingError
	switch {
	case errors.As(err, &refused):
		l.attempts.note(l, by, audit.ActRefused, refused.what)
	case errors.As(err, &above):
		l.attempts.note(l, by, audit.ActRefused, above.Field+" above the ceiling of role "+above.Role)
	}
	return err
}

// note counts an attempt at something, and reports whether there were few in
// this minute.
func (a *attempts) note(l *Limiter, by Caller, action, what string) bool {
	now := l.clock.Now()
	at := attempt{by: by.Name, from: by.From, action: action, what: what}
	a.mu.Lock()
	c := a.seen[at]
	if c == nil {
		if len(a.seen) >= maxAttempters {
			at, by = attempt{by: manyCallers, action: action}, Caller{Name: manyCallers}
			c = a.seen[at]
		}
		if c == nil {
			c = &attemptCount{caller: by}
			if a.seen == nil {
				a.seen = make(map[attempt]*attemptCount)
			}
			a.seen[at] = c
		}
	}
	if minute := now.Unix() / 60; minute != c.minute {
		c.minute, c.recent = minute, 0
	}
	c.recent++
	c.since++
	few := c.recent <= attemptsAMinute
	tell := now.Sub(c.told) >= tellAttempts
	var n int64
	if tell {
		n, c.since, c.told = c.since, 0, now
	}
	a.mu.Unlock()
	if tell {
		l.tellAttempts(c.caller, at, n)
	}
	return few
}

// sweep tells of what was counted since, and forgets who stopped.
func (a *attempts) sweep(l *Limiter, now time.Time) {
	type due struct {
		at attempt
		by Caller
		n  int64
	}
	var tell []due
	a.mu.Lock()
	for at, c := range a.seen {
		if now.Sub(c.told) < tellAttempts {
			continue
		}
		if c.since == 0 {
			delete(a.seen, at)
			continue
		}
		tell = append(tell, due{at, c.caller, c.since})
		c.since, c.told = 0, now
	}
	a.mu.Unlock()
	for _, d := range tell {
		l.tellAttempts(d.by, d.at, d.n)
	}
}

func (l *Limiter) tellAttempts(by Caller, at attempt, n int64) {
	changes := map[string]record.Delta{"attempts": {Before: nil, After: n}}
	if at.what != "" {
		changes["refused"] = record.Delta{Before: nil, After: at.what}
	}
	by.once = nil // what was refused was not done
	entry := by.entry(at.action, "", changes)
	l.committer.Submit(func(b *batch) error { return b.audit(entry) }, func(err error) {
		if err != nil {
			l.complain("a refused attempt is not in the audit log", err, "by", by.Name, "from", by.From)
		}
	})
}
