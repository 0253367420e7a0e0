package admin

import (
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// keyJSON is the key object for those who manage keys.
func keyJSON(v limiter.View) *wire.KeyObject {
	k := HolderJSON(v)
	k.Version, k.Custody = v.Version, v.Custody
	k.Role, k.Owner, k.Purpose = v.Role, v.Owner, v.Purpose
	k.Labels, k.Metadata = v.Labels, v.Metadata
	k.CreatedBy, k.LastIP, k.Pending = v.CreatedBy, v.LastAddr, v.Pending
	k.CredentialFingerprint, k.SealedWithoutSalt = v.Fingerprint, v.Unsalted
	if v.Status == record.Suspended && !(v.SuspendedAt.IsZero() && v.SuspendedBy == record.Stopper{}) { // not if only an ancestor is suspended
		k.SuspendedBy = v.SuspendedBy.Title()
	}
	return k
}

// HolderJSON is the key object for the holder of the key, without other people's notes
// about the key.
func HolderJSON(v limiter.View) *wire.KeyObject {
	k := &wire.KeyObject{
		ID: v.ID, Name: v.Name, Upstream: v.Upstream, Status: v.Status,
		ExpiresAt: optionalTime(v.ExpiresAt), IdleTimeout: wire.Span(v.IdleTimeout).String(), FirstUseWithin: wire.Span(v.FirstUseWithin).String(),
		Rate: v.Rate.String(), MaxConcurrency: v.MaxConcurrency, Charge: v.Charge,
		Models: v.Scope.Models, Paths: v.Scope.Paths, Methods: v.Scope.Methods, PinIP: v.Scope.PinIP,
		SelfRevoke:      v.SelfRevoke,
		UsedActivations: v.Used[record.Activations], HeldActivations: v.Held[record.Activations],
		CreatedAt: v.CreatedAt.UTC(), FirstUsedAt: optionalTime(v.FirstUsedAt), LastUsedAt: optionalTime(v.LastUsedAt),
		EndedAt: optionalTime(v.EndedAt), EndedReason: v.EndedReason,
	}
	if limit := v.Limit[record.Activations]; limit != record.NoLimit {
		left := v.Remaining[record.Activations]
		k.MaxActivations, k.RemainingActivations = &limit, &left
	}
	if limit, used := v.Limit[record.Tokens], v.Used[record.Tokens]; limit != record.NoLimit || used > 0 {
		held := v.Held[record.Tokens]
		k.UsedTokens, k.HeldTokens = &used, &held
		if limit != record.NoLimit {
			left := v.Remaining[record.Tokens]
			k.MaxTokens, k.RemainingTokens = &limit, &left
		}
	}
	if limit, used := v.Limit[record.Nanodollars], v.Used[record.Nanodollars]; limit != record.NoLimit || used > 0 {
		k.UsedSpendUSD, k.HeldSpendUSD = record.FormatUSD(used), record.FormatUSD(v.Held[record.Nanodollars])
		if limit != record.NoLimit {
			k.MaxSpendUSD, k.RemainingSpendUSD = record.FormatUSD(limit), record.FormatUSD(v.Remaining[record.Nanodollars])
			k.UnknownPrice = map[bool]string{false: "refuse", true: "count_only"}[v.CountOnly]
		}
	}
	if v.Kinds != (record.TokenKinds{}) {
		k.TokensByKind = &v.Kinds
	}
	k.Renews, k.RenewsAt, k.MaxRequestUSD = string(v.Renews), optionalTime(v.RenewsAt), optionalUSD(v.MaxRequestSpend)
	if k.MaxTokens != nil || k.MaxSpendUSD != "" {
		k.Fit = new(!v.KeepBound)
	}
	k.Delegate, k.Parent, k.Children, k.ReturnedAt = v.Delegate, v.Parent, v.Children, optionalTime(v.ReturnedAt)
	k.DelegatedActivations, k.ReturnedActivations = v.Delegated[record.Activations], v.Returned[record.Activations]
	k.DelegatedTokens, k.ReturnedTokens = v.Delegated[record.Tokens], v.Returned[record.Tokens]
	k.DelegatedSpendUSD, k.ReturnedSpendUSD = optionalUSD(v.Delegated[record.Nanodollars]), optionalUSD(v.Returned[record.Nanodollars])
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
	return new(t.UTC())
}

// optionalUSD writes an amount of dollars, and nothing for 0.
func optionalUSD(nano int64) string {
	if nano <= 0 {
		return ""
	}
	return record.FormatUSD(nano)
}
