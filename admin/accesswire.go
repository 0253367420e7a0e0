package admin

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter"
)

// roleObject is a role as the management API shows it. What is left out is not
// limited.
type roleObject struct {
	Name           string               `json:"name"`
	Permissions    []limiter.Permission `json:"permissions"`
	Sees           limiter.Sight        `json:"sees"`
	Upstreams      []string             `json:"upstreams,omitempty"`
	Models         []string             `json:"models,omitempty"`
	Methods        []string             `json:"methods,omitempty"`
	Paths          []string             `json:"paths,omitempty"`
	IPs            []string             `json:"ips,omitempty"`
	MaxActivations *int64               `json:"max_activations,omitempty"`
	MaxTokens      *int64               `json:"max_tokens,omitempty"`
	MaxSpendUSD    string               `json:"max_spend_usd,omitempty"`
	MaxLifetime    string               `json:"max_lifetime,omitempty"`
	Budget         *budgetObject        `json:"budget,omitempty"`
}

// budgetObject is what all keys of a role may use together, and have used.
type budgetObject struct {
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
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Role       string         `json:"role"`
	Status     limiter.Status `json:"status"`
	CreatedAt  time.Time      `json:"created_at"`
	CreatedBy  string         `json:"created_by"`
	ExpiresAt  *time.Time     `json:"expires_at,omitempty"`
	LastUsedAt *time.Time     `json:"last_used_at,omitempty"`
	RevokedAt  *time.Time     `json:"revoked_at,omitempty"`
	// Token is the string, told once.
	Token string `json:"token,omitempty"`
}

// listedTokens is a page of admin tokens, the newest first.
type listedTokens struct {
	Tokens []*TokenObject `json:"tokens"`
	Next   string         `json:"next,omitempty"`
}

// rolesAnswer lists the configured roles.
type rolesAnswer struct {
	Roles []roleObject `json:"roles"`
}

// listedEntries is a page of the audit log, by rising seq.
type listedEntries struct {
	Entries []json.RawMessage `json:"entries"`
	Next    string            `json:"next,omitempty"`
	Partial bool              `json:"partial,omitempty"`
}

// verdict is what became of verifying an audit log.
type verdict struct {
	OK      bool   `json:"ok"`
	Entries int64  `json:"entries"`
	First   uint64 `json:"first,omitempty"` // where older entries were pruned
	Head    string `json:"head,omitempty"`
	Seq     uint64 `json:"seq,omitempty"` // the first bad entry
	Why     string `json:"why,omitempty"`
}

// judge turns what verifying found into an answer. Other errors stay.
func judge(v limiter.Verified, err error) (*verdict, error) {
	var broken *limiter.BrokenError
	switch {
	case errors.As(err, &broken):
		return &verdict{Entries: v.Entries, Seq: broken.Seq, Why: broken.Why}, nil
	case err != nil:
		return nil, err
	}
	good := &verdict{OK: true, Entries: v.Entries, Head: v.Head.String()}
	if v.First > 1 {
		good.First = v.First
	}
	return good, nil
}
