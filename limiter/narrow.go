package limiter

import "time"

// within says in which field a child would be wider than its parent. Of a child
// that changes, with what it was before in old, only what changes is judged.
func (k *Key) within(old, parent *Key) error {
	for _, kind := range LimitKinds { // attempts follow from them
		if parent.Limit[kind] == NoLimit || k.Limit[kind] != NoLimit {
			continue
		}
		return invalid(kinds[kind].limit, "must be set: parent key %s is limited in it", parent.ID)
	}
	for _, rule := range narrowing {
		if old != nil && rule.wider(k, old) == nil {
			continue // no wider than it was
		}
		if err := rule.wider(k, parent); err != nil {
			return err
		}
	}
	return nil
}

// narrowing are the fields in which a child must not be wider than its parent,
// and what it says when it is.
var narrowing = []struct {
	field string
	wider func(child, parent *Key) error
}{
	{"upstream", func(c, p *Key) error {
		return same("upstream", c.Upstream, p.Upstream)
	}},
	{"custody", func(c, p *Key) error { return same("custody", c.Custody, p.Custody) }},
	{"role", func(c, p *Key) error { return same("role", c.Role, p.Role) }},
	{"charge", func(c, p *Key) error { return same("charge", c.Charge, p.Charge) }},
	{"fit", func(c, p *Key) error { return same("fit", c.Unfitted, p.Unfitted) }},
	{"unknown_price", func(c, p *Key) error { return same("unknown_price", c.CountOnly, p.CountOnly) }},
	{"renews", func(c, p *Key) error {
		if c.Renews != "" {
			return invalid("renews", "cannot be set on a child key: its budget was carved out of its parent's once")
		}
		return nil
	}},
	{"max_request_spend_usd", func(c, p *Key) error {
		if p.MaxRequestSpend > 0 && (c.MaxRequestSpend == 0 || c.MaxRequestSpend > p.MaxRequestSpend) {
			return invalid("max_request_spend_usd", "must be at most $%s, as of its parent key", FormatUSD(p.MaxRequestSpend))
		}
		return nil
	}},
	{"expires_at", func(c, p *Key) error {
		if !p.ExpiresAt.IsZero() && (c.ExpiresAt.IsZero() || c.ExpiresAt.After(p.ExpiresAt)) {
			return invalid("expires_at", "must be at most %s, when its parent key expires", stamp(p.ExpiresAt))
		}
		return nil
	}},
	{"idle_timeout", func(c, p *Key) error { return longer("idle_timeout", c.IdleTimeout, p.IdleTimeout) }},
	{"first_use_within", func(c, p *Key) error { return longer("first_use_within", c.FirstUseWithin, p.FirstUseWithin) }},
	{"rate", func(c, p *Key) error {
		if !p.Rate.IsZero() && (c.Rate.IsZero() || c.Rate.N > p.Rate.N || c.Rate.faster(p.Rate)) {
			return invalid("rate", "must be at most %s, as of its parent key, in number and in speed", p.Rate)
		}
		return nil
	}},
	{"max_concurrency", func(c, p *Key) error {
		if p.MaxConcurrency > 0 && (c.MaxConcurrency == 0 || c.MaxConcurrency > p.MaxConcurrency) {
			return invalid("max_concurrency", "must be at most %d, as of its parent key", p.MaxConcurrency)
		}
		return nil
	}},
	{"self_revoke", func(c, p *Key) error {
		if c.SelfRevoke && !p.SelfRevoke {
			return invalid("self_revoke", "must be false, as of its parent key")
		}
		return nil
	}},
	{"delegate", func(c, p *Key) error {
		if c.Delegate && !p.Delegate {
			return invalid("delegate", "must be false, as of its parent key")
		}
		return nil
	}},
	{"pin_ip", func(c, p *Key) error {
		if p.Scope.PinIP && !c.Scope.PinIP {
			return invalid("pin_ip", "must be true, as of its parent key")
		}
		return nil
	}},
	{"scope", func(c, p *Key) error {
		switch field, rule := c.Scope.Beyond(p.Scope); {
		case field == "":
			return nil
		case rule == "":
			return invalid(field, "must not be empty: its parent key is limited in them")
		default:
			return invalid(field, "must be within those of its parent key, and %s is not", rule)
		}
	}},
}

func same[T comparable](field string, child, parent T) error {
	if child != parent {
		return invalid(field, "cannot be set on a child key: it is its parent's")
	}
	return nil
}

func longer(field string, child, parent time.Duration) error {
	if parent > 0 && (child == 0 || child > parent) {
		return invalid(field, "must be at most %s, as of its parent key", parent)
	}
	return nil
}

// faster reports whether a rate allows more in the long run.
func (r Rate) faster(than Rate) bool {
	return float64(r.N)*float64(than.Per) > float64(than.N)*float64(r.Per)
}

// keepsFamily says what a change must not do to a child, or to a key that has
// children.
func (k *Key) keepsFamily(r Reader, old *Key) error {
	if k.attached() {
		parent, _, err := readKey(r, k.Parent)
		if err != nil {
			return err
		}
		for _, kind := range LimitKinds {
			if had, limit := old.Limit[kind], k.Limit[kind]; had != NoLimit && (limit == NoLimit || limit > had) {
				return invalid(kinds[kind].limit, "of a child key cannot be raised by a change: grant it more, which comes out of its parent")
			}
		}
		return k.within(old, parent)
	}
	if !k.Delegate {
		return nil
	}
	children, err := countChildren(r, k.ID)
	if err != nil || children == 0 {
		return err
	}
	if k.Charge != old.Charge {
		return invalid("charge", "cannot be changed while the key has child keys, %d of them, whose it is, too: revoke them first", children)
	}
	for _, kind := range LimitKinds {
		if k.Limit[kind] != NoLimit && old.Limit[kind] == NoLimit {
			return invalid(kinds[kind].limit, "cannot be set while the key has child keys, %d of them, which it would not bind: revoke them first", children)
		}
	}
	return nil
}
