// Package prose writes counts, distances in time and names that others chose for
// people who read them in a line of text.
//
// It knows how wide a terminal shows a text, and nothing of keys.
package prose

import (
	"fmt"
	"strconv"
	"time"
	"unicode"

	"golang.org/x/text/width"
)

// Wide is how much room a text takes on a terminal, where many characters of
// East Asia and most pictures take two places, and marks that go over another
// character none. Names are chosen by others: one that is wider than it counts
// would push a table, or the whole screen of top, out of its lines.
func Wide(s string) (n int) {
	for _, r := range s {
		n += columnsOfRune(r)
	}
	return n
}

func columnsOfRune(r rune) int {
	switch {
	case r < 0x300: // the most, and none of them is wide
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// Cut shortens a text to n columns.
func Cut(s string, n int) string {
	if Wide(s) <= n {
		return s
	}
	room := n - 1 // for the mark of what is missing
	for i, r := range s {
		if room -= columnsOfRune(r); room < 0 {
			return s[:i] + "…"
		}
	}
	return s
}

func Counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Relative writes a moment as a distance: "in 3h", "2d ago".
func Relative(t, now time.Time) string {
	d := t.Sub(now)
	past := d < 0
	if past {
		d = -d
	}
	var s string
	switch {
	case d < time.Minute:
		s = strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		s = strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		s = strconv.Itoa(int(d.Hours())) + "h"
	default:
		s = strconv.Itoa(int(d.Hours()/24)) + "d"
	}
	if past {
		return s + " ago"
	}
	return "in " + s
}
