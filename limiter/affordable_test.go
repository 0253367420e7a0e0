package limiter_test

import (
	"context"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestAProbeIsMadeOnlyForWhatCouldBeAdmittedAndNotTooOften: it takes nothing of
// the key's own rate or budget.
func TestAProbeIsMadeOnlyForWhatCouldBeAdmittedAndNotTooOften(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) {
		k.Limit[record.Tokens] = 1000
		k.Rate = record.Rate{N: 2, Per: time.Minute}
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
		may, _ := live.MayProbe(a)
		return may
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
	g, refusal := k.ask(model, bound(record.Tokens, 400))
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
	if left, later := live.Left(); left[record.Tokens] != 600 || later[record.Tokens] != 1000 {
		t.Errorf("left are %d tokens, and later %d, want 600 and 1000", left[record.Tokens], later[record.Tokens])
	}
	g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 100})
	if left, later := live.Left(); left[record.Tokens] != 900 || later != left {
		t.Errorf("left are %d tokens, and later %d, want 900 both", left[record.Tokens], later[record.Tokens])
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

// TestNothingIsAskedForARequestThatItsBudgetsRefuseWhateverItHolds: a key that has
// nothing left, or whose role has not, would else be good for questions.
func TestNothingIsAskedForARequestThatItsBudgetsRefuseWhateverItHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	role := record.NewRole()
	role.Budget.Limit[record.Activations] = 1
	w.roles = map[string]record.Role{"ci": role}
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	probe := func(k *key) bool {
		t.Helper()
		live, refusal := w.Find(context.Background(), k.lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		may, _ := live.MayProbe(&limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/messages"})
		return may
	}
	canary := w.mint(activations(0))
	byTokens := w.mint(func(k *record.Key) { k.Limit[record.Tokens] = 0 })
	onSuccess := w.mint(func(k *record.Key) {
		k.Limit[record.Activations], k.Charge = 0, record.ChargeSuccess
	})
	last := w.mint(activations(1))
	shared := w.mint(func(k *record.Key) { k.Role = "ci" })
	for name, test := range map[string]struct {
		key *key
		may bool
	}{
		"a canary": {canary, false}, "a canary in tokens": {byTokens, false}, "a canary that counts successes": {onSuccess, false},
		"the last activation": {last, true}, "the role's last": {shared, true},
	} {
		if got := probe(test.key); got != test.may {
			t.Errorf("%s: %v", name, got)
		}
	}
	lastSuccess := w.mint(func(k *record.Key) {
		k.Limit[record.Activations], k.Charge = 1, record.ChargeSuccess
	})
	for name, test := range map[string]struct {
		*key
		waits bool // another request would wait for it
	}{"the last activation": {last, false}, "the last success": {lastSuccess, true}, "the role's last": {shared, true}} {
		k := test.key
		g, refusal := k.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		if probe(k) != test.waits {
			t.Errorf("%s is in flight: %v", name, !test.waits)
		}
		g.Cancel()
		if !probe(k) {
			t.Errorf("%s came back", name)
		}
	}
	if err := w.SetRoles(nil); err != nil {
		t.Fatal(err)
	}
	if probe(shared) {
		t.Error("the role is not configured any more")
	}
}
