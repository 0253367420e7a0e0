package limiter

import (
	"reflect"
	"regexp"
	"strings"
)

// facts are what the audit log says of a key, under the names of the
// management API: everything that somebody chose or decided, no counter and no
// secret. What is not set is left out.
func (k *Key) facts() map[string]any {
	f := make(map[string]any, 16)
	text := func(name, value string) {
		if value != "" {
			f[name] = scrub(value)
		}
	}
	text("name", k.Name)
	text("upstream", k.Upstream)
	text("custody", k.Custody)
	text("role", k.Role)
	text("owner", k.Owner)
	text("purpose", k.Purpose)
	text("charge", string(k.Charge))
	text("renews", string(k.Renews))
	text("rate", k.Rate.String())
	text("parent", k.Parent)
	if k.Delegate {
		f["delegate"] = true
	}
	text("status", string(k.recorded()))
	text("ended_reason", k.EndedReason)
	if !k.SuspendedAt.IsZero() {
		text("suspended_by", k.SuspendedBy.Title())
	}
	for name, pairs := range map[string]map[string]string{"labels": k.Labels, "metadata": k.Metadata} {
		if len(pairs) > 0 {
			clean := make(map[string]any, len(pairs))
			for label, value := range pairs {
				clean[scrub(label)] = scrub(value)
			}
			f[name] = clean
		}
	}
	for kind, name := range map[Kind]string{Activations: "max_activations", Tokens: "max_tokens"} {
		if k.Limit[kind] != NoLimit {
			f[name] = k.Limit[kind]
		}
	}
	if n := k.Limit[Nanodollars]; n != NoLimit {
		f["max_spend_usd"] = FormatUSD(n)
	}
	if k.MaxRequestSpend > 0 {
		f["max_request_spend_usd"] = FormatUSD(k.MaxRequestSpend)
	}
	if k.Unfitted {
		f["fit"] = false
	}
	if k.CountOnly {
		f["unknown_price"] = "count_only"
	}
	if !k.ExpiresAt.IsZero() {
		f["expires_at"] = stamp(k.ExpiresAt)
	}
	if k.IdleTimeout > 0 {
		f["idle_timeout"] = k.IdleTimeout.String()
	}
	if k.FirstUseWithin > 0 {
		f["first_use_within"] = k.FirstUseWithin.String()
	}
	if k.MaxConcurrency > 0 {
		f["max_concurrency"] = k.MaxConcurrency
	}
	f["self_revoke"] = k.SelfRevoke
	for name, list := range map[string][]string{"models": k.Scope.Models, "paths": k.Scope.Paths, "methods": k.Scope.Methods} {
		if len(list) > 0 {
			f[name] = list
		}
	}
	if len(k.Scope.IPs) > 0 {
		ips := make([]string, len(k.Scope.IPs))
		for i, p := range k.Scope.IPs {
			ips[i] = p.String()
		}
		f["ips"] = ips
	}
	if !k.StaleToldAt.IsZero() {
		f["stale_told_at"] = stamp(k.StaleToldAt)
	}
	if n := len(k.Former); n > 0 {
		f["rotations"] = k.Rotations
		f["grace_ends_at"] = stamp(k.Former[n-1].Until)
	}
	if k.Scope.PinIP {
		f["pin_ip"] = true
	}
	return f
}

// changes are the fields in which two states of a key differ. Either may be
// nil.
func changes(old, key *Key) map[string]Delta {
	var before, after map[string]any
	if old != nil {
		before = old.facts()
	}
	if key != nil {
		after = key.facts()
	}
	return deltas(before, after)
}

func deltas(before, after map[string]any) map[string]Delta {
	d := make(map[string]Delta)
	for name, v := range before {
		if now := after[name]; !reflect.DeepEqual(v, now) {
			d[name] = Delta{v, now}
		}
	}
	for name, v := range after {
		if _, was := before[name]; !was {
			d[name] = Delta{nil, v}
		}
	}
	return d
}

var secretString = regexp.MustCompile(`till_(sk|admin)_[0-9A-Za-z_.-]+`)

// scrub takes out key strings that somebody wrote where they do not belong.
func scrub(s string) string {
	if !strings.Contains(s, "till_") {
		return s
	}
	return secretString.ReplaceAllString(s, "[key]")
}
