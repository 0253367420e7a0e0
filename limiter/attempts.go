package limiter

import (
	"errors"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
)

// attempts reports refused acts to the audit log: the first of a caller at once,
// then once a minute with a count, so that nobody can fill the disk by asking.
// It holds a bounded number of callers; all further ones share one count. Each node
// counts what it is asked, so a caller has as many attempts as there are nodes.
type attempts struct {
	mu   sync.Mutex
	seen map[attempt]*attemptCount
}

type attempt struct{ by, from, action, what string }

type attemptCount struct {
	caller   Caller
	reported time.Time // of the last report to the audit log
	since    int64     // attempts since that report
	recent   int64     // attempts in the present minute
	minute   int64
}

// The names in the audit log of callers who are not known, and of all callers
// beyond maxAttempters.
const (
	unknownCaller = "unknown"
	manyCallers   = "many"
)

const (
	maxAttempters       = 1024
	attemptsAMinute     = 20
	reportAttemptsEvery = time.Minute
)

// attemptError refuses an act that a caller is not entitled to; what is the name
// of the act in the audit log.
type attemptError struct {
	error
	what string
}

func (e *attemptError) Unwrap() error { return e.error }

// noted counts an attempt if err is the refusal of one, and returns err. A refusal
// inside a transaction is noted after it, because the transaction may run again.
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

// note counts an attempt, and reports whether there were few like it this minute.
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
	due := now.Sub(c.reported) >= reportAttemptsEvery
	var n int64
	if due {
		n, c.since, c.reported = c.since, 0, now
	}
	a.mu.Unlock()
	if due {
		l.reportAttempts(c.caller, at, n)
	}
	return few
}

// sweep reports what was counted since, and drops callers who have stopped.
func (a *attempts) sweep(l *Limiter, now time.Time) {
	type due struct {
		at attempt
		by Caller
		n  int64
	}
	var overdue []due
	a.mu.Lock()
	for at, c := range a.seen {
		if now.Sub(c.reported) < reportAttemptsEvery {
			continue
		}
		if c.since == 0 {
			delete(a.seen, at)
			continue
		}
		overdue = append(overdue, due{at, c.caller, c.since})
		c.since, c.reported = 0, now
	}
	a.mu.Unlock()
	for _, d := range overdue {
		l.reportAttempts(d.by, d.at, d.n)
	}
}

func (l *Limiter) reportAttempts(by Caller, at attempt, n int64) {
	changes := map[string]record.Delta{"attempts": {Before: nil, After: n}}
	if at.what != "" {
		changes["refused"] = record.Delta{Before: nil, After: at.what}
	}
	by.once = nil // a refused act may be tried again
	entry := by.entry(at.action, "", changes)
	l.committer.Submit(func(b *batch) error { return b.audit(entry) }, func(err error) {
		if err != nil {
			l.complain("a refused attempt is not in the audit log", err, "by", by.Name, "from", by.From)
		}
	})
}
