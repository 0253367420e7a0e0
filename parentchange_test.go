package till

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestAChangeOfAParentReachesItsChildrenAsThePageSays changes each field of a key that
// has two generations of children. What the page on child keys calls the parent's is
// the topmost key's at each use; what it calls the child's own stays as it was minted;
// what is checked at the ancestors binds without being the child's own; and what cannot
// change under children is refused with a message about that field.
func TestAChangeOfAParentReachesItsChildrenAsThePageSays(t *testing.T) {
	t.Parallel()
	type fate int
	const (
		fixed   fate = iota // no change touches it
		own                 // a child's is its own
		asked               // a child's is its own, and its parent's holds besides
		derived             // a child's is its parent's
		refused
	)
	tests := map[string]struct {
		fate fate
		set  func(*record.Key)
		code record.Code // of a request of a child, afterwards
		by   asks        // default: a chat
	}{
		"name":            {fate: own, set: func(k *record.Key) { k.Name = "x" }},
		"owner":           {fate: own, set: func(k *record.Key) { k.Owner = "x" }},
		"purpose":         {fate: own, set: func(k *record.Key) { k.Purpose = "x" }},
		"labels":          {fate: own, set: func(k *record.Key) { k.Labels = map[string]string{"a": "b"} }},
		"metadata":        {fate: own, set: func(k *record.Key) { k.Metadata = map[string]string{"a": "b"} }},
		"max_activations": {fate: own, set: limit(record.Activations, 800)},
		"max_tokens":      {fate: own, set: limit(record.Tokens, 70_000)},
		"max_spend_usd":   {fate: own, set: limit(record.Nanodollars, 4_000_000_000)},
		"renews":          {fate: own, set: func(k *record.Key) { k.Renews = record.Daily }},

		"charge": {fate: refused, set: func(k *record.Key) { k.Charge = record.ChargeSuccess }},

		"fit": {fate: derived, set: func(k *record.Key) { k.KeepBound = true }, code: record.CodeBudgetTooSmall,
			by: asks{method: "POST", path: "/v1/chat/completions", body: `{"model":"gpt-5-mini","messages":[],"max_tokens":100000}`}},
		"unknown_price": {fate: derived, set: func(k *record.Key) { k.CountOnly = true }, by: chat("made-up")},
		"self_revoke":   {fate: derived, set: func(k *record.Key) { k.SelfRevoke = false }, code: record.CodeMethodNotAllowed, by: asks{method: "DELETE", path: "/till/self"}},

		"max_request_spend_usd": {fate: asked, set: func(k *record.Key) { k.MaxRequestSpend = 1000 }, code: record.CodeBudgetTooSmall},
		"rate":                  {fate: asked, set: func(k *record.Key) { k.Rate = record.Rate{N: 1, Per: 24 * time.Hour} }},
		"max_concurrency":       {fate: asked, set: func(k *record.Key) { k.MaxConcurrency = 1 }},
		"expires_at":            {fate: asked, set: func(k *record.Key) { k.ExpiresAt = time.Now().Add(time.Hour) }},
		"idle_timeout":          {fate: asked, set: func(k *record.Key) { k.IdleTimeout = time.Nanosecond }, code: record.CodeKeyIdle},
		"first_use_within":      {fate: asked, set: func(k *record.Key) { k.FirstUseWithin = time.Nanosecond }}, // a mint is a use
		"models":                {fate: asked, set: models("gpt-4o"), code: record.CodeModelNotAllowed},
		"paths":                 {fate: asked, set: func(k *record.Key) { k.Scope.Paths = []string{"/v1/embeddings"} }, code: record.CodePathNotAllowed},
		"methods":               {fate: asked, set: func(k *record.Key) { k.Scope.Methods = []string{"GET"} }, code: record.CodeMethodNotAllowed},
		"ips":                   {fate: asked, set: func(k *record.Key) { k.Scope.IPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, code: record.CodeIPNotAllowed},
		"pin_ip":                {fate: asked, set: func(k *record.Key) { k.Scope.PinIP = true }},

		"upstream": {set: func(k *record.Key) { k.Upstream = "raw" }},
		"custody":  {set: func(k *record.Key) { k.Custody = record.CustodySealed }},
		"role":     {set: func(k *record.Key) { k.Role = "other" }},
		"delegate": {set: func(k *record.Key) { k.Delegate = false }},
	}
	coversEveryField(t, slices.Collect(maps.Keys(tests)))
	for field, test := range tests {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil)
			top := s.mint(limit(record.Tokens, 80_000), limit(record.Nanodollars, 5_000_000_000))
			child := s.offspring(t, top)
			below := s.offspring(t, child)
			of := func(k minted) any {
				key := s.view(k).Key
				at := slices.IndexFunc(record.KeyFields, func(f record.Field) bool { return f.Name == field })
				return record.KeyFields[at].Fact(&key)
			}
			before := map[minted]any{top: of(top), child: of(child), below: of(below)}
			_, err := s.Change(context.Background(), limiter.Operator, top.id, 0, func(k *record.Key) error {
				test.set(k)
				return nil
			})
			if (err != nil) != (test.fate == refused) {
				t.Fatalf("the change: %v", err)
			}
			if err != nil && err.Error() != "charge cannot be changed while the key has child keys, 1 of them, whose it is, too: revoke them first" {
				t.Errorf("the refusal says: %v", err)
			}
			changed := !reflect.DeepEqual(of(top), before[top])
			if want := test.fate != fixed && test.fate != refused; changed != want {
				t.Fatalf("the parent's changed: %t, want %t", changed, want)
			}
			for _, k := range []minted{child, below} {
				want := before[k]
				if test.fate == derived {
					want = of(top)
				}
				if got := of(k); !reflect.DeepEqual(got, want) {
					t.Errorf("below it stands %v, want %v", got, want)
				}
				a := test.by
				if a.path == "" {
					a = chat("gpt-5-mini")
				}
				if _, code, says := s.serve(k, a); code != test.code && !(field == "rate" && code == record.CodeRateLimited) {
					t.Errorf("a request is answered with %q, want %q: %s", code, test.code, says)
				}
			}
		})
	}
}

// TestAParentNarrowedToPathsBindsTheDestinationsOfItsChildren: what a header names is a
// path of the request, too, and ancestors are checked for all of it.
func TestAParentNarrowedToPathsBindsTheDestinationsOfItsChildren(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	top := s.mint(func(k *record.Key) { k.Upstream = "raw" })
	child := s.offspring(t, top)
	move := asks{method: "MOVE", path: "/a/x", header: http.Header{"Destination": {"/b/y"}}}
	copies := asks{method: "PUT", path: "/a/x", body: "x", header: http.Header{"X-Copy-From": {"/b/y"}, "Content-Type": {"text/plain"}}}
	for _, a := range []asks{move, copies} {
		if _, code, says := s.serve(child, a); code != "" {
			t.Errorf("%s of a key without paths: %s", a.method, says)
		}
	}
	s.change(top, func(k *record.Key) { k.Scope.Paths = []string{"/a/*"} })
	for _, a := range []asks{move, copies} {
		if _, code, says := s.serve(child, a); code != record.CodePathNotAllowed {
			t.Errorf("%s below a key that is limited to other paths: %q %s", a.method, code, says)
		}
	}
	move.header.Set("Destination", "/a/y")
	if _, code, says := s.serve(child, move); code != "" {
		t.Errorf("to where it may: %s", says)
	}
}
