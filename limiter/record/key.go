// Package record is what the limiter keeps: keys and their accounts, the kinds of
// limits, roles, and where each record lies in the store. It knows the form of every
// record, which values are valid and what follows from a record alone, and the
// wording of a refusal.
//
// It knows no counter in memory, no commit and no caller: what is used, what is
// written and who may do it is decided by the packages above it.
package record

import (
	"maps"
	"slices"
	"time"

	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
)

// Status says whether a key works and, if not, why. It is derived from the
// record, the account and the clock each time it is asked for; see
// Live.status in package limiter.
type Status string

// These are the statuses of a key. Exhausted and expired keys live again when more is
// granted, suspended ones when they are resumed; revoked is for ever.
const (
	Active    Status = "active"
	Exhausted Status = "exhausted"
	Expired   Status = "expired"
	Revoked   Status = "revoked"
	Suspended Status = "suspended"
)

var Statuses = [...]Status{Active, Exhausted, Expired, Revoked, Suspended}

// Ended reports whether the key has come to an end. A grant or a new window of its budget
// may bring it back, unless it was revoked.
func (s Status) Ended() bool { return s != Active && s != Suspended }

// Charge says which requests use up an activation.
type Charge string

const (
	// ChargeForwarded counts every request that was dispatched. The default.
	ChargeForwarded Charge = "forwarded"
	// ChargeSuccess gives back the activation of answers that are neither 2xx nor
	// 304; at most twice as many requests as activations are forwarded.
	ChargeSuccess Charge = "success"
)

var Charges = [...]Charge{ChargeForwarded, ChargeSuccess}

// Custody says where the real key is.
const (
	// CustodyHeld: with the server, in the upstream's configuration.
	CustodyHeld = "held"
	// CustodySealed: encrypted inside the scoped key's own string.
	CustodySealed = "sealed"
)

// Key is the durable record of a scoped key: everything an operator chose and
// everything that was decided about it, but no counter (those live in its
// account) and no secret (Lookup is the SHA-256 of the key's string).
//
// A *Key handed out by this package is a snapshot that never changes.
type Key struct {
	ID      string       `json:"id"`      // key_ + ULID
	Lookup  token.Lookup `json:"lookup"`  // SHA-256 of the string
	Version int64        `json:"version"` // raised by each change; for If-Match

	Name     string            `json:"name,omitempty"`
	Upstream string            `json:"upstream"`
	Custody  string            `json:"custody"` // CustodyHeld | CustodySealed
	Role     string            `json:"role,omitempty"`
	Owner    string            `json:"owner,omitempty"`
	Purpose  string            `json:"purpose,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`

	Limit  Amounts `json:"limit"` // as granted in total; NoLimit where unlimited
	Charge Charge  `json:"charge"`
	// Renews says when the limits begin again.
	Renews Renewal `json:"renews,omitempty"`
	// MaxRequestSpend bounds one request, in nano-dollars; 0: no bound.
	MaxRequestSpend int64 `json:"max_request_spend,omitempty"`
	// KeepBound says that the output bound of requests is not lowered to what
	// is left; they are refused instead.
	KeepBound bool `json:"unfitted,omitempty"`
	// CountOnly admits requests whose price is not known.
	CountOnly bool `json:"count_only,omitempty"`

	ExpiresAt      time.Time     `json:"expires_at,omitzero"`
	IdleTimeout    time.Duration `json:"idle_timeout,omitempty"`
	FirstUseWithin time.Duration `json:"first_use_within,omitempty"`
	Rate           Rate          `json:"rate,omitzero"`
	MaxConcurrency int           `json:"max_concurrency,omitempty"` // 0: not limited
	SelfRevoke     bool          `json:"self_revoke"`               // whether the holder may revoke it

	Scope scope.Scope `json:"scope,omitzero"`

	// Delegate says that the holder may mint children of the key.
	Delegate bool `json:"delegate,omitempty"`
	// Parent is the key that this one is a child of, and Depth is how many
	// ancestors the key has. See family.go for what follows from that.
	Parent string `json:"parent,omitempty"`
	Depth  int    `json:"depth,omitempty"`
	// Carved is what was taken out of the parent's budget for this key, and
	// CarvedNow is the part of it that was taken in one window of the parent: see
	// CarvedFrom.
	Carved        Amounts `json:"carved,omitzero"`
	CarvedNow     Amounts `json:"carved_now,omitzero"`
	CarvedIn      int64   `json:"carved_in,omitempty"`      // the parent's epoch then
	CarvedLineage uint64  `json:"carved_lineage,omitempty"` // and its lineage; 0: an earlier version wrote this
	// ReturnedAt is when the remaining budget went back, after the end. It is
	// never unset.
	ReturnedAt time.Time `json:"returned_at,omitzero"`

	// SealKey and Origins are what a sealed key's box was made with: the
	// server's seal key, and the upstream's addresses at that time.
	SealKey token.SealKeyID `json:"seal_key,omitzero"`
	Origins []string        `json:"origins,omitempty"`

	// Fingerprint names the credential in its box; see Limiter.Fingerprint.
	Fingerprint string `json:"fingerprint,omitempty"`

	// Rotations counts the strings that the key had before this one. Former are
	// the latest of them, in order.
	Rotations int64     `json:"rotations,omitempty"`
	RotatedAt time.Time `json:"rotated_at,omitzero"`
	Former    []Former  `json:"former,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	// Token is the admin token that the key goes back to: the one that minted it,
	// or that minted its topmost ancestor. Empty: none.
	Token       string    `json:"token,omitempty"`
	SuspendedAt time.Time `json:"suspended_at,omitzero"`
	SuspendedBy Stopper   `json:"suspended_by,omitzero"`
	RevivedAt   time.Time `json:"revived_at,omitzero"` // last grant to an ended key

	// StaleToldAt is when operators were notified that the key is unused.
	StaleToldAt time.Time `json:"stale_told_at,omitzero"`

	// EndedAt, EndedStatus and EndedReason are set once the end is final:
	// at a revocation, and when nothing remains and nothing is in flight.
	EndedAt     time.Time `json:"ended_at,omitzero"`
	EndedStatus Status    `json:"ended_status,omitempty"` // exhausted | expired | revoked
	EndedReason string    `json:"ended_reason,omitempty"` // a Code, or what the operator said

	// Judged is the number of the last job before the record was written; see
	// limiter/job.go.
	Judged int64 `json:"judged,omitempty"`

	// Due is when the sweeper looks at the key again, in Unix seconds.
	Due int64 `json:"due,omitempty"`
}

// Clone returns a deep copy that may be changed.
func (k *Key) Clone() *Key {
	c := *k
	c.Labels = maps.Clone(k.Labels)
	c.Metadata = maps.Clone(k.Metadata)
	c.Scope = k.Scope.Clone()
	c.Origins = slices.Clone(k.Origins)
	c.Former = slices.Clone(k.Former)
	for i := range c.Former {
		c.Former[i].Origins = slices.Clone(c.Former[i].Origins)
	}
	return &c
}

// Recorded is the status by the record alone, without its account.
func (k *Key) Recorded() Status {
	switch {
	case k.EndedStatus != "":
		return k.EndedStatus
	case !k.SuspendedAt.IsZero():
		return Suspended
	default:
		return Active
	}
}

// Canary reports whether the key was made to be refused, so that a thief who uses it
// is noticed.
func (k *Key) Canary() bool { return k.Limit[Activations] == 0 }
