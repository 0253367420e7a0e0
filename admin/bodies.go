package admin

import (
	"time"

	"github.com/till-proxy/till/limiter"
)

// fingerprintBody is a real key to be named.
type fingerprintBody struct {
	UpstreamKey realKey `json:"upstream_key"`
}

// leaksBody is a text to search for the strings of keys and tokens.
type leaksBody struct {
	Text   string `json:"text"`
	DryRun bool   `json:"dry_run"`
}

// rotateBody gives a key another string.
type rotateBody struct {
	Grace       span    `json:"grace"`
	UpstreamKey realKey `json:"upstream_key"`
}

// settable are the fields of a key that a mint sets and a change changes.
type settable struct {
	Name           *string            `json:"name"`
	MaxActivations *int64             `json:"max_activations"`
	MaxTokens      *int64             `json:"max_tokens"`
	MaxSpendUSD    *dollars           `json:"max_spend_usd"`
	MaxSpendCents  *int64             `json:"max_spend_cents"` // another way to write max_spend_usd
	MaxRequestUSD  *dollars           `json:"max_request_spend_usd"`
	Renews         *limiter.Renewal   `json:"renews"`
	Fit            *bool              `json:"fit"`
	UnknownPrice   *string            `json:"unknown_price"`
	ExpiresIn      *span              `json:"expires_in"`
	ExpiresAt      *time.Time         `json:"expires_at"`
	IdleTimeout    *span              `json:"idle_timeout"`
	FirstUseWithin *span              `json:"first_use_within"`
	Rate           *limiter.Rate      `json:"rate"`
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
	Charge         *limiter.Charge    `json:"charge"`
}

// changeBody is a PATCH. A field that is null goes back to its default: no
// such limit, rule or note.
type changeBody struct {
	settable
	Unlimited bool `json:"unlimited"`
}

// mintBody is the mint of a key.
type mintBody struct {
	settable
	Upstream    string  `json:"upstream"`
	Provider    string  `json:"provider"` // another name for upstream
	UpstreamKey realKey `json:"upstream_key"`
	Role        string  `json:"role"`
	Unlimited   bool    `json:"unlimited"`
	Delegate    bool    `json:"delegate"`
}

// grantBody adds to the limits of a key.
type grantBody struct {
	Activations int64   `json:"activations"`
	Tokens      int64   `json:"tokens"`
	SpendUSD    dollars `json:"spend_usd"`
	ExpiresIn   span    `json:"expires_in"`
}

// tokenBody makes an admin token.
type tokenBody struct {
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	ExpiresIn *span      `json:"expires_in"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// revokeBody ends a key, or begins a lockdown.
type revokeBody struct {
	Reason string `json:"reason"`
}

// revokeManyBody ends all keys that match a filter.
type revokeManyBody struct {
	Filter map[string]string `json:"filter"`
	All    bool              `json:"all"`
	Except []string          `json:"except"`
	DryRun bool              `json:"dry_run"`
	Reason string            `json:"reason"`
	Wait   bool              `json:"wait"`
}

// repairBody says what to repair: one of the two.
type repairBody struct {
	Forfeit bool `json:"forfeit"`
	Clock   bool `json:"clock"`
}
