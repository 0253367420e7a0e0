package limiter_test

import (
	"testing"
	"testing/synctest"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestATooLargeRequestIsBoundedAgainBeforeItIsRefused: the answers that it waited for may
// have said that it is smaller than was known.
func TestATooLargeRequestIsBoundedAgainBeforeItIsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		held    int64 // by another request, which uses all of it
		bounds  []int64
		code    record.Code
		refined int
		crowded bool // others keep it from being bounded
	}{
		{"at once", 0, []int64{1100, 300}, "", 1, false},
		{"after it has waited", 600, []int64{500, 300}, "", 1, false},
		{"before it waits, and after", 600, []int64{1100, 500, 300}, "", 2, false},
		{"in vain", 0, []int64{1100, 1100}, record.CodeBudgetTooSmall, 1, false},
		{"in vain after it has waited", 600, []int64{500, 450}, record.CodeBudgetTooSmall, 1, false},
		{"in vain, because of others", 0, []int64{1100, 1100}, record.CodeBudgetHeld, 1, true},
		{"never where it fits", 600, []int64{300}, "", 0, true},
	} {
		for _, whose := range []string{"key", "role"} {
			t.Run(test.name+", by its "+whose, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					limit := tokens(1000)
					if whose == "role" {
						budget := record.NoLimits()
						budget[record.Tokens] = 1000
						w.roles = map[string]record.Role{"team": {Budget: record.RoleBudget{Limit: budget}}}
						if err := w.SetRoles(w.roles); err != nil {
							t.Fatal(err)
						}
						limit = func(k *record.Key) { k.Role = "team" }
					}
					k := w.mint(limit)
					var other *limiter.Grant
					if test.held > 0 {
						other = k.hold(test.held)
					}
					refined := 0
					one := k.wait(ctx, 0, func(a *limiter.Ask) {
						a.Fit = func(record.Amounts) record.Amounts { return record.Amounts{record.Tokens: test.bounds[refined]} }
						a.Refine = func() *record.Refusal {
							refined++
							if test.crowded {
								return &record.Refusal{Code: record.CodeBudgetHeld}
							}
							return nil
						}
					})
					if other != nil {
						if waits := test.bounds[min(refined, len(test.bounds)-1)] > 400; waits != (one.code() == "waits") {
							t.Errorf("before the other has settled: %q", one.code())
						}
						other.Settle(used(test.held))
					}
					synctest.Wait()
					if code := one.code(); code != test.code || refined != test.refined {
						t.Errorf("%q, bounded again %d times; want %q, %d", code, refined, test.code, test.refined)
					}
				})
			})
		}
	}
}
