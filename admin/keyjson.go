package admin

import (
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// KeyJSON is the key object for those who manage keys.
func KeyJSON(v limiter.View) *wire.KeyObject {
	k := HolderJSON(v)
	k.Version, k.Custody = v.Version, v.Custody
	k.Role, k.Owner, k.Purpose = v.Role, v.Owner, v.Purpose
	k.Labels, k.Metadata = v.Labels, v.Metadata
	k.CreatedBy, k.LastIP = v.CreatedBy, v.LastAddr
	k.CredentialFingerprint, k.SealedWithoutSalt = v.Fingerprint, v.Unsalted
	if v.Status == limiter.Suspended && !(v.SuspendedAt.IsZero() && v.SuspendedBy == limiter.Stopper{}) { // not if only an ancestor is suspended
		k.SuspendedBy = v.SuspendedBy.Title()
	}
	return k
}

// HolderJSON is the key object for the holder of the key, without what others noted
// about the key.
func HolderJSON(v limiter.View) *wire.KeyObject {
	k := &wire.KeyObject{
		ID: v.ID, Name: v.Name, Upstream: v.Upstream, Status: v.Status,
		ExpiresAt: optionalTime(v.ExpiresAt), IdleTimeout: wire.Span(v.IdleTimeout).String(), FirstUseWithin: wire.Span(v.FirstUseWithin).String(),
		Rate: v.Rate.String(), MaxConcurrency: v.MaxConcurrency, Charge: v.Charge,
		Models: v.Scope.Models, Paths: v.Scope.Paths, Methods: v.Scope.Methods, PinIP: v.Scope.PinIP,
		SelfRevoke:      v.SelfRevoke,
		UsedActivations: v.Used[limiter.Activations], HeldActivations: v.Held[limiter.Activations],
		CreatedAt: v.CreatedAt.UTC(), FirstUsedAt: optionalTime(v.FirstUsedAt), LastUsedAt: optionalTime(v.LastUsedAt),
		EndedAt: optionalTime(v.EndedAt), EndedReason: v.EndedReason,
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
	k.Renews, k.RenewsAt = string(v.Renews), optionalTime(v.RenewsAt)
	if v.MaxRequestSpend > 0 {
		k.MaxRequestUSD = limiter.FormatUSD(v.MaxRequestSpend)
	}
	if k.MaxTokens != nil || k.MaxSpendUSD != "" {
		fit := !v.Unfitted
		k.Fit = &fit
	}
	k.Delegate, k.Parent, k.Children, k.ReturnedAt = v.Delegate, v.Parent, v.Children, optionalTime(v.ReturnedAt)
	k.DelegatedActivations, k.ReturnedActivations = v.Delegated[limiter.Activations], v.Returned[limiter.Activations]
	k.DelegatedTokens, k.ReturnedTokens = v.Delegated[limiter.Tokens], v.Returned[limiter.Tokens]
	if n := v.Delegated[limiter.Nanodollars]; n > 0 {
		k.DelegatedSpendUSD = limiter.FormatUSD(n)
	}
	if n := v.Returned[limiter.Nanodollars]; n > 0 {
		k.ReturnedSpendUSD = limiter.FormatUSD(n)
	}
	k.RotatedAt = optionalTime(v.RotatedAt)
	if n := len(v.Former); n > 0 {
		k.GraceEndsAt = optionalTime(v.Former[n-1].Until)
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

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
