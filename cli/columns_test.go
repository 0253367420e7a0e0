package cli

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

func TestNoNamePushesATableOutOfItsLines(t *testing.T) {
	t.Parallel()
	names := []string{strings.Repeat("日本語", 20), strings.Repeat("🚀", 40), "e" + strings.Repeat("\u0301", 90), strings.Repeat("x", 90), "short"}
	var keys []*wire.KeyObject
	s := &snapshot{Time: now}
	for _, name := range names {
		k := &wire.KeyObject{ID: "key_01M86CZR4HQ80C5C66DDK59VMG", Name: name, Upstream: "mock", Status: record.Active, MaxActivations: count(500), RemainingActivations: count(500)}
		row := &topKey{KeyObject: k}
		row.tightest(now)
		keys, s.Keys = append(keys, k), append(s.Keys, row)
	}
	var list strings.Builder
	if err := printTable(&list, keys, now); err != nil {
		t.Fatal(err)
	}
	aligned(t, list.String(), "mock", 1+len(names))
	aligned(t, strings.Join((&topView{columns: 80, rows: 24}).lines(s)[topHead-1:], "\n"), "mock", 2+len(names))
}

// aligned checks that a word is in the same column of all lines that have it, and
// that no line is too wide.
func aligned(t *testing.T, text, word string, lines int) {
	t.Helper()
	if n := strings.Count(strings.TrimSuffix(text, "\n"), "\n") + 1; n != lines {
		t.Errorf("%d lines, want %d:\n%s", n, lines, text)
	}
	fits(t, text)
	at := -1
	for line := range strings.Lines(text) {
		before, _, has := strings.Cut(line, word)
		if !utf8.ValidString(line) || has && at >= 0 && prose.Wide(before) != at {
			t.Errorf("%q stands at %d, and not at %d:\n%s", word, prose.Wide(before), at, text)
		}
		if has {
			at = prose.Wide(before)
		}
	}
}
