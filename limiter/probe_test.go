package limiter_test

import (
	"context"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

// TestAProbeIsMadeOnlyForWhatCouldBeAdmittedAndNotTooOften: it takes nothing of
// the key's own rate or budget.
func TestAProbeIsMadeOnlyForWhatCouldBeAdmittedAndNotTooOften(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *limiter.Key) {
		k.Limit[limiter.Tokens] = 1000
		k.Rate = limiter.Rate{N: 2, Per: time.Minute}
		k.MaxConcurrency = 1
		k.Scope.Models = []string{"m"}
	})
	probe := func(opts ...func(*limiter.Ask)) bool {
		t.Helper()
		live, refusal := w.Find(context.Background(), k.lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		a := &limiter.Ask{Method: "POST", Path: "/v1/messages", Models: []string{"m"}, Named: true}
		for _, opt := range opts {
			opt(a)
		}
		return live.MayProbe(a)
	}
	model := func(a *limiter.Ask) { a.Models, a.Named = []string{"m"}, true }
	if probe(func(a *limiter.Ask) { a.Models = []string{"other"} }) {
		t.Error("a model that the key may not use")
	}
	for i := range 60 {
		if !probe() {
			t.Fatalf("the probe %d was not allowed", i)
		}
	}
	if probe() {
		t.Error("a 61st within a minute")
	}
	w.clock.advance(2 * time.Second)
	g, refusal := k.ask(model, bound(limiter.Tokens, 400))
	if refusal != nil {
		t.Fatal(refusal)
	}
	if probe() {
		t.Error("while another request takes its place")
	}
	live, refusal := w.Find(context.Background(), k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if left := live.Left()[limiter.Tokens]; left != 600 {
		t.Errorf("left are %d tokens, want 600", left)
	}
	g.Settle(limiter.Amounts{limiter.Activations: 1, limiter.Tokens: 100})
	if left := live.Left()[limiter.Tokens]; left != 900 {
		t.Errorf("left are %d tokens, want 900", left)
	}
	if !probe() {
		t.Error("two seconds later another was not allowed")
	}
	if code := k.use(model); code != "" {
		t.Errorf("a probe took of the key's rate: %s", code)
	}
	w.clock.advance(time.Minute)
	if _, _, err := w.Revoke(context.Background(), limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	if probe() {
		t.Error("the key is revoked")
	}
}
