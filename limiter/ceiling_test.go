package limiter_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
)

// capped is a role with every ceiling, and every permission over keys.
func capped() record.Role {
	r := record.NewRole()
	r.Permissions = []record.Permission{record.KeysCreate, record.KeysRead, record.KeysUpdate, record.KeysRevoke, record.KeysRotate}
	r.Max = record.Amounts{record.Activations: 500, record.Tokens: 1e6, record.Nanodollars: 5e9}
	r.MaxLifetime = 24 * time.Hour
	r.Upstreams = []string{"openai", "anthropic"}
	r.Scope = scope.Scope{
		Models: []string{"gpt-5-mini", "claude-haiku-*"}, Methods: []string{"POST"},
		Paths: []string{"/v1/chat/completions", "/v1/messages"}, IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}
	return r
}

// TestNothingRaisesAKeyAboveACeiling lets a caller of a role, and the operator,
// mint, change, grant and rotate as they please.
func TestNothingRaisesAKeyAboveACeiling(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		defer w.Abandon()
		role := capped()
		wide := record.NewRole() // may do the same, without ceilings of its own
		wide.Permissions, wide.Sees = role.Permissions, record.SeesAll
		w.roles = map[string]record.Role{"capped": role, "wide": wide}
		if err := w.SetRoles(w.roles); err != nil {
			rt.Fatal(err)
		}
		_, member := w.hire(limiter.Operator, "member", "capped")
		_, other := w.hire(limiter.Operator, "other", "wide")
		var ids []string
		lookups := make(map[string]token.Lookup)
		amount := rapid.OneOf(rapid.Int64Range(-1, 600), rapid.SampledFrom([]int64{500, 501, 1e6, 1e6 + 1, 5e9, 5e9 + 1, 1 << 61}))
		some := func(rt *rapid.T, name string, from ...string) []string {
			if rapid.Bool().Draw(rt, name+" set") {
				return nil
			}
			return rapid.SliceOfN(rapid.SampledFrom(from), 1, 2).Draw(rt, name)
		}
		alter := func(rt *rapid.T, k *record.Key) {
			k.Limit = record.Amounts{amount.Draw(rt, "activations"), amount.Draw(rt, "tokens"), amount.Draw(rt, "spend"), -1}
			k.Renews = rapid.SampledFrom([]record.Renewal{"", "", record.Daily}).Draw(rt, "renews")
			k.CountOnly = rapid.IntRange(0, 3).Draw(rt, "count only") == 0
			k.Charge = rapid.SampledFrom([]record.Charge{record.ChargeForwarded, record.ChargeSuccess}).Draw(rt, "charge")
			k.ExpiresAt = time.Time{}
			if h := rapid.IntRange(0, 30).Draw(rt, "hours"); h > 0 {
				k.ExpiresAt = w.clock.time().Add(time.Duration(h) * time.Hour)
			}
			k.Scope.Models = some(rt, "models", "gpt-5-mini", "claude-haiku-*", "claude-haiku-4", "claude-*", "o3", "*")
			k.Scope.Methods = some(rt, "methods", "POST", "GET")
			k.Scope.Paths = some(rt, "paths", "/v1/messages", "/v1/*", "/v1/files")
			k.Scope.IPs = nil
			if rapid.Bool().Draw(rt, "ips") {
				k.Scope.IPs = []netip.Prefix{netip.MustParsePrefix(rapid.SampledFrom([]string{"10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "::/0"}).Draw(rt, "ip"))}
			}
		}
		expected := func(rt *rapid.T, err error) {
			var wrong *record.InvalidError
			var above *record.CeilingError
			if err != nil && !errors.As(err, &wrong) && !errors.As(err, &above) && !errors.Is(err, limiter.ErrForbidden) &&
				!errors.Is(err, limiter.ErrDead) && !errors.Is(err, store.ErrNotFound) {
				rt.Fatal(err)
			}
		}
		callers := []limiter.Caller{member, member, other, limiter.Operator}
		pick := func(rt *rapid.T) (limiter.Caller, string) {
			by := rapid.SampledFrom(callers).Draw(rt, "by")
			if len(ids) == 0 {
				rt.Skip("no key")
			}
			return by, rapid.SampledFrom(ids).Draw(rt, "key")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"mint": func(rt *rapid.T) {
				k := spec()
				by := rapid.SampledFrom([]limiter.Caller{member, limiter.Operator}).Draw(rt, "by")
				k.Role = rapid.SampledFrom([]string{"", "capped", "wide"}).Draw(rt, "role")
				if by.Name == "operator" {
					k.Role = "capped"
				}
				k.Upstream = rapid.SampledFrom([]string{"openai", "github"}).Draw(rt, "upstream")
				alter(rt, k)
				text := lookup()
				v, err := w.Mint(by, k, limiter.Birth{Lookup: text, Unlimited: true})
				expected(rt, err)
				if err == nil {
					ids, lookups[v.ID] = append(ids, v.ID), text
				}
			},
			"change": func(rt *rapid.T) {
				by, id := pick(rt)
				next := spec()
				alter(rt, next)
				_, err := w.Change(ctx, by, id, 0, func(k *record.Key) error {
					k.Limit, k.Renews, k.CountOnly, k.Charge, k.ExpiresAt, k.Scope = next.Limit, next.Renews, next.CountOnly, next.Charge, next.ExpiresAt, next.Scope
					k.Role, k.Upstream, k.Token, k.CreatedAt = "wide", "github", "", w.clock.time().Add(time.Hour)
					return nil
				})
				expected(rt, err)
			},
			"grant": func(rt *rapid.T) {
				by, id := pick(rt)
				_, err := w.GrantMore(ctx, by, id, limiter.More{
					Activations: max(amount.Draw(rt, "activations"), 0), Tokens: max(amount.Draw(rt, "tokens"), 0),
					Nanodollars: max(amount.Draw(rt, "spend"), 0), Lifetime: time.Duration(rapid.IntRange(0, 25).Draw(rt, "hours")) * time.Hour,
				})
				expected(rt, err)
			},
			"rotate": func(rt *rapid.T) {
				by, id := pick(rt)
				text := lookup()
				_, _, err := w.Rotate(by, id, record.Issue{Lookup: text}, 0)
				expected(rt, err)
				if err == nil {
					lookups[id] = text
				}
			},
			"delegate": func(rt *rapid.T) {
				_, id := pick(rt)
				parent, refusal := w.Find(ctx, lookups[id])
				if refusal != nil {
					rt.Skip(refusal)
				}
				if !parent.Key().Delegate {
					rt.Skip("it may not delegate")
				}
				child, text := parent.Key().Child(), lookup()
				alter(rt, child)
				child.Charge, child.CountOnly = parent.Key().Charge, parent.Key().CountOnly // not its to say
				v, err := w.Delegate(ctx, parent, &limiter.Ask{Addr: netip.MustParseAddr("10.1.0.1")}, child, limiter.Birth{Lookup: text, Unlimited: true})
				if !errors.As(err, &refusal) {
					expected(rt, err)
				}
				if err == nil {
					ids, lookups[v.ID] = append(ids, v.ID), text
				}
			},
			"time": func(rt *rapid.T) { w.clock.advance(time.Duration(rapid.IntRange(1, 10).Draw(rt, "hours")) * time.Hour) },
			"": func(rt *rapid.T) {
				for _, id := range ids {
					v, err := w.Get(limiter.Operator, id)
					if err != nil {
						rt.Fatal(err)
					}
					for kind, most := range role.Max {
						if n := v.Limit[kind]; most > 0 && (n == record.NoLimit || n > most) {
							rt.Fatalf("%s of %d, above %d", record.Kind(kind), n, most)
						}
					}
					if v.ExpiresAt.IsZero() || v.ExpiresAt.Sub(v.CreatedAt) > role.MaxLifetime {
						rt.Fatalf("made at %s, it ends at %s", v.CreatedAt, v.ExpiresAt)
					}
					if field, rule := v.Scope.Beyond(role.Scope); field != "" {
						rt.Fatalf("%s %q is beyond the role", field, rule)
					}
					if v.Role != "capped" || v.Upstream == "github" || v.Renews != "" {
						rt.Fatalf("role %s, upstream %s, renews %q", v.Role, v.Upstream, v.Renews)
					}
				}
			},
		})
	})
}

func TestWhatAMintLeavesOutTakesTheCeiling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.roles = map[string]record.Role{"capped": capped()}
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	_, by := w.hire(limiter.Operator, "anna", "capped")
	v, err := w.Mint(by, &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits()}, limiter.Birth{Lookup: lookup()})
	if err != nil {
		t.Fatal(err)
	}
	r := capped()
	if v.Limit != (record.Amounts{500, 1e6, 5e9, -1}) || !v.ExpiresAt.Equal(v.CreatedAt.Add(r.MaxLifetime)) ||
		len(v.Scope.Models) != 2 || len(v.Scope.Paths) != 2 || len(v.Scope.Methods) != 1 || len(v.Scope.IPs) != 1 || v.Role != "capped" {
		t.Errorf("minted %+v", v.Key)
	}
	var wrong *record.InvalidError
	_, err = w.Mint(by, &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits()}, limiter.Birth{Lookup: lookup(), Unmetered: true})
	if !errors.As(err, &wrong) {
		t.Errorf("at an upstream that does not tell its use: %v", err)
	}
}

// TestACeilingThatWasLoweredLeavesWhatDoesNotChange is about reloads.
func TestACeilingThatWasLoweredLeavesWhatDoesNotChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	role := capped()
	if err := w.SetRoles(map[string]record.Role{"capped": role}); err != nil {
		t.Fatal(err)
	}
	_, by := w.hire(limiter.Operator, "anna", "capped")
	v, err := w.Mint(by, &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits()}, limiter.Birth{Lookup: lookup()})
	if err != nil {
		t.Fatal(err)
	}
	role.Max[record.Activations], role.Scope.Models = 100, []string{"gpt-5-mini"}
	if err := w.SetRoles(map[string]record.Role{"capped": role}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Change(ctx, by, v.ID, 0, func(k *record.Key) error { k.Name = "renamed"; return nil }); err != nil {
		t.Errorf("a name: %v", err)
	}
	var above *record.CeilingError
	for n, refused := range map[int64]bool{400: true, 101: true, 100: false} {
		_, err := w.Change(ctx, by, v.ID, 0, func(k *record.Key) error { k.Limit[record.Activations] = n; return nil })
		if errors.As(err, &above) != refused {
			t.Errorf("%d activations: %v", n, err)
		}
	}
	if _, err := w.GrantMore(ctx, by, v.ID, limiter.More{Activations: 1}); !errors.As(err, &above) {
		t.Errorf("one more: %v", err)
	}
}
