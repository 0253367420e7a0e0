package till

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// child mints a child with half of what its parent may have left.
func (s *site) child(parent minted, fields ...func(*record.Key)) minted {
	s.t.Helper()
	live := s.live(parent)
	spec := live.Key().Child()
	spec.Delegate = true
	for kind, left := range live.View().Remaining {
		if left != record.NoLimit && record.Kind(kind) != record.Attempts {
			spec.Limit[kind] = left / 2
		}
	}
	for _, fn := range fields {
		fn(spec)
	}
	text, lookup, err := token.MintKey()
	if err != nil {
		s.t.Fatal(err)
	}
	view, err := s.Delegate(context.Background(), live, &limiter.Ask{Addr: netip.MustParseAddr("192.0.2.1")}, spec, limiter.Birth{Lookup: lookup, Unlimited: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return minted{view.ID, text.Reveal()}
}

func limit(kind record.Kind, n int64) func(*record.Key) {
	return func(k *record.Key) { k.Limit[kind] = n }
}

func models(names ...string) func(*record.Key) {
	return func(k *record.Key) { k.Scope.Models = names }
}

// TestAKeyThatChangesWhileARequestIsReadAppliesAsItIsThen changes a key, an ancestor or
// its role in the middle of a request's body: what both states allow passes, whether or
// not the body had to be read in the first state, and what the second forbids is
// refused as if it had always been forbidden.
func TestAKeyThatChangesWhileARequestIsReadAppliesAsItIsThen(t *testing.T) {
	t.Parallel()
	type change struct {
		name  string
		is    func(*record.Key) // before; nil for a plain key
		fn    func(*record.Key)
		role  func(*record.Role)
		model string // default: gpt-5-mini
		want  record.Code
		above bool // may also be a parent's
	}
	changes := []change{
		{name: "nothing", fn: func(*record.Key) {}, above: true},
		{name: "models with it", fn: models("gpt-5*"), above: true},
		{name: "models without it", fn: models("gpt-4o"), want: record.CodeModelNotAllowed, above: true},
		{name: "other models with it", is: models("gpt-5*"), fn: models("gpt-5-mini"), above: true},
		{name: "other models without it", is: models("gpt-5*"), fn: models("gpt-5"), want: record.CodeModelNotAllowed, above: true},
		{name: "any model", is: models("gpt-5*"), fn: models(), above: true},
		{name: "tokens", fn: limit(record.Tokens, 100_000)},
		{name: "too few tokens", fn: limit(record.Tokens, 20), want: record.CodeBudgetTooSmall},
		{name: "no tokens", is: limit(record.Tokens, 100_000), fn: limit(record.Tokens, record.NoLimit)},
		{name: "dollars", fn: limit(record.Nanodollars, 5_000_000_000)},
		{name: "too few dollars", fn: limit(record.Nanodollars, 1000), want: record.CodeBudgetTooSmall},
		{name: "dollars, of no known price", fn: limit(record.Nanodollars, 5_000_000_000), model: "made-up", want: record.CodePriceUnknown},
		{name: "unknown prices are refused", is: func(k *record.Key) { k.Limit[record.Nanodollars], k.CountOnly = 5_000_000_000, true },
			fn: func(k *record.Key) { k.CountOnly = false }, model: "made-up", want: record.CodePriceUnknown, above: true},
		{name: "unknown prices pass", is: func(k *record.Key) { k.Limit[record.Nanodollars] = 5_000_000_000 },
			fn: func(k *record.Key) { k.CountOnly = true }, above: true},
		{name: "no fit, of what fits", is: limit(record.Tokens, 100_000), fn: func(k *record.Key) { k.KeepBound = true }, above: true},
		{name: "a request may cost that", is: limit(record.Nanodollars, 5_000_000_000), fn: func(k *record.Key) { k.MaxRequestSpend = 2_000_000_000 }, above: true},
		{name: "a request may not cost that", is: limit(record.Nanodollars, 5_000_000_000), fn: func(k *record.Key) { k.MaxRequestSpend = 1000 }, want: record.CodeBudgetTooSmall, above: true},
		{name: "charge", fn: func(k *record.Key) { k.Charge = record.ChargeSuccess }},
		{name: "a method of it", fn: func(k *record.Key) { k.Scope.Methods = []string{"POST"} }, above: true},
		{name: "another method", fn: func(k *record.Key) { k.Scope.Methods = []string{"GET"} }, want: record.CodeMethodNotAllowed, above: true},
		{name: "a path of it", fn: func(k *record.Key) { k.Scope.Paths = []string{"/v1/chat/*"} }, above: true},
		{name: "another path", fn: func(k *record.Key) { k.Scope.Paths = []string{"/v1/embeddings"} }, want: record.CodePathNotAllowed, above: true},
		{name: "its network", fn: func(k *record.Key) { k.Scope.IPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, above: true},
		{name: "another network", fn: func(k *record.Key) { k.Scope.IPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, want: record.CodeIPNotAllowed, above: true},
		{name: "a rate", fn: func(k *record.Key) { k.Rate = record.Rate{N: 10, Per: time.Hour} }, above: true},
		{name: "concurrency", fn: func(k *record.Key) { k.MaxConcurrency = 1 }, above: true},
		{name: "fewer activations", fn: limit(record.Activations, 10)},
		{name: "no activations", fn: limit(record.Activations, 0), want: record.CodeActivationsExhausted},
		{name: "a name and an owner", fn: func(k *record.Key) { k.Name, k.Owner = "x", "y" }, above: true},
		{name: "the role gets tokens", role: func(r *record.Role) { r.Budget.Limit[record.Tokens] = 100_000 }},
		{name: "the role gets too few tokens", role: func(r *record.Role) { r.Budget.Limit[record.Tokens] = 20 }, want: record.CodeBudgetTooSmall},
		{name: "the role gets dollars, of no known price", role: func(r *record.Role) { r.Budget.Limit[record.Nanodollars] = 5_000_000_000 }, model: "made-up", want: record.CodePriceUnknown},
		{name: "the role gets ceilings, which are of mints", role: func(r *record.Role) { r.Scope.Models, r.Max[record.Tokens] = []string{"gpt-4o"}, 5 }},
		{name: "the role goes", role: func(*record.Role) {}, want: record.CodeStoreUnavailable},
	}
	for _, test := range changes {
		for depth := range 3 { // of the key that is used, below the one that changes
			if depth > 0 && !test.above {
				continue
			}
			t.Run(test.name+[...]string{"", ", a parent's", ", a grandparent's"}[depth], func(t *testing.T) {
				t.Parallel()
				role := record.NewRole()
				s := newSite(t, map[string]record.Role{"crew": role})
				is := test.is
				if is == nil {
					is = func(*record.Key) {}
				}
				top := s.mint(is, func(k *record.Key) {
					if test.role != nil {
						k.Role = "crew"
					}
				})
				k := top
				for range depth {
					k = s.child(k)
				}
				a := chat("gpt-5-mini")
				if test.model != "" {
					a = chat(test.model)
				}
				a.halfway = func() {
					if test.role == nil {
						s.change(top, test.fn)
						return
					}
					test.role(&role)
					roles := map[string]record.Role{"crew": role}
					if test.name == "the role goes" {
						roles = nil
					}
					if err := s.SetRoles(roles); err != nil {
						t.Error(err)
					}
				}
				before := s.view(k).Used[record.Activations]
				_, code, says := s.serve(k, a)
				if code != test.want {
					t.Errorf("answered %s, want %s: %s", code, test.want, says)
				}
				n := s.forwarded.Load()
				if v := s.view(k); v.Used[record.Activations] != before+n || v.Held != (record.Amounts{}) || (n == 1) != (test.want == "") {
					t.Errorf("forwarded %d, used %d, held %v", n, v.Used[record.Activations]-before, v.Held)
				}
				if v := s.view(k); test.want == "" && (v.Limit[record.Tokens] != record.NoLimit || test.name == "the role gets tokens") && v.Used[record.Tokens] == 0 {
					t.Error("no tokens were charged")
				}
				// The same is true of any later request.
				a.halfway = nil
				if _, code, says := s.serve(k, a); code != test.want {
					t.Errorf("the next one: %s, want %s: %s", code, test.want, says)
				}
			})
		}
	}
}

// TestNoRequestIsRefusedForAChangeThatAllowsIt sends what every state of a key allows
// while models come and go.
func TestNoRequestIsRefusedForAChangeThatAllowsIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	top := s.mint(limit(record.Activations, 5000))
	keys := []minted{top, s.child(top)}
	var sending, changing sync.WaitGroup
	var done atomic.Bool
	changing.Go(func() {
		states := []func(*record.Key){models("gpt-5*"), models(), models("gpt-5-mini", "gpt-4o"), models()}
		for i := 0; !done.Load(); i++ {
			s.change(top, states[i%len(states)])
		}
	})
	const senders, each = 30, 30
	for i := range senders {
		sending.Go(func() {
			for range each {
				if status, code, says := s.serve(keys[i%2], chat("gpt-5-mini")); status != http.StatusOK {
					t.Errorf("%d %s: %s", status, code, says)
				}
			}
		})
	}
	sending.Wait()
	done.Store(true)
	changing.Wait()
	if n := s.forwarded.Load(); n != senders*each {
		t.Errorf("%d of %d were forwarded", n, senders*each)
	}
	t.Logf("%d requests under %d changes", s.forwarded.Load(), s.view(top).Version-1)
}
