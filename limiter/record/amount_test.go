package record

import (
	"slices"
	"testing"
)

func TestDollarsAreWrittenWithTwoDigitsOrAsManyAsTheyHave(t *testing.T) {
	t.Parallel()
	for nano, want := range map[int64]string{
		0: "0.00", 1: "0.000000001", 5_000_000_000: "5.00", 250_000_000: "0.25", 100_000_000: "0.10",
		1_000_000_001: "1.000000001", -1_500_000_000: "-1.50", 12_345_600_000: "12.3456", 999_999_999: "0.999999999",
	} {
		if got := FormatUSD(nano); got != want {
			t.Errorf("%d: %s, want %s", nano, got, want)
		}
		if back, err := ParseUSD(want); nano >= 0 && (err != nil || back != nano) {
			t.Errorf("%s: %d, %v", want, back, err)
		}
	}
}

func TestEveryKindHasAWholeRow(t *testing.T) {
	t.Parallel()
	limits := make(map[string]bool)
	for kind, row := range kinds {
		if row.name == "" || row.limit == "" || row.unit == "" || row.exhausted == "" || limits[row.limit] {
			t.Errorf("kind %d: its row says %+v", kind, row)
		}
		limits[row.limit] = true
		if own := slices.Contains(LimitKinds[:], Kind(kind)); own == (Kind(kind) == Attempts) {
			t.Errorf("%s: somebody may limit it: %t", row.name, own)
		}
		limit := NoLimits()
		limit[kind] = 5
		if limit.limited() != (Kind(kind) != Attempts) || limit.Metered() != row.metered {
			t.Errorf("%s: a limit in it alone: limited %t, metered %t", row.name, limit.limited(), limit.Metered())
		}
	}
	if none := NoLimits(); none.limited() || none.Metered() {
		t.Error("no limits are one")
	}
}
