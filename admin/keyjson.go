package admin

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
)

// KeyObject is a key as the management API shows it.
type KeyObject struct {
	ID       string         `json:"id"`
	Version  int64          `json:"version,omitempty"`
	Name     string         `json:"name,omitempty"`
	Upstream string         `json:"upstream"`
	Custody  string         `json:"custody,omitempty"`
	Status   limiter.Status `json:"status"`

	MaxActivations *int64         `json:"max_activations,omitempty"`
	MaxTokens      *int64         `json:"max_tokens,omitempty"`
	MaxSpendUSD    string         `json:"max_spend_usd,omitempty"`
	MaxRequestUSD  string         `json:"max_request_spend_usd,omitempty"`
	Renews         string         `json:"renews,omitempty"`
	RenewsAt       *time.Time     `json:"renews_at,omitempty"`
	Fit            *bool          `json:"fit,omitempty"`
	UnknownPrice   string         `json:"unknown_price,omitempty"`
	ExpiresAt      *time.Time     `json:"expires_at,omitempty"`
	IdleTimeout    string         `json:"idle_timeout,omitempty"`
	FirstUseWithin string         `json:"first_use_within,omitempty"`
	Rate           string         `json:"rate,omitempty"`
	MaxConcurrency int            `json:"max_concurrency,omitempty"`
	Charge         limiter.Charge `json:"charge,omitempty"`

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

	// Of tokens and dollars, where the key or its role is limited in them.
	UsedTokens      *int64 `json:"used_tokens,omitempty"`
	HeldTokens      *int64 `json:"held_tokens,omitempty"`
	RemainingTokens *int64 `json:"remaining_tokens,omitempty"`
	UsedSpendUSD    string `json:"used_spend_usd,omitempty"`

	// TokensByKind is what was used in the key's whole life, renewals included.
	TokensByKind *limiter.TokenKinds `json:"tokens_by_kind,omitempty"`

	HeldSpendUSD      string `json:"held_spend_usd,omitempty"`
	RemainingSpendUSD string `json:"remaining_spend_usd,omitempty"`

	// CredentialFingerprint names the real key in a sealed key's box.
	CredentialFingerprint string `json:"credential_fingerprint,omitempty"`
	// SealedWithoutSalt says that no string of the key opens, because a backup left
	// the salts out: it has to be rotated with its upstream_key.
	SealedWithoutSalt bool `json:"sealed_without_salt,omitempty"`

	// Parent is the key that this one is a child of. Children are its own
	// whose rest has not come back; delegated is what they have or used, and
	// returned what this one gave back to its parent when it had ended.
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

	// RotatedAt is when the key got its present string, GraceEndsAt until when
	// the one before it works or worked.
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
}

// KeyJSON is the key object for those who manage keys.
func KeyJSON(v limiter.View) *KeyObject {
	k := HolderJSON(v)
	k.Version, k.Custody = v.Version, v.Custody
	k.Role, k.Owner, k.Purpose = v.Role, v.Owner, v.Purpose
	k.Labels, k.Metadata = v.Labels, v.Metadata
	k.CreatedBy, k.LastIP = v.CreatedBy, v.LastAddr
	k.CredentialFingerprint, k.SealedWithoutSalt = v.Fingerprint, v.Unsalted
	if v.Status == limiter.Suspended && !(v.SuspendedAt.IsZero() && v.SuspendedBy == limiter.Stopper{}) { // and not a key above it alone
		k.SuspendedBy = v.SuspendedBy.Title()
	}
	return k
}

// HolderJSON is the key object for whoever holds the key: without what was
// noted about it for others.
func HolderJSON(v limiter.View) *KeyObject {
	k := &KeyObject{
		ID: v.ID, Name: v.Name, Upstream: v.Upstream, Status: v.Status,
		ExpiresAt: moment(v.ExpiresAt), IdleTimeout: short(v.IdleTimeout), FirstUseWithin: short(v.FirstUseWithin),
		Rate: v.Rate.String(), MaxConcurrency: v.MaxConcurrency, Charge: v.Charge,
		Models: v.Scope.Models, Paths: v.Scope.Paths, Methods: v.Scope.Methods, PinIP: v.Scope.PinIP,
		SelfRevoke:      v.SelfRevoke,
		UsedActivations: v.Used[limiter.Activations], HeldActivations: v.Held[limiter.Activations],
		CreatedAt: v.CreatedAt.UTC(), FirstUsedAt: moment(v.FirstUsedAt), LastUsedAt: moment(v.LastUsedAt),
		EndedAt: moment(v.EndedAt), EndedReason: v.EndedReason,
	}
	if limit := v.Limit[limiter.Activations]; limit != limiter.NoLimit {
		left := v.Remaining[limiter.Activations]
		k.MaxActivations, k.RemainingActivations = &limit, &left
	}
	if limit, used := v.Limit[limiter.Tokens], v.Used[limiter.Tokens]; limit != limiter.NoLimit || used > 0 {
		held := v.Held[limiter.Tokens]
		k.UsedTokens, k.HeldTokens = &used, &held
		if limit != limiter.NoLimit {
			left := v.Remaining[limiter.Tokens]
			k.MaxTokens, k.RemainingTokens = &limit, &left
		}
	}
	if limit, used := v.Limit[limiter.Nanodollars], v.Used[limiter.Nanodollars]; limit != limiter.NoLimit || used > 0 {
		k.UsedSpendUSD, k.HeldSpendUSD = limiter.FormatUSD(used), limiter.FormatUSD(v.Held[limiter.Nanodollars])
		if limit != limiter.NoLimit {
			k.MaxSpendUSD, k.RemainingSpendUSD = limiter.FormatUSD(limit), limiter.FormatUSD(v.Remaining[limiter.Nanodollars])
			k.UnknownPrice = map[bool]string{false: "refuse", true: "count_only"}[v.CountOnly]
		}
	}
	if v.Kinds != (limiter.TokenKinds{}) {
		k.TokensByKind = &v.Kinds
	}
	k.Renews, k.RenewsAt = string(v.Renews), moment(v.RenewsAt)
	if v.MaxRequestSpend > 0 {
		k.MaxRequestUSD = limiter.FormatUSD(v.MaxRequestSpend)
	}
	if k.MaxTokens != nil || k.MaxSpendUSD != "" {
		fit := !v.Unfitted
		k.Fit = &fit
	}
	k.Delegate, k.Parent, k.Children, k.ReturnedAt = v.Delegate, v.Parent, v.Children, moment(v.ReturnedAt)
	k.DelegatedActivations, k.ReturnedActivations = v.Delegated[limiter.Activations], v.Returned[limiter.Activations]
	k.DelegatedTokens, k.ReturnedTokens = v.Delegated[limiter.Tokens], v.Returned[limiter.Tokens]
	if n := v.Delegated[limiter.Nanodollars]; n > 0 {
		k.DelegatedSpendUSD = limiter.FormatUSD(n)
	}
	if n := v.Returned[limiter.Nanodollars]; n > 0 {
		k.ReturnedSpendUSD = limiter.FormatUSD(n)
	}
	k.RotatedAt = moment(v.RotatedAt)
	if n := len(v.Former); n > 0 {
		k.GraceEndsAt = moment(v.Former[n-1].Until)
	}
	for _, p := range v.Scope.IPs {
		if p.IsSingleIP() {
			k.IPs = append(k.IPs, p.Addr().String())
			continue
		}
		k.IPs = append(k.IPs, p.String())
	}
	return k
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// short writes a duration without empty parts: "24h", not "24h0m0s".
func short(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
