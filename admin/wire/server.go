package wire

import (
	"cmp"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter"
)

// Link is an address that signs in to the console, once.
type Link struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// LockdownJSON is what callers see of a lockdown.
type LockdownJSON struct {
	LockedDown bool       `json:"locked_down"`
	Since      *time.Time `json:"since,omitempty"`
	By         string     `json:"by,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	// Durable is false while only memory knows of it, and a restart would end it.
	Durable    *bool `json:"durable,omitempty"`
	StreamsCut *int  `json:"streams_cut,omitempty"`
}

// Delivery is how the deliveries to a webhook went since the server started.
type Delivery struct {
	Delivered       int64      `json:"delivered"`
	Failed          int64      `json:"failed_attempts"`
	GivenUp         int64      `json:"given_up"`
	LastDeliveredAt *time.Time `json:"last_delivered_at,omitempty"`
	FailingSince    *time.Time `json:"failing_since,omitempty"`
	LastError       string     `json:"last_error,omitempty"`
}

// WebhookState is a webhook as the management API shows it, without secrets.
type WebhookState struct {
	URL     string              `json:"url"` // without its query, which may hold a token
	Events  []limiter.EventName `json:"events,omitempty"`
	Pending int64               `json:"pending"`
	Dropped int64               `json:"dropped"`
	Delivery
}

// WebhooksAnswer lists the configured webhooks.
type WebhooksAnswer struct {
	Webhooks []WebhookState `json:"webhooks"`
}

// StatsAnswer holds the sums over all keys, and the state of the store.
type StatsAnswer struct {
	Keys                 map[string]int64 `json:"keys"`
	Holds                int64            `json:"holds"`
	UsedActivations      int64            `json:"used_activations"`
	UsedTokens           int64            `json:"used_tokens"`
	UsedSpendUSD         string           `json:"used_spend_usd"`
	ForgottenActivations int64            `json:"forgotten_activations"`
	ForfeitedActivations int64            `json:"forfeited_activations"`
	StoreFailure         string           `json:"store_failure"`
	ClockOffSeconds      int64            `json:"clock_off_seconds"`
	Lockdown             LockdownJSON     `json:"lockdown"`
}

// RepairedAnswer says what was forfeited, or which time is believed now.
type RepairedAnswer struct {
	Keys      int64      `json:"keys,omitempty"`
	Forfeited int64      `json:"forfeited,omitempty"`
	Suspended int64      `json:"suspended,omitempty"`
	Tokens    int64      `json:"tokens_revoked,omitempty"`
	Now       *time.Time `json:"now,omitempty"`
}

// Level says how bad a finding is.
type Level string

// The levels. An error is a promise that does not hold, or a secret that others
// can read; a warning is a risk that may have been taken knowingly.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
)

// Finding is something about a server that a careful operator would change.
type Finding struct {
	// Check names the kind of finding; see the table in docs/command-line.md.
	Check string `json:"check"`
	Level Level  `json:"level"`
	// What says what is wrong, with figures and names; no secret.
	What string `json:"what"`
	// Fix is a command or a line of configuration that mends it.
	Fix string `json:"fix"`
}

// File is what of a configuration stands in files, which are looked at while the
// server runs: a secret, or prices.
type File struct {
	// What they hold, such as "the credential of upstream openai".
	What  string   `json:"subject"`
	Paths []string `json:"read_from"`
	// ReadAt is when it was last looked at.
	ReadAt time.Time `json:"checked_at"`
	// ChangedAt is when something else than before came into force; nil: not
	// since this configuration was loaded.
	ChangedAt *time.Time `json:"changed_at,omitempty"`
	// Trouble is why the files as they are now are not in force; empty: they are.
	Trouble string `json:"not_taken,omitempty"`
}

// Diagnosis is the answer to `doctor`.
type Diagnosis struct {
	Findings []Finding `json:"findings"`
	Files    []File    `json:"files,omitempty"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

// NewDiagnosis puts errors first, and the kinds together.
func NewDiagnosis(findings []Finding) Diagnosis {
	d := Diagnosis{Findings: append([]Finding{}, findings...)}
	slices.SortStableFunc(d.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.Check, b.Check)) // "error" before "warning"
	})
	for _, f := range findings {
		if f.Level == LevelError {
			d.Errors++
		} else {
			d.Warnings++
		}
	}
	return d
}

// DoctorAnswer is a diagnosis, and the time by the clock of the server.
type DoctorAnswer struct {
	Diagnosis
	Now time.Time `json:"now"`
}
