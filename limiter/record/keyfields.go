package record

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
)

// KeyFields are all fields of a key. Where several are wrong, errors name the first.
var KeyFields = slices.Concat([]Field{
	{Name: "name", Doc: "a name for people", Choice: Always, Address: func(k *Key) any { return &k.Name },
		valid: func(name string, k *Key) error { return ValidText(name, k.Name) }},
	{Name: "upstream", Doc: "the API that the key is for; in a sum, by upstream", Choice: AtMint, Inherited: true, equal: true,
		Address: func(k *Key) any { return &k.Upstream },
		valid: func(name string, k *Key) error {
			return invalidIf(k.Upstream == "", name, "must name a configured upstream")
		},
		hold: func(r *Role, _ bool, old, key *Key) string {
			return when(old == nil && len(r.Upstreams) > 0 && !slices.Contains(r.Upstreams, key.Upstream),
				"must be one of %s, got %s", strings.Join(r.Upstreams, ", "), key.Upstream)
		}},
	{Name: "custody", Doc: "where the real key is: held by the server, or sealed into the key's string", Choice: AtMint, Inherited: true, equal: true,
		Address: func(k *Key) any { return &k.Custody }},
	{Name: "role", Doc: "the role: ceilings and a shared budget", Choice: AtMint, Inherited: true, OfParent: true, equal: true,
		Address: func(k *Key) any { return &k.Role },
		valid:   func(name string, k *Key) error { return ValidText(name, k.Role) }},
	{Name: "owner", Doc: "who answers for the key", Choice: WhileAlive, Inherited: true, OfParent: true, Address: func(k *Key) any { return &k.Owner },
		valid: func(name string, k *Key) error { return ValidText(name, k.Owner) }},
	{Name: "purpose", Doc: "what the key is for", Choice: WhileAlive, Address: func(k *Key) any { return &k.Purpose },
		valid: func(name string, k *Key) error { return ValidText(name, k.Purpose) }},
	{Name: "labels", Doc: "pairs for people and filters", Choice: Always, Address: func(k *Key) any { return &k.Labels },
		valid: func(name string, k *Key) error { return validPairs(name, k.Labels) }},
	{Name: "metadata", Doc: "pairs for programs", Choice: WhileAlive, Address: func(k *Key) any { return &k.Metadata },
		valid: func(name string, k *Key) error { return validPairs(name, k.Metadata) }},

	limitField(Activations, "requests that may be admitted; 0 makes a canary"),
	limitField(Tokens, "tokens of input and output that may be used"),
	limitField(Nanodollars, `what may be spent, in USD: "5.00"`),
	{Address: func(k *Key) any { return &k.Limit[Attempts] }, none: NoLimit}, // follows from activations
	{Name: "charge", Doc: "which requests take an activation: forwarded (default) or success", Choice: WhileAlive, Inherited: true, OfParent: true, equal: true,
		Address: func(k *Key) any { return &k.Charge }, none: ChargeForwarded,
		valid: func(name string, k *Key) error {
			switch activations := k.Limit[Activations]; {
			case !slices.Contains(Charges[:], k.Charge):
				return Invalid(name, "must be %s, got %q", Either(Charges[:]), k.Charge)
			case k.Charge != ChargeSuccess:
				return nil
			case activations == NoLimit:
				return Invalid(name, `"success" needs max_activations: it bounds how often may be tried`)
			case activations > MaxAmount/2:
				return Invalid(Activations.LimitField(), "must be at most %d with charge success", MaxAmount/2)
			}
			return nil
		},
		widens: func(key, old *Key) bool { return key.Charge == ChargeSuccess && old.Charge != key.Charge }},
	{Name: "fit", Doc: "lower the output bound of requests to what is left, instead of refusing them; default true", Choice: WhileAlive, Inherited: true, OfParent: true, equal: true,
		Address: func(k *Key) any { return &k.KeepBound },
		widens:  func(_, _ *Key) bool { return false }, // neither value is wider
		fact:    func(k *Key) any { return shown(k.KeepBound, false) }},
	{Name: "renews", Doc: "when limits reset, by the UTC calendar", Choice: WhileAlive, OfParent: true,
		Address: func(k *Key) any { return &k.Renews },
		valid: func(name string, k *Key) error {
			if k.Renews == "" {
				return nil
			}
			if _, err := ParseRenewal(string(k.Renews)); err != nil {
				return Invalid(name, "must be %s, got %q", Either(Renewals[:]), k.Renews)
			}
			return invalidIf(k.Limit == NoLimits(), name, "needs max_activations, max_tokens or max_spend_usd: they are what renews")
		},
		widens: func(key, old *Key) bool { return key.Renews != "" && key.Renews != old.Renews },
		wider: func(c, _ *Key) string {
			return when(c.Renews != "", "cannot be set on a child key: its budget was carved out of its parent's once")
		},
		hold: func(r *Role, _ bool, old, key *Key) string {
			return when(r.Max != (Amounts{}) && key.Renews != "" && (old == nil || old.Renews != key.Renews),
				"must be left out, because a budget that begins again has no total")
		}},
	{Name: "unknown_price", Doc: "requests without a known price: refuse (default) or count_only", Choice: WhileAlive, Inherited: true, OfParent: true, equal: true,
		Address: func(k *Key) any { return &k.CountOnly },
		widens:  func(key, old *Key) bool { return key.CountOnly && !old.CountOnly },
		fact:    func(k *Key) any { return shown(k.CountOnly, "count_only") },
		hold: func(r *Role, operator bool, old, key *Key) string {
			counted := r.Max[Nanodollars] != 0 || r.Budget.Limit[Nanodollars] != NoLimit
			return when(counted && key.CountOnly && !operator && (old == nil || !old.CountOnly),
				"must be refuse, because count_only lets requests pass that cost an unknown amount")
		}},
	{Name: "max_request_spend_usd", Doc: "what one request may cost at most, in USD", Choice: WhileAlive, Inherited: true,
		valid: func(name string, k *Key) error {
			return invalidIf(k.MaxRequestSpend < 0 || k.MaxRequestSpend > MaxAmount,
				name, "must not be negative, got $%s", FormatUSD(k.MaxRequestSpend))
		},
		Address: func(k *Key) any { return &k.MaxRequestSpend }, wider: atMost(func(k *Key) int64 { return k.MaxRequestSpend }, Nanodollars.Format),
		fact: func(k *Key) any { return shown(k.MaxRequestSpend > 0, FormatUSD(k.MaxRequestSpend)) }},

	{Name: "expires_at", Doc: "end of life, RFC 3339", Choice: WhileAlive, Inherited: true, Address: func(k *Key) any { return &k.ExpiresAt },
		valid: func(name string, k *Key) error { return ValidTime(name, k.ExpiresAt) },
		wider: func(c, p *Key) string {
			return when(!p.ExpiresAt.IsZero() && (c.ExpiresAt.IsZero() || c.ExpiresAt.After(p.ExpiresAt)),
				"must be at most %s, when its parent key expires", Stamp(p.ExpiresAt))
		},
		hold: func(r *Role, _ bool, old, key *Key) string {
			if r.MaxLifetime <= 0 || old != nil && key.ExpiresAt.Equal(old.ExpiresAt) {
				return ""
			}
			switch last := key.CreatedAt.Add(r.MaxLifetime); {
			case key.ExpiresAt.IsZero(), key.ExpiresAt.After(last) && key.ExpiresAt.Sub(last) <= lifetimeSlack:
				key.ExpiresAt = last
			case key.ExpiresAt.After(last):
				return fmt.Sprintf("may be %s at the latest, %s after the key was made, got %s", Stamp(last), r.MaxLifetime, Stamp(key.ExpiresAt))
			}
			return ""
		},
		lacks: func(as *Key) string {
			return fmt.Sprintf("may be %s at the latest, and the key does not expire", Stamp(as.ExpiresAt))
		}},
	{Name: "idle_timeout", Doc: "ends when unused for this long", Choice: WhileAlive, Inherited: true,
		Address: func(k *Key) any { return &k.IdleTimeout }, wider: atMost(func(k *Key) time.Duration { return k.IdleTimeout }, time.Duration.String),
		valid: func(name string, k *Key) error {
			return invalidIf(k.IdleTimeout < 0, name, "must not be negative, got %s", k.IdleTimeout)
		}},
	{Name: "first_use_within", Doc: "ends unless first used within this time", Choice: WhileAlive, Inherited: true,
		Address: func(k *Key) any { return &k.FirstUseWithin }, wider: atMost(func(k *Key) time.Duration { return k.FirstUseWithin }, time.Duration.String),
		valid: func(name string, k *Key) error {
			return invalidIf(k.FirstUseWithin < 0, name, "must not be negative, got %s", k.FirstUseWithin)
		}},
	{Name: "rate", Doc: "requests per time: 60/m is a bucket of 60", Choice: WhileAlive, Inherited: true, Address: func(k *Key) any { return &k.Rate },
		wider: func(c, p *Key) string {
			return when(!p.Rate.IsZero() && (c.Rate.IsZero() || c.Rate.N > p.Rate.N || c.Rate.faster(p.Rate)),
				"must be at most %s, as of its parent key, in number and in speed", p.Rate)
		}},
	{Name: "max_concurrency", Doc: "requests that may run at a time; at an upstream without a preset, as many event streams beside them", Choice: WhileAlive, Inherited: true,
		Address: func(k *Key) any { return &k.MaxConcurrency }, wider: atMost(func(k *Key) int { return k.MaxConcurrency }, strconv.Itoa),
		valid: func(name string, k *Key) error {
			return invalidIf(k.MaxConcurrency < 0 || k.MaxConcurrency > maxConcurrency,
				name, "must be from 1 to %d, or 0 for no limit, got %d", maxConcurrency, k.MaxConcurrency)
		}},
	{Name: "self_revoke", Doc: "whether the holder may revoke the key; default true", Choice: WhileAlive, Inherited: true, stays: true,
		Address: func(k *Key) any { return &k.SelfRevoke }, wider: onlyIf(func(k *Key) bool { return k.SelfRevoke }),
		fact: func(k *Key) any { return k.SelfRevoke }},
	{Name: "delegate", Doc: "the holder may mint child keys out of this one's limits", Choice: AtMint,
		Address: func(k *Key) any { return &k.Delegate }, wider: onlyIf(func(k *Key) bool { return k.Delegate })},
	{Name: "pin_ip", Doc: "binds the key to the first address that uses it, IPv6 by /64", Choice: WhileAlive, Inherited: true,
		Address: func(k *Key) any { return &k.Scope.PinIP },
		wider: func(c, p *Key) string {
			return when(p.Scope.PinIP && !c.Scope.PinIP, "must be true, as of its parent key")
		}},
	scopeField("models", "models that may be used; a * at the end stands for the rest", func(s *scope.Scope) *[]string { return &s.Models }),
	scopeField("paths", "paths that may be used; * stands for a segment, at the end for one or more", func(s *scope.Scope) *[]string { return &s.Paths }),
	scopeField("methods", "methods that may be used", func(s *scope.Scope) *[]string { return &s.Methods }),
	scopeField("ips", "addresses or networks from which it may be used", func(s *scope.Scope) *[]netip.Prefix { return &s.IPs }),

	{Name: "parent", Address: func(k *Key) any { return &k.Parent }},
	{Name: "status", Address: func(k *Key) any { return &k.EndedStatus }, fact: func(k *Key) any { return string(k.Recorded()) }},
	{Name: "ended_reason", Address: func(k *Key) any { return &k.EndedReason }},
	{Name: "suspended_by", Address: func(k *Key) any { return &k.SuspendedBy }, fact: func(k *Key) any {
		return shown(!k.SuspendedAt.IsZero(), token.Scrub(k.SuspendedBy.Title()))
	}},
	{Name: "stale_told_at", Address: func(k *Key) any { return &k.StaleToldAt }},
	{Name: "rotations", Address: func(k *Key) any { return &k.Rotations }, fact: func(k *Key) any { return shown(len(k.Former) > 0, k.Rotations) }},
	{Name: "grace_ends_at", Address: func(k *Key) any { return &k.Former }, fact: func(k *Key) any {
		if n := len(k.Former); n > 0 {
			return Stamp(k.Former[n-1].Until)
		}
		return nil
	}},
}, unnamed(func(k *Key) []any {
	return []any{
		&k.ID, &k.Lookup, &k.Version, &k.Depth, &k.Carved, &k.CarvedNow, &k.CarvedIn, &k.CarvedLineage, &k.ReturnedAt, &k.SealKey, &k.Origins, &k.Fingerprint,
		&k.RotatedAt, &k.CreatedAt, &k.CreatedBy, &k.Token, &k.SuspendedAt, &k.RevivedAt, &k.EndedAt, &k.Judged, &k.Due,
	}
}))

// unnamed are rows of fields that are neither chosen nor shown.
func unnamed(at func(*Key) []any) (rows []Field) {
	for i := range at(new(Key)) {
		rows = append(rows, Field{Address: func(k *Key) any { return at(k)[i] }})
	}
	return rows
}

// when is a demand that is not met; empty if it is.
func when(broken bool, format string, args ...any) string {
	if broken {
		return fmt.Sprintf(format, args...)
	}
	return ""
}

// shown is a value that the audit log shows if it is set.
func shown(set bool, value any) any {
	if set {
		return value
	}
	return nil
}

// limitField is the limit of a kind. A child's limit is not compared with its parent's,
// because it is carved out of what the parent has left.
func limitField(kind Kind, doc string) Field {
	return Field{
		Name: kind.LimitField(), Doc: doc, Choice: WhileAlive,
		Address: func(k *Key) any { return &k.Limit[kind] }, none: NoLimit,
		valid: func(name string, k *Key) error {
			limit := k.Limit[kind]
			return invalidIf(limit < NoLimit || limit > MaxAmount, name, "must be from 0 to %d, got %d", MaxAmount, limit)
		},
		fact: func(k *Key) any { return shown(k.Limit[kind] != NoLimit, kind.Value(k.Limit[kind])) },
		wider: func(c, p *Key) string {
			return when(p.Limit[kind] != NoLimit && c.Limit[kind] == NoLimit, "must be set: parent key %s is limited in it", p.ID)
		},
		widens: func(key, old *Key) bool { return Exceeds(key.Limit[kind], old.Limit[kind]) },
		hold: func(r *Role, _ bool, old, key *Key) string {
			switch n, most := key.Limit[kind], r.Max[kind]; {
			case most == 0, old != nil && n == old.Limit[kind]:
			case n == NoLimit:
				key.Limit[kind] = most
			case n > most:
				return fmt.Sprintf("may be %s in all, got %s", kind.Format(most), kind.Format(n))
			}
			return ""
		},
		lacks: func(as *Key) string {
			return fmt.Sprintf("may be %s in all, and the key has no such limit", kind.Format(as.Limit[kind]))
		},
	}
}

// scopeField is one of the scope's lists; an empty list allows everything.
func scopeField[T comparable](name, doc string, at func(*scope.Scope) *[]T) Field {
	beyond := func(s, ceiling scope.Scope) (field, rule string) {
		var list, within scope.Scope
		*at(&list), *at(&within) = *at(&s), *at(&ceiling)
		return list.Beyond(within)
	}
	return Field{
		Name: name, Doc: doc, Choice: WhileAlive, Inherited: true, Address: func(k *Key) any { return at(&k.Scope) },
		wider: func(c, p *Key) string {
			switch field, rule := beyond(c.Scope, p.Scope); {
			case field == "":
				return ""
			case rule == "":
				return "must not be empty: its parent key is limited in them"
			default:
				return "must be within those of its parent key, and " + rule + " is not"
			}
		},
		hold: func(r *Role, _ bool, old, key *Key) string {
			list := at(&key.Scope)
			if len(*list) == 0 && (old == nil || len(*at(&old.Scope)) > 0) {
				*list = slices.Clone(*at(&r.Scope))
			}
			if old != nil && slices.Equal(*list, *at(&old.Scope)) {
				return ""
			}
			field, rule := beyond(key.Scope, r.Scope)
			return when(field != "", "must be within what the role allows, got %q", rule)
		},
		lacks: func(*Key) string { return "must be within what the role allows, and the key allows all" },
	}
}

func atMost[T ~int | ~int64](of func(*Key) T, print func(T) string) func(child, parent *Key) string {
	return func(c, p *Key) string {
		if most := of(p); most > 0 && (of(c) == 0 || of(c) > most) {
			return "must be at most " + print(most) + ", as of its parent key"
		}
		return ""
	}
}

func onlyIf(of func(*Key) bool) func(child, parent *Key) string {
	return func(c, p *Key) string { return when(of(c) && !of(p), "must be false, as of its parent key") }
}
