package limiter

import (
	"cmp"
	"net/netip"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// stopped is the refusal of a revoked or suspended key.
func (k *Live) stopped(now time.Time) *record.Refusal {
	key := k.key
	switch status, _ := k.status(now); {
	case status == record.Revoked || k.forgetting > 0:
		const code = record.CodeKeyRevoked
		if key.EndedReason != "" && !key.EndedAt.IsZero() {
			return key.Refuse(code, "was revoked on %s: %s", record.Stamp(key.EndedAt), key.EndedReason)
		}
		return key.Refuse(code, "was revoked")
	default:
		return key.Refuse(record.CodeKeySuspended, "is suspended; ask whoever issued it to have it resumed")
	}
}

// timeRefusal is the refusal of a key whose time is over.
func (k *Live) timeRefusal(code record.Code) *record.Refusal {
	key := k.key
	switch {
	case code == record.CodeKeyIdle:
		return key.Refuse(code, "was not used for %s and has ended", key.IdleTimeout)
	case !key.ExpiresAt.IsZero() && (key.EndedStatus == record.Expired || !k.l.clock.Now().Before(key.ExpiresAt)):
		return key.Refuse(code, "expired on %s", record.Stamp(key.ExpiresAt))
	default:
		return key.Refuse(code, "was not used within %s of being issued and has expired", key.FirstUseWithin)
	}
}

// LowerMaxTokens is the advice where an answer may be too long.
const LowerMaxTokens = "lower max_tokens"

// outOf is the refusal of a key whose own budget does not allow the request. help is
// the advice where the request is too large.
func (k *Live) outOf(v verdict, kind record.Kind, bound *record.Amounts, help string) *record.Refusal {
	key, kept := k.key, k.net()
	limit := kept[kind]
	switch {
	case v == heldUp:
		return key.Refuse(record.CodeBudgetHeld, "has %s left, but requests in flight hold it; try again when they are done",
			record.FormatAmount(kind, limit-k.total(kind))).After(time.Second)
	case v == tooBig:
		return key.Refuse(record.CodeBudgetTooSmall, "has %s left, and this request may use up to %s; %s",
			record.FormatAmount(kind, limit-k.total(kind)), record.FormatAmount(kind, bound[kind]), cmp.Or(help, LowerMaxTokens))
	case kind == record.Attempts:
		return key.Refuse(kind.Exhausted(), "has made all %d attempts that its %d activations allow", limit, kept[record.Activations])
	case k.given[kind] > 0 && limit == 0:
		return key.Refuse(kind.Exhausted(), "gave all its %s to child keys", kind)
	case k.given[kind] > 0:
		return key.Refuse(kind.Exhausted(), "has used all %s that it did not give to child keys", record.FormatAmount(kind, limit))
	case limit == 0:
		return key.Refuse(kind.Exhausted(), "has no %s", kind)
	case k.renews != "":
		return key.Refuse(kind.Exhausted(), "has used all %s of this %s; it renews on %s", record.FormatAmount(kind, limit), k.renews, record.Stamp(k.renews.Next(k.l.clock.Now())))
	default:
		return key.Refuse(kind.Exhausted(), "has used all %s", record.FormatAmount(kind, limit))
	}
}

// outOfTurn is the refusal of a request that has to let others go first.
func (k *Live) outOfTurn() *record.Refusal {
	return k.key.Refuse(record.CodeBudgetHeld, "has requests that came before and wait for what is left; try again when they are done").After(time.Second)
}

// outOfRole is the refusal when the role's shared budget is the reason. help is the advice
// where the request is too large.
func (k *Live) outOfRole(role *account, v verdict, kind record.Kind, bound *record.Amounts, help string) *record.Refusal {
	limit, used := role.net()[kind], role.total(kind)
	switch v {
	case heldUp:
		return k.key.Refuse(record.CodeBudgetHeld, "shares the budget of role %s, and requests in flight hold what is left of it", k.key.Role).After(time.Second)
	case tooBig:
		return k.key.Refuse(record.CodeBudgetTooSmall, "shares the budget of role %s, which has %s left, and this request may use up to %s; %s",
			k.key.Role, record.FormatAmount(kind, limit-used), record.FormatAmount(kind, bound[kind]), cmp.Or(help, LowerMaxTokens))
	}
	return k.key.Refuse(kind.Exhausted(), "shares the budget of role %s, which has used %s of %s",
		k.key.Role, record.FormatAmount(kind, used), record.FormatAmount(kind, limit))
}

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

// hasMoved is the refusal of a request that was read under other terms.
func (k *Live) hasMoved() *record.Refusal {
	refusal := k.key.Refuse(record.CodeStoreUnavailable, "was changed while the request was read, so it was not forwarded; send it again").After(time.Second)
	refusal.Moved = true
	return refusal
}

func storeRefusal(why string) *record.Refusal {
	return &record.Refusal{
		Code: record.CodeStoreUnavailable, RetryAfter: 2 * time.Second,
		Message: notChecked + why,
	}
}

const notChecked = "the key could not be checked, so the request was not forwarded: "
