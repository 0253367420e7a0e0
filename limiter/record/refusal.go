package record

import (
	"fmt"
	"slices"
	"time"
)

// Code names why a request was refused. The list is part of the public
// interface: clients see it in the Till-Refusal header and in the body.
type Code string

// Every refusal code of till, in the order of the interface's table. The
// limiter itself decides those about status, scope and limits; the rest are
// here so that one file holds the whole vocabulary.
const (
	CodeBadRequest           Code = "till_bad_request"
	CodeBodyTooLarge         Code = "till_body_too_large"
	CodeKeyMissing           Code = "till_key_missing"
	CodeKeyInvalid           Code = "till_key_invalid"
	CodeActivationsExhausted Code = "till_activations_exhausted"
	CodeTokensExhausted      Code = "till_tokens_exhausted"
	CodeSpendExhausted       Code = "till_spend_exhausted"
	CodeKeyExpired           Code = "till_key_expired"
	CodeKeyIdle              Code = "till_key_idle"
	CodeBudgetTooSmall       Code = "till_budget_too_small"
	CodeKeyRevoked           Code = "till_key_revoked"
	CodeKeySuspended         Code = "till_key_suspended"
	CodeLockedDown           Code = "till_locked_down"
	CodeWrongUpstream        Code = "till_wrong_upstream"
	CodePathNotAllowed       Code = "till_path_not_allowed"
	CodeMethodNotAllowed     Code = "till_method_not_allowed"
	CodeModelNotAllowed      Code = "till_model_not_allowed"
	CodeIPNotAllowed         Code = "till_ip_not_allowed"
	CodeUpgradeNotAllowed    Code = "till_upgrade_not_allowed"
	CodeTooEarly             Code = "till_too_early"
	CodePriceUnknown         Code = "till_price_unknown"
	CodeNotMeterable         Code = "till_not_meterable"
	CodeRateLimited          Code = "till_rate_limited"
	CodeConcurrency          Code = "till_concurrency"
	CodeBudgetHeld           Code = "till_budget_held"
	CodeUpstreamFailed       Code = "till_upstream_failed"
	CodeUpstreamAuthFailed   Code = "till_upstream_auth_failed"
	CodeUpstreamChanged      Code = "till_upstream_changed"
	CodeStoreUnavailable     Code = "till_store_unavailable"
	CodeUpstreamUnknown      Code = "till_upstream_unknown"
)

// Ended reports whether the code says that something has come to an end: a key, a string
// of it, or its budget or its role's. Only a key in the first case is dead.
func (c Code) Ended() bool {
	switch c {
	case CodeKeyRevoked, CodeKeyExpired, CodeKeyIdle:
		return true
	}
	return slices.ContainsFunc(LimitKinds[:], func(kind Kind) bool { return kind.Exhausted() == c })
}

// Refusal is the answer "no": which rule, on which key, with its figures. It
// is a value, not a failure: nothing was taken from any budget. It never
// holds a secret.
type Refusal struct {
	Code     Code
	KeyID    string // empty when no key was recognised
	KeyName  string
	Upstream string
	// Message is one sentence for the person who reads the client's error:
	// which limit, how much, and what would help.
	Message string
	// Field is the member of the request's body that it is about; empty: none.
	Field string
	// RetryAfter is set where trying again later makes sense (429 and 503).
	RetryAfter time.Duration
	// Moved says that the request was read under terms that a change has replaced
	// since. Nothing was judged, and a caller that still has the request may read
	// it again.
	Moved bool
}

// Error lets a Refusal travel as an error.
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Message }

// Refuse builds a refusal about k. The message begins with the key's id and name.
func (k *Key) Refuse(code Code, format string, args ...any) *Refusal {
	who := "key " + k.ID
	if k.Name != "" {
		who += fmt.Sprintf(" (%s)", k.Name)
	}
	return &Refusal{
		Code: code, KeyID: k.ID, KeyName: k.Name, Upstream: k.Upstream,
		Message: who + " " + fmt.Sprintf(format, args...),
	}
}

func UnknownKey() *Refusal {
	return &Refusal{Code: CodeKeyInvalid, Message: "this key is not known here: check that it was copied whole and is meant for this server"}
}

// After says when trying again is worthwhile.
func (r *Refusal) After(d time.Duration) *Refusal {
	r.RetryAfter = d
	return r
}

func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
