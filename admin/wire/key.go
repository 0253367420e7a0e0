package wire

import (
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// Rotated is a key object with its new string, which is shown only this once.
type Rotated struct {
	Minted
	StreamsCut int `json:"streams_cut"`
}

// Minted is a key object with its string, which is shown only this once.
type Minted struct {
	*KeyObject
	ScopedKey string `json:"scoped_key"`
	BaseURL   string `json:"base_url,omitempty"`
}

// Listed is a page of keys.
type Listed struct {
	Keys    []*KeyObject `json:"keys"`
	Next    string       `json:"next,omitempty"`
	Partial bool         `json:"partial,omitempty"`
}

// KeyObject is a key as the management API shows it.
type KeyObject struct {
	ID       string        `json:"id"`
	Version  int64         `json:"version,omitempty"`
	Name     string        `json:"name,omitempty"`
	Upstream string        `json:"upstream"`
	Custody  string        `json:"custody,omitempty"`
	Status   record.Status `json:"status"`

	MaxActivations *int64        `json:"max_activations,omitempty"`
	MaxTokens      *int64        `json:"max_tokens,omitempty"`
	MaxSpendUSD    string        `json:"max_spend_usd,omitempty"`
	MaxRequestUSD  string        `json:"max_request_spend_usd,omitempty"`
	Renews         string        `json:"renews,omitempty"`
	RenewsAt       *time.Time    `json:"renews_at,omitempty"`
	Fit            *bool         `json:"fit,omitempty"`
	UnknownPrice   string        `json:"unknown_price,omitempty"`
	ExpiresAt      *time.Time    `json:"expires_at,omitempty"`
	IdleTimeout    string        `json:"idle_timeout,omitempty"`
	FirstUseWithin string        `json:"first_use_within,omitempty"`
	Rate           string        `json:"rate,omitempty"`
	MaxConcurrency int           `json:"max_concurrency,omitempty"`
	Charge         record.Charge `json:"charge,omitempty"`

	Models     []string `json:"models,omitempty"`
	Paths      []string `json:"paths,omitempty"`
	Methods    []string `json:"methods,omitempty"`
	IPs        []string `json:"ips,omitempty"`
	PinIP      bool     `json:"pin_ip,omitempty"`
	SelfRevoke bool     `json:"self_revoke"`
	Delegate   bool     `json:"delegate,omitempty"`

	UsedActivations      int64  `json:"used_activations"`
	HeldActivations      int64  `json:"held_activations"`
	RemainingActivations *int64 `json:"remaining_activations,omitempty"`

	// What was used of tokens and dollars is shown if the key or its role is
	// limited in them.
	UsedTokens      *int64 `json:"used_tokens,omitempty"`
	HeldTokens      *int64 `json:"held_tokens,omitempty"`
	RemainingTokens *int64 `json:"remaining_tokens,omitempty"`
	UsedSpendUSD    string `json:"used_spend_usd,omitempty"`

	// TokensByKind is what was used in the key's entire life, renewals included.
	TokensByKind *record.TokenKinds `json:"tokens_by_kind,omitempty"`

	HeldSpendUSD      string `json:"held_spend_usd,omitempty"`
	RemainingSpendUSD string `json:"remaining_spend_usd,omitempty"`

	// CredentialFingerprint names the real key in a sealed key's box.
	CredentialFingerprint string `json:"credential_fingerprint,omitempty"`
	// SealedWithoutSalt is true if no string of the key opens its box, because a
	// backup left the salts out. The key has to be rotated, with its upstream_key.
	SealedWithoutSalt bool `json:"sealed_without_salt,omitempty"`

	// Parent is the id of the key that this one is a child of. Children counts its
	// own children that have not yet returned what they had left. Delegated amounts
	// are what those children have or have used; returned amounts are what this key
	// gave back to its parent after it had ended.
	Parent               string     `json:"parent,omitempty"`
	Children             int        `json:"children,omitempty"`
	DelegatedActivations int64      `json:"delegated_activations,omitempty"`
	DelegatedTokens      int64      `json:"delegated_tokens,omitempty"`
	DelegatedSpendUSD    string     `json:"delegated_spend_usd,omitempty"`
	ReturnedActivations  int64      `json:"returned_activations,omitempty"`
	ReturnedTokens       int64      `json:"returned_tokens,omitempty"`
	ReturnedSpendUSD     string     `json:"returned_spend_usd,omitempty"`
	ReturnedAt           *time.Time `json:"returned_at,omitempty"`

	Role     string            `json:"role,omitempty"`
	Owner    string            `json:"owner,omitempty"`
	Purpose  string            `json:"purpose,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`

	// RotatedAt is when the key got its present string. GraceEndsAt is when the string
	// before it stops or stopped working.
	RotatedAt   *time.Time `json:"rotated_at,omitempty"`
	GraceEndsAt *time.Time `json:"grace_ends_at,omitempty"`

	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by,omitempty"`
	FirstUsedAt *time.Time `json:"first_used_at,omitempty"`
	LastUsedAt  *time.Time `json:"last_used_at,omitempty"`
	LastIP      string     `json:"last_ip,omitempty"`
	SuspendedBy string     `json:"suspended_by,omitempty"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
	EndedReason string     `json:"ended_reason,omitempty"`

	// Pending names the nodes that have not yet followed the act that this answers.
	Pending []string `json:"pending,omitempty"`

	// Replayed says that the call was done before, and was not done again.
	Replayed bool `json:"replayed,omitempty"`
}

// RevokedKey is a revoked key, with the number of its running requests that were ended.
type RevokedKey struct {
	*KeyObject
	StreamsCut int `json:"streams_cut"`
}

// UsageAnswer is what a key did, by hour and by day.
type UsageAnswer struct {
	Hours []Bucket `json:"hours"`
	Days  []Bucket `json:"days"`
}

// Bucket is what a key did in one hour or one day.
type Bucket struct {
	limiter.Bucket
	SpendUSD string `json:"spend_usd,omitempty"` // Nanodollars, as amounts are written elsewhere
}

// UsageOf is the answer for the history of a key.
func UsageOf(h limiter.History) UsageAnswer {
	return UsageAnswer{Hours: bucketsOf(h.Hours), Days: bucketsOf(h.Days)}
}

func bucketsOf(all []limiter.Bucket) []Bucket {
	buckets := make([]Bucket, len(all))
	for i, b := range all {
		buckets[i].Bucket = b
		if b.Nanodollars != 0 {
			buckets[i].SpendUSD = record.FormatUSD(b.Nanodollars)
		}
	}
	return buckets
}
