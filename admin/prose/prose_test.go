package prose

import (
	"testing"
)

func TestColumnsAreThoseOfATerminal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"": 0, "nightly": 7, "naïve": 5, "日本語": 6, "한글": 4, "ｆｕｌｌ": 8, "🚀 go": 5, "e\u0301": 1, "zero\u200bwidth": 9, "…": 1, "«»": 2, "кириллица": 9,
	} {
		if got := Wide(text); got != want {
			t.Errorf("%q takes %d columns, want %d", text, got, want)
		}
	}
}

func TestCountsHaveTheirWordsPlural(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"0 keys": Counted(0, "key"), "1 key": Counted(1, "key"), "2 keys": Counted(2, "key"),
		"0 entries": CountedAs(0, "entry", "entries"), "1 entry": CountedAs(1, "entry", "entries"), "3 entries": CountedAs(3, "entry", "entries"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
