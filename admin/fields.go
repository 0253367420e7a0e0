package admin

import (
	"cmp"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// noZero is the error for a zero where it would mean that there is no rule: a
// program that never set the field sends a zero, too.
const noZero = "must be more than 0: leave it out, or set it to null, for none"

// apply sets the given fields on a key. expires_in counts from now.
func apply(s *wire.Settable, k *record.Key, now time.Time) error {
	set(&k.Name, s.Name)
	set(&k.Limit[record.Activations], s.MaxActivations)
	if s.MaxActivations != nil && *s.MaxActivations < 0 {
		return invalid("max_activations must not be negative, got %d", *s.MaxActivations)
	}
	set(&k.Limit[record.Tokens], s.MaxTokens)
	if s.MaxTokens != nil && *s.MaxTokens < 0 {
		return invalid("max_tokens must not be negative, got %d", *s.MaxTokens)
	}
	if s.MaxSpendCents != nil {
		if *s.MaxSpendCents < 0 || *s.MaxSpendCents > 1e11 {
			return invalid("max_spend_cents must be from 0 to 100000000000, got %d", *s.MaxSpendCents)
		}
		k.Limit[record.Nanodollars] = *s.MaxSpendCents * 1e7
		if s.MaxSpendUSD != nil && int64(*s.MaxSpendUSD) != k.Limit[record.Nanodollars] {
			return invalid("max_spend_usd and max_spend_cents are two different amounts; set one")
		}
	}
	set((*wire.Dollars)(&k.Limit[record.Nanodollars]), s.MaxSpendUSD)
	set((*wire.Dollars)(&k.MaxRequestSpend), s.MaxRequestUSD)
	if s.MaxRequestUSD != nil && *s.MaxRequestUSD == 0 {
		return invalid("max_request_spend_usd must be more than 0")
	}
	set(&k.Renews, s.Renews)
	if s.Fit != nil {
		k.KeepBound = !*s.Fit
	}
	if s.UnknownPrice != nil {
		if *s.UnknownPrice != "refuse" && *s.UnknownPrice != "count_only" {
			return invalid(`unknown_price must be "refuse" or "count_only", got %q`, *s.UnknownPrice)
		}
		k.CountOnly = *s.UnknownPrice == "count_only"
	}
	switch {
	case s.ExpiresIn != nil && s.ExpiresAt != nil:
		return invalid("set expires_in or expires_at, not both")
	case s.ExpiresIn != nil:
		if *s.ExpiresIn == 0 {
			return invalid("expires_in must be more than 0")
		}
		k.ExpiresAt = now.UTC().Add(time.Duration(*s.ExpiresIn))
	case s.ExpiresAt != nil:
		if s.ExpiresAt.IsZero() {
			return invalid("expires_at %s", noZero)
		}
		k.ExpiresAt = s.ExpiresAt.UTC()
	}
	switch {
	case s.IdleTimeout != nil && *s.IdleTimeout == 0:
		return invalid("idle_timeout %s", noZero)
	case s.FirstUseWithin != nil && *s.FirstUseWithin == 0:
		return invalid("first_use_within %s", noZero)
	case s.MaxConcurrency != nil && *s.MaxConcurrency == 0:
		return invalid("max_concurrency %s", noZero)
	}
	set((*wire.Span)(&k.IdleTimeout), s.IdleTimeout)
	set((*wire.Span)(&k.FirstUseWithin), s.FirstUseWithin)
	set(&k.Rate, s.Rate)
	set(&k.MaxConcurrency, s.MaxConcurrency)
	set(&k.Scope.Models, s.Models)
	set(&k.Scope.Paths, s.Paths)
	set(&k.Scope.Methods, s.Methods)
	set(&k.Scope.PinIP, s.PinIP)
	if s.IPs != nil {
		k.Scope.IPs = nil
		for _, text := range *s.IPs {
			p, err := scope.ParseIP(text)
			if err != nil {
				return invalid("ips: %s", strings.TrimPrefix(err.Error(), "ips "))
			}
			k.Scope.IPs = append(k.Scope.IPs, p)
		}
	}
	set(&k.Owner, s.Owner)
	set(&k.Purpose, s.Purpose)
	set(&k.Labels, s.Labels)
	set(&k.Metadata, s.Metadata)
	set(&k.SelfRevoke, s.SelfRevoke)
	set(&k.Charge, s.Charge)
	return nil
}

// keyChange is the body of a PATCH: a field that is null goes back to its default.
type keyChange struct {
	wire.ChangeBody
	gone []*record.Field
}

// otherNames maps the second names of fields, which take another form of the value,
// to their first names.
var otherNames = map[string]string{"max_spend_cents": "max_spend_usd", "expires_in": "expires_at"}

func (b *keyChange) unset(name string) bool {
	f := record.FieldNamed(cmp.Or(otherNames[name], name))
	if f == nil || !f.Clearable() {
		return false
	}
	b.gone = append(b.gone, f)
	return true
}

// change applies the body to a key. It may be called more than once.
func (b *keyChange) change(k *record.Key, now time.Time) error {
	if err := apply(&b.Settable, k, now); err != nil {
		return err
	}
	for _, f := range b.gone {
		f.Clear(k)
	}
	return nil
}

// checkBounded refuses a change that would leave a key without any bound.
func (b *keyChange) checkBounded(old, k *record.Key) error {
	if !k.Bounded() && old.Bounded() && !b.Unlimited {
		return invalid(`this would leave a key that nothing ends by itself: keep max_activations, max_tokens, max_spend_usd or expires_at, or set "unlimited": true`)
	}
	return nil
}

// keyOf makes the key that a mint asks for. choices are the upstreams that it may
// be for if it names none.
func keyOf(b *wire.MintBody, upstreams, choices []wire.UpstreamInfo, now time.Time) (*record.Key, error) {
	name := b.Upstream
	if name == "" {
		name = b.Provider
	} else if b.Provider != "" && b.Provider != name {
		return nil, invalid("upstream and provider name two different upstreams; set one")
	}
	sealed := !b.UpstreamKey.IsZero()
	u, err := pickUpstream(name, upstreams, choices, sealed)
	if err != nil {
		return nil, err
	}
	custody := record.CustodyHeld
	if sealed {
		custody = record.CustodySealed
	}
	k := &record.Key{
		Upstream: u.Name, Custody: custody, Role: b.Role, Limit: record.NoLimits(), SelfRevoke: true,
		Charge: record.ChargeForwarded, Delegate: b.Delegate,
	}
	if err := apply(&b.Settable, k, now); err != nil {
		return nil, err
	}
	return k, meterable(k, u.Dialect)
}

// meterable refuses limits that could not be enforced at an upstream.
func meterable(k *record.Key, dialect string) error {
	for _, kind := range record.LimitKinds {
		if kind.Metered() && k.Limit[kind] != record.NoLimit && dialect == "" {
			return invalid("%s needs an upstream with a preset, because it is not known how %s reports its use; limit max_activations instead", kind.LimitField(), k.Upstream)
		}
	}
	return nil
}

// pickUpstream finds the upstream that a key is for: the named one, or the only one
// of the choices for which a key can be minted.
func pickUpstream(name string, upstreams, choices []wire.UpstreamInfo, sealed bool) (wire.UpstreamInfo, error) {
	var names, may []string
	var fit []wire.UpstreamInfo
	for _, u := range choices {
		may = append(may, u.Name)
		if u.Held || sealed {
			fit = append(fit, u)
		}
	}
	for _, u := range upstreams {
		names = append(names, u.Name)
		if u.Name == name {
			if !u.Held && !sealed {
				return u, invalid("upstream %s has no credential here: send upstream_key to seal one into the key, or give it one in the configuration, { till { upstream %s { credential {file./path} } } }", name, name)
			}
			return u, nil
		}
	}
	switch {
	case len(names) == 0:
		return wire.UpstreamInfo{}, invalid("no upstream is configured: declare one in the global options, { till { upstream openai { credential {env.OPENAI_API_KEY} } } }")
	case name != "":
		return wire.UpstreamInfo{}, invalid("upstream %q is not configured; the upstreams are: %s", name, strings.Join(names, ", "))
	case len(fit) == 1:
		return fit[0], nil
	case len(may) == 0: // none of those that the role names is configured
		may = names
	}
	return wire.UpstreamInfo{}, invalid("upstream must be one of: %s", strings.Join(may, ", "))
}
