package wire

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
)

// RoleObject is a role as the management API shows it. Limits that are left out do
// not exist.
type RoleObject struct {
	Name           string              `json:"name"`
	Permissions    []record.Permission `json:"permissions"`
	Sees           record.Sight        `json:"sees"`
	Upstreams      []string            `json:"upstreams,omitempty"`
	Models         []string            `json:"models,omitempty"`
	Methods        []string            `json:"methods,omitempty"`
	Paths          []string            `json:"paths,omitempty"`
	IPs            []string            `json:"ips,omitempty"`
	MaxActivations *int64              `json:"max_activations,omitempty"`
	MaxTokens      *int64              `json:"max_tokens,omitempty"`
	MaxSpendUSD    string              `json:"max_spend_usd,omitempty"`
	MaxLifetime    string              `json:"max_lifetime,omitempty"`
	Budget         *BudgetObject       `json:"budget,omitempty"`
}

// BudgetObject is what all keys of a role may use together, and have used.
type BudgetObject struct {
	Activations     *int64 `json:"activations,omitempty"`
	Tokens          *int64 `json:"tokens,omitempty"`
	SpendUSD        string `json:"spend_usd,omitempty"`
	Renews          string `json:"renews,omitempty"`
	UsedActivations int64  `json:"used_activations"`
	UsedTokens      int64  `json:"used_tokens"`
	UsedSpendUSD    string `json:"used_spend_usd"`
}

// TokenObject is an admin token as the management API shows it.
type TokenObject struct {
	ID         string        `json:"id"`
	Name       string        `json:"name"`
	Role       string        `json:"role"`
	Status     record.Status `json:"status"`
	CreatedAt  time.Time     `json:"created_at"`
	CreatedBy  string        `json:"created_by"`
	ExpiresAt  *time.Time    `json:"expires_at,omitempty"`
	LastUsedAt *time.Time    `json:"last_used_at,omitempty"`
	RevokedAt  *time.Time    `json:"revoked_at,omitempty"`
	// Token is the token's string, which is only in the answer that creates it.
	Token string `json:"token,omitempty"`
	// Pending names the nodes that have not yet followed.
	Pending []string `json:"pending,omitempty"`
	// Made are, in the answer that revokes it, the tokens made with it that still work.
	Made []MadeToken `json:"made_tokens,omitempty"`
	// Replayed says that the call was done before, and was not done again.
	Replayed bool `json:"replayed,omitempty"`
}

// MadeToken is a token that was made with another one, or with one that was itself made
// with it.
type MadeToken struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// ListedTokens is a page of admin tokens, newest first.
type ListedTokens struct {
	Tokens []*TokenObject `json:"tokens"`
	Next   string         `json:"next,omitempty"`
}

// RolesAnswer lists the configured roles.
type RolesAnswer struct {
	Roles []RoleObject `json:"roles"`
}

// ListedEntries is a page of the audit log, by rising seq.
type ListedEntries struct {
	Entries []json.RawMessage `json:"entries"`
	Next    string            `json:"next,omitempty"`
	Partial bool              `json:"partial,omitempty"`
}

// Verdict is the result of verifying an audit log.
type Verdict struct {
	OK      bool   `json:"ok"`
	Entries int64  `json:"entries"`
	First   uint64 `json:"first,omitempty"` // where older entries were pruned
	Head    string `json:"head,omitempty"`
	Seq     uint64 `json:"seq,omitempty"` // the first bad entry
	Why     string `json:"why,omitempty"`
}

// VerdictOf turns the result of a verification into an answer. A broken chain is a
// verdict; any other error is returned.
func VerdictOf(v audit.Verified, err error) (*Verdict, error) {
	switch broken, ok := errors.AsType[*audit.BrokenError](err); {
	case ok:
		return &Verdict{Entries: v.Entries, Seq: broken.Seq, Why: broken.Why}, nil
	case err != nil:
		return nil, err
	}
	good := &Verdict{OK: true, Entries: v.Entries, Head: v.Head.String()}
	if v.First > 1 {
		good.First = v.First
	}
	return good, nil
}
