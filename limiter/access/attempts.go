// Package access knows who asks: the admin tokens that are kept, how they may be named, and
// how often somebody was refused.
//
// It knows no roles and no keys: what a caller may do is decided by the packages above it.
package access

import (
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/commit"
)

// Attempts reports refused acts: a caller's first one at once, then once a minute with
// a count, so that nobody can fill the audit log by asking.
// It holds a bounded number of callers; all further ones share one count. Each node
// counts only its own requests, so a caller's attempts multiply with the nodes.
type Attempts struct {
	clock  commit.TimeSource
	report func(a Attempt, n int64)

	mu   sync.Mutex
	seen map[Attempt]*attemptCount
}

// Attempt is a refused act: the caller, the caller's address, the action's name in the audit
// log, and what the act was aimed at.
type Attempt struct{ By, From, Action, What string }

// NewAttempts returns Attempts that report how often one was made since its last report.
func NewAttempts(clock commit.TimeSource, report func(a Attempt, n int64)) *Attempts {
	return &Attempts{clock: clock, report: report, seen: make(map[Attempt]*attemptCount)}
}

type attemptCount struct {
	reported time.Time // of the last report to the audit log
	since    int64     // attempts since that report
	recent   int64     // attempts in the present minute
	minute   int64
}

// due reports whether the last report is old enough for another one. It lies in the future
// if the clock had run ahead.
func (c *attemptCount) due(now time.Time) bool { return now.Sub(c.reported).Abs() >= reportEvery }

// The audit log's names for unknown callers, and for all callers beyond
// maxAttempters.
const (
	Unknown = "unknown"
	Many    = "many"
)

const (
	maxAttempters   = 1024
	attemptsAMinute = 20
	reportEvery     = time.Minute
)

// Note counts an attempt, and reports whether there were few like it this minute.
func (a *Attempts) Note(at Attempt) bool {
	now := a.clock.Now()
	a.mu.Lock()
	c := a.seen[at]
	if c == nil {
		if len(a.seen) >= maxAttempters {
			at = Attempt{By: Many, Action: at.Action}
			c = a.seen[at]
		}
		if c == nil {
			c = new(attemptCount)
			a.seen[at] = c
		}
	}
	if minute := now.Unix() / 60; minute != c.minute {
		c.minute, c.recent = minute, 0
	}
	c.recent++
	c.since++
	few := c.recent <= attemptsAMinute
	due := c.due(now)
	var n int64
	if due {
		n, c.since, c.reported = c.since, 0, now
	}
	a.mu.Unlock()
	if due {
		a.report(at, n)
	}
	return few
}

// Sweep reports the attempts since the last report, and drops callers who have stopped.
func (a *Attempts) Sweep() { a.sweep(a.clock.Now()) }

// Flush reports everything that was counted.
func (a *Attempts) Flush() { a.sweep(a.clock.Now().Add(reportEvery)) }

func (a *Attempts) sweep(now time.Time) {
	overdue := make(map[Attempt]int64)
	a.mu.Lock()
	for at, c := range a.seen {
		if !c.due(now) {
			continue
		}
		if c.since == 0 {
			delete(a.seen, at)
			continue
		}
		overdue[at] = c.since
		c.since, c.reported = 0, now
	}
	a.mu.Unlock()
	for at, n := range overdue {
		a.report(at, n)
	}
}
