package limiter_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

// Several Limiters run in one process, each with a clock of its own: in tests, and while
// Caddy reloads.
func TestWhatIsMadeInOneMillisecondIsListedInTheOrderOfItsMaking(t *testing.T) {
	t.Parallel()
	w, other := newTeam(t), newTeam(t)
	var names, keys []string
	for i := range 10 {
		name := fmt.Sprintf("t%d", i)
		w.hire(limiter.Operator, name, "lead")
		keys = append(keys, w.mint(activations(1)).id)
		names = append(names, name)
		other.clock.advance(time.Millisecond)
		other.hire(limiter.Operator, name, "lead")
		other.mint(activations(1))
	}
	tokens, err := w.ListTokens(limiter.Operator)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, listed := range tokens {
		got = append(got, listed.Name)
	}
	slices.Reverse(names)
	if !slices.Equal(got, names) {
		t.Errorf("the tokens are %v, want the newest first: %v", got, names)
	}
	if !slices.IsSorted(keys) {
		t.Errorf("the ids of keys do not ascend: %v", keys)
	}
}
