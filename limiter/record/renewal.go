package record

import (
	"fmt"
	"slices"
	"time"
)

// Renewal says when a budget begins again, by the calendar in UTC. Empty: never.
type Renewal string

// These are the renewals.
const (
	Daily   Renewal = "day"
	Weekly  Renewal = "week" // on Mondays
	Monthly Renewal = "month"
)

var Renewals = [...]Renewal{Daily, Weekly, Monthly}

// ParseRenewal reads a renewal.
func ParseRenewal(s string) (Renewal, error) {
	if r := Renewal(s); slices.Contains(Renewals[:], r) {
		return r, nil
	}
	return "", fmt.Errorf("a budget renews each %s, got %q", Either(Renewals[:]), s)
}

// Window is the time between two renewals: the window's first moment, and that of the
// next window.
func (r Renewal) Window(now time.Time) (start, next time.Time) {
	y, m, d := now.UTC().Date()
	day := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	switch r {
	case Daily:
		return day, day.AddDate(0, 0, 1)
	case Weekly:
		monday := day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
		return monday, monday.AddDate(0, 0, 7)
	case Monthly:
		first := time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
		return first, first.AddDate(0, 1, 0)
	}
	return time.Time{}, time.Time{}
}

// Next is when the budget begins again; the zero time if it does not.
func (r Renewal) Next(now time.Time) time.Time {
	_, next := r.Window(now)
	return next
}

// Epoch numbers the window of a moment by the Unix time of the window's start.
func (r Renewal) Epoch(now time.Time) int64 {
	if r == "" {
		return 0
	}
	start, _ := r.Window(now)
	return start.Unix()
}
