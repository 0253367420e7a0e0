package cli

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
)

func TestEveryFilterOfTheAPIHasAFlag(t *testing.T) {
	t.Parallel()
	var want []string
	for _, field := range limiter.FilterFields {
		if field.Bulk && field.Name != "label.NAME" { // --label
			want = append(want, strings.ReplaceAll(field.Name, "_", "-"))
		}
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(filterFlags)); !slices.Equal(got, want) {
		t.Errorf("the flags are %s, want %s", got, want)
	}
}
