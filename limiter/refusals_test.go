package limiter_test

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestARequestThatIsTooLargeIsToldBothFiguresAndWhatHelps, whether the budget is its key's
// own or that of the key's role.
func TestARequestThatIsTooLargeIsToldBothFiguresAndWhatHelps(t *testing.T) {
	t.Parallel()
	for whose, limit := range map[string]func(*record.Key){
		"key":  tokens(1000),
		"role": func(k *record.Key) { k.Role = "team" },
	} {
		for help, want := range map[string]string{"": "lower max_tokens", "send less": "send less"} {
			t.Run(whose+", "+want, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				budget := record.NoLimits()
				budget[record.Tokens] = 1000
				if err := w.SetRoles(map[string]record.Role{"team": {Budget: record.RoleBudget{Limit: budget}}}); err != nil {
					t.Fatal(err)
				}
				k := w.mint(limit)
				first, refusal := k.ask(bound(record.Tokens, 500))
				if refusal != nil {
					t.Fatal(refusal)
				}
				first.Settle(record.Amounts{record.Activations: 1, record.Tokens: 400})
				_, refusal = k.ask(bound(record.Tokens, 700), func(a *limiter.Ask) { a.Help = help })
				want := "has 600 tokens left, and this request may use up to 700 tokens; " + want
				if refusal == nil || refusal.Code != record.CodeBudgetTooSmall || !strings.HasSuffix(refusal.Message, want) {
					t.Errorf("answered %v, want %s", refusal, want)
				}
			})
		}
	}
}
