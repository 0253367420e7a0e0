package wire

import (
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// FingerprintBody asks for the fingerprint of a real key.
type FingerprintBody struct {
	UpstreamKey RealKey `json:"upstream_key"`
}

// LeaksBody is a text to be searched for the strings of keys and tokens.
type LeaksBody struct {
	Text   string `json:"text"`
	DryRun bool   `json:"dry_run"`
}

// RotateBody gives a key a new string.
type RotateBody struct {
	Grace       Span    `json:"grace"`
	UpstreamKey RealKey `json:"upstream_key"`
}

// Settable are the fields of a key that a mint sets and a change changes.
type Settable struct {
	Name           *string            `json:"name"`
	MaxActivations *int64             `json:"max_activations"`
	MaxTokens      *int64             `json:"max_tokens"`
	MaxSpendUSD    *Dollars           `json:"max_spend_usd"`
	MaxSpendCents  *int64             `json:"max_spend_cents"` // another way to write max_spend_usd
	MaxRequestUSD  *Dollars           `json:"max_request_spend_usd"`
	Renews         *record.Renewal    `json:"renews"`
	Fit            *bool              `json:"fit"`
	UnknownPrice   *string            `json:"unknown_price"`
	ExpiresIn      *Span              `json:"expires_in"`
	ExpiresAt      *time.Time         `json:"expires_at"`
	IdleTimeout    *Span              `json:"idle_timeout"`
	FirstUseWithin *Span              `json:"first_use_within"`
	Rate           *record.Rate       `json:"rate"`
	MaxConcurrency *int               `json:"max_concurrency"`
	Models         *[]string          `json:"models"`
	Paths          *[]string          `json:"paths"`
	Methods        *[]string          `json:"methods"`
	IPs            *[]string          `json:"ips"`
	PinIP          *bool              `json:"pin_ip"`
	Owner          *string            `json:"owner"`
	Purpose        *string            `json:"purpose"`
	Labels         *map[string]string `json:"labels"`
	Metadata       *map[string]string `json:"metadata"`
	SelfRevoke     *bool              `json:"self_revoke"`
	Charge         *record.Charge     `json:"charge"`
}

// ChangeBody is the body of a PATCH. A field that is null goes back to its default,
// which is to have no such limit, rule or note.
type ChangeBody struct {
	Settable
	Unlimited bool `json:"unlimited"`
}

// MintBody mints a key.
type MintBody struct {
	Settable
	Upstream    string  `json:"upstream"`
	Provider    string  `json:"provider"` // another name for upstream
	UpstreamKey RealKey `json:"upstream_key"`
	Role        string  `json:"role"`
	Unlimited   bool    `json:"unlimited"`
	Delegate    bool    `json:"delegate"`
}

// GrantBody adds to the limits of a key.
type GrantBody struct {
	Activations int64   `json:"activations"`
	Tokens      int64   `json:"tokens"`
	SpendUSD    Dollars `json:"spend_usd"`
	ExpiresIn   Span    `json:"expires_in"`
}

// TokenBody makes an admin token.
type TokenBody struct {
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	ExpiresIn *Span      `json:"expires_in"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// RevokeBody ends a key, or begins a lockdown.
type RevokeBody struct {
	Reason string `json:"reason"`
}

// RevokeManyBody ends all keys that match a filter.
type RevokeManyBody struct {
	Filter map[string]string `json:"filter"`
	All    bool              `json:"all"`
	Except []string          `json:"except"`
	DryRun bool              `json:"dry_run"`
	Reason string            `json:"reason"`
	Wait   bool              `json:"wait"`
}

// RepairBody says what to repair. Exactly one of the two must be true.
type RepairBody struct {
	Forfeit bool `json:"forfeit"`
	Clock   bool `json:"clock"`
	// DryRun says to change nothing, and only to count what forfeit would spend.
	DryRun bool `json:"dry_run"`
}
