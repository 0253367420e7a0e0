// Package prose formats counts, times and foreign names for a line of text that
// people read.
//
// It knows how wide a text is on a terminal. It knows nothing of keys.
package prose

import (
	"fmt"
	"strconv"
	"time"
	"unicode"

	"golang.org/x/text/width"
)

// Wide is how many columns a text takes on a terminal. Many characters of East Asia
// and most emoji take two, and combining marks take none. Others choose the names:
// a name that is wider than its number of characters would push a table, or the
// entire screen of top, out of line.
func Wide(s string) (n int) {
	for _, r := range s {
		n += columnsOfRune(r)
	}
	return n
}

func columnsOfRune(r rune) int {
	switch {
	case r < 0x300: // most characters, none of which is wide
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

// Cut shortens a text to at most n columns.
func Cut(s string, n int) string {
	if Wide(s) <= n {
		return s
	}
	room := n - 1 // for the ellipsis
	for i, r := range s {
		if room -= columnsOfRune(r); room < 0 {
			return s[:i] + "…"
		}
	}
	return s
}

func Counted(n int64, what string) string { return CountedAs(n, what, what+"s") }

// CountedAs is Counted for a word whose plural does not just end with an s.
func CountedAs(n int64, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}

// Relative writes a time relative to now: "in 3h", "2d ago".
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
