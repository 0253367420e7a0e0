package limiter

import (
	"cmp"
	"net/netip"
	"strings"
	"time"
)

// after adds when trying again is right.
func (r *Refusal) after(d time.Duration) *Refusal {
	r.RetryAfter = d
	return r
}

// stopped is the refusal of a revoked or suspended key.
func (k *Live) stopped(now time.Time) *Refusal {
	key := k.key
	switch status, code := k.status(now); status {
	case Revoked:
		if key.EndedReason != "" && !key.EndedAt.IsZero() {
			return key.refuse(code, "was revoked on %s: %s", stamp(key.EndedAt), key.EndedReason)
		}
		return key.refuse(code, "was revoked")
	default:
		return key.refuse(CodeKeySuspended, "is suspended; ask whoever issued it to have it resumed")
	}
}

// timeRefusal is the refusal of a key whose time is over.
func (k *Live) timeRefusal(code Code) *Refusal {
	key := k.key
	switch {
	case code == CodeKeyIdle:
		return key.refuse(code, "was not used for %s and has ended", key.IdleTimeout)
	case !key.ExpiresAt.IsZero() && (key.EndedStatus == Expired || !k.l.clock.Now().Before(key.ExpiresAt)):
		return key.refuse(code, "expired on %s", stamp(key.ExpiresAt))
	default:
		return key.refuse(code, "was not used within %s of being issued and has expired", key.FirstUseWithin)
	}
}

// LowerMaxTokens is what helps where an answer may be too long.
const LowerMaxTokens = "lower max_tokens"

// outOf is the refusal of a key whose own budget does not allow the request. help
// is what helps where that is too large.
func (k *Live) outOf(v verdict, kind Kind, bound *Amounts, help string) *Refusal {
	key, limit := k.key, k.limit[kind]
	switch {
	case v == heldUp:
		return key.refuse(CodeBudgetHeld, "has %s left, but requests in flight hold it; try again when they are done",
			amount(kind, limit-k.spent[kind])).after(time.Second)
	case v == tooBig:
		return key.refuse(CodeBudgetTooSmall, "has %s left, and this request may use up to %s; %s",
			amount(kind, limit-k.spent[kind]), amount(kind, bound[kind]), cmp.Or(help, LowerMaxTokens))
	case kind == Attempts:
		return key.refuse(kinds[kind].exhausted, "has made all %d attempts that its %d activations allow", limit, k.limit[Activations])
	case k.given[kind] > 0 && limit == 0:
		return key.refuse(kinds[kind].exhausted, "gave all its %s to child keys", kind)
	case k.given[kind] > 0:
		return key.refuse(kinds[kind].exhausted, "has used all %s that it did not give to child keys", amount(kind, limit))
	case limit == 0:
		return key.refuse(kinds[kind].exhausted, "has no %s", kind)
	case k.renews != "":
		return key.refuse(kinds[kind].exhausted, "has used all %s of this %s; it renews on %s", amount(kind, limit), k.renews, stamp(k.renews.Next(k.l.clock.Now())))
	default:
		return key.refuse(kinds[kind].exhausted, "has used all %s", amount(kind, limit))
	}
}

// outOfTurn is the refusal of a request that comes behind others.
func (k *Live) outOfTurn() *Refusal {
	return k.key.refuse(CodeBudgetHeld, "has requests that came before and wait for what is left; try again when they are done").after(time.Second)
}

// outOfRole is the refusal when the role's shared budget is the reason.
func (k *Live) outOfRole(role *account, v verdict, kind Kind) *Refusal {
	if v == heldUp {
		return k.key.refuse(CodeBudgetHeld, "shares the budget of role %s, and requests in flight hold what is left of it", k.key.Role).after(time.Second)
	}
	code := kinds[kind].exhausted
	if v == tooBig {
		code = CodeBudgetTooSmall
	}
	return k.key.refuse(code, "shares the budget of role %s, which has used %s of %s",
		k.key.Role, amount(kind, role.spent[kind]), amount(kind, role.limit[kind]))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func roundUp(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

func list(items []string) string { return strings.Join(items, ", ") }

// addrText keeps the last client's address as text, and makes a new string
// only when it changed.
func (k *Live) addrText(addr netip.Addr) string {
	if addr == k.lastAddr {
		return k.addr
	}
	k.lastAddr = addr
	return addr.String()
}
