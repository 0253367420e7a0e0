package wire

import (
	"cmp"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// Link is an address that signs in to the console, once.
type Link struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// LockdownJSON is a lockdown as callers see it.
type LockdownJSON struct {
	LockedDown bool       `json:"locked_down"`
	Since      *time.Time `json:"since,omitempty"`
	By         string     `json:"by,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	// Durable is false while the lockdown is only in memory, so that a restart
	// would end it.
	Durable    *bool `json:"durable,omitempty"`
	StreamsCut *int  `json:"streams_cut,omitempty"`
	// Pending names the nodes that have not yet followed.
	Pending []string `json:"pending,omitempty"`
}

// Delivery reports how the deliveries to a webhook have gone since the server started.
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
	URL     string       `json:"url"` // without its query, which may hold a token
	Events  []event.Name `json:"events,omitempty"`
	Pending int64        `json:"pending"`
	Dropped int64        `json:"dropped"`
	Delivery
}

// WebhooksAnswer lists the configured webhooks.
type WebhooksAnswer struct {
	Webhooks []WebhookState `json:"webhooks"`
}

// StatsAnswer holds the sums over all keys, and the state of the store.
type StatsAnswer struct {
	Keys                 map[record.Status]int64 `json:"keys"`
	Holds                int64                   `json:"holds"`
	UsedActivations      int64                   `json:"used_activations"`
	UsedTokens           int64                   `json:"used_tokens"`
	UsedSpendUSD         string                  `json:"used_spend_usd"`
	ForgottenActivations int64                   `json:"forgotten_activations"`
	ForfeitedActivations int64                   `json:"forfeited_activations"`
	StoreFailure         string                  `json:"store_failure"`
	ClockOffSeconds      int64                   `json:"clock_off_seconds"`
	Lockdown             LockdownJSON            `json:"lockdown"`
	// Nodes are the servers that share the store, for operators.
	Nodes []NodeJSON `json:"nodes,omitempty"`
}

// StatsClosed is the answer in place of StatsAnswer while the store is closed.
type StatsClosed struct {
	Error        Fault         `json:"error"`
	Lockdown     *LockdownJSON `json:"lockdown,omitempty"`
	StoreFailure string        `json:"store_failure,omitempty"`
}

// RepairedAnswer says what was forfeited, or which time the limiter goes by now.
type RepairedAnswer struct {
	Keys      *int64     `json:"keys,omitempty"`
	Forfeited *int64     `json:"forfeited,omitempty"`
	Suspended *int64     `json:"suspended,omitempty"`
	Tokens    *int64     `json:"tokens_revoked,omitempty"`
	Now       *time.Time `json:"now,omitempty"`
}

// Level is the severity of a finding.
type Level string

// An error is a promise that does not hold, or a secret that others can read. A
// warning is a risk that may have been taken knowingly.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
)

var Levels = [...]Level{LevelError, LevelWarning}

// Finding is something about a server that a careful operator would change.
type Finding struct {
	// Check names the kind of finding; see the table in docs/command-line.md.
	Check string `json:"check"`
	Level Level  `json:"level"`
	// What says what is wrong, with figures and names. It holds no secret.
	What string `json:"what"`
	// Fix is a command or a line of configuration that fixes it.
	Fix string `json:"fix"`
}

// File is a part of the configuration that is kept in files, such as a secret or
// prices. The files are checked while the server runs.
type File struct {
	// What is what the files hold, such as "the credential of upstream openai".
	What  string   `json:"subject"`
	Paths []string `json:"read_from"`
	// ReadAt is when the files were last read.
	ReadAt time.Time `json:"checked_at"`
	// ChangedAt is when different content came into force; nil if that has not
	// happened since this configuration was loaded.
	ChangedAt *time.Time `json:"changed_at,omitempty"`
	// Trouble is why the present content of the files is not in force; empty if it is.
	Trouble string `json:"not_taken,omitempty"`
}

// Diagnosis is the answer to `doctor`.
type Diagnosis struct {
	Findings []Finding `json:"findings"`
	Files    []File    `json:"files,omitempty"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

// NewDiagnosis sorts findings: errors first, and findings of the same kind together.
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
