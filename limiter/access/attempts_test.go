package access_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/access"
)

// handClock is moved by hand.
type handClock struct{ now time.Time }

func (c *handClock) Now() time.Time { return c.now }

// log is what was reported since it was last read.
type log map[access.Attempt]int64

func (l log) is(t *testing.T, when string, want log) {
	t.Helper()
	if !maps.Equal(l, want) {
		t.Errorf("%s: reported is %v, want %v", when, l, want)
	}
	clear(l)
}

func newAttempts() (*access.Attempts, *handClock, log) {
	clock, said := &handClock{noon}, make(log)
	return access.NewAttempts(clock, func(a access.Attempt, n int64) { said[a] += n }), clock, said
}

func TestAttemptsAreReportedAtOnceAndThenOnceAMinuteWithACount(t *testing.T) {
	t.Parallel()
	attempts, clock, said := newAttempts()
	anna, bob := access.Attempt{By: "anna", Action: "key.revoke"}, access.Attempt{By: "bob", Action: "key.revoke"}
	few := 0
	for range 100 {
		if attempts.Note(anna) {
			few++
		}
	}
	if few != 20 {
		t.Errorf("%d of 100 attempts in a minute are few, want 20", few)
	}
	attempts.Note(bob)
	said.is(t, "at once", log{anna: 1, bob: 1})
	attempts.Sweep()
	said.is(t, "before a minute is over", log{})
	clock.now = noon.Add(time.Minute)
	attempts.Sweep()
	said.is(t, "after a minute", log{anna: 99})
	if !attempts.Note(anna) {
		t.Error("the next minute begins with too many")
	}
	said.is(t, "in the next minute", log{})
	attempts.Flush()
	said.is(t, "at the end", log{anna: 1})
}

func TestAttemptsAreReportedOnceAClockThatHadRunAheadIsRepaired(t *testing.T) {
	t.Parallel()
	attempts, clock, said := newAttempts()
	anna, bob := access.Attempt{By: "anna", Action: "key.revoke"}, access.Attempt{By: "bob", Action: "key.revoke"}
	clock.now = noon.AddDate(1, 0, 0)
	for range 2 {
		attempts.Note(anna)
		attempts.Note(bob)
	}
	said.is(t, "a year ahead", log{anna: 1, bob: 1})
	clock.now = noon
	attempts.Note(anna)
	said.is(t, "after the repair", log{anna: 2})
	attempts.Sweep()
	said.is(t, "at the next sweep", log{bob: 1})
}

func TestAFloodOfCallersIsReportedAsOne(t *testing.T) {
	t.Parallel()
	attempts, _, said := newAttempts()
	few := 0
	for i := range 5000 {
		if attempts.Note(access.Attempt{By: access.Unknown, From: fmt.Sprintf("2001:db8:%x::1", i), Action: "token.refused"}) {
			few++
		}
	}
	many := access.Attempt{By: access.Many, Action: "token.refused"}
	if len(said) != 1025 || said[many] != 1 || few != 1024+20 {
		t.Errorf("%d callers were reported, those beyond the bound %d times, and %d attempts were few", len(said), said[many], few)
	}
	clear(said)
	attempts.Flush()
	said.is(t, "at the end", log{many: 5000 - 1024 - 1})
}
