package record

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// AdminToken is the durable record of an admin token: who it is for and what
// role it gives. It has no secret: Lookup is the SHA-256 of its string.
type AdminToken struct {
	ID        string       `json:"id"` // tok_ + ULID
	Lookup    token.Lookup `json:"lookup"`
	Name      string       `json:"name"` // no two tokens have the same
	Role      string       `json:"role"`
	CreatedAt time.Time    `json:"created_at"`
	CreatedBy string       `json:"created_by"`
	// Token is the token that this one was made with; empty if by the operator.
	Token      string    `json:"token,omitempty"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	RevokedAt  time.Time `json:"revoked_at,omitzero"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // a crash may lose the last minute
	// Pending names the nodes that have not yet followed its making or
	// revocation, and until then know it as it was before.
	Pending []string `json:"-"`
}

// Status is active, expired or revoked.
func (t *AdminToken) Status(now time.Time) Status {
	switch {
	case !t.RevokedAt.IsZero():
		return Revoked
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return Expired
	}
	return Active
}

// TokenIDPrefix begins the id of each admin token.
const TokenIDPrefix = "tok_"

// TokenKey is where an admin token is kept; TokenNameKey says which one has a name.
func TokenKey(id string) []byte       { return append([]byte(SpaceTokens+"i/"), id...) }
func TokenNameKey(name string) []byte { return append([]byte(SpaceTokens+"n/"), name...) }

// Facts are what the audit log records of a token.
func (t *AdminToken) Facts(now time.Time) map[string]any {
	f := map[string]any{"name": token.Scrub(t.Name), "role": t.Role, "status": string(t.Status(now))}
	if !t.ExpiresAt.IsZero() {
		f["expires_at"] = Stamp(t.ExpiresAt)
	}
	return f
}

// ReadToken reads an admin token.
func ReadToken(r store.Reader, id string) (*AdminToken, error) {
	key := TokenKey(id)
	v, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	return DecodeToken(key, v)
}

// DecodeToken is the admin token of a row.
func DecodeToken(key, value []byte) (*AdminToken, error) {
	t := new(AdminToken)
	if err := json.Unmarshal(value, t); err != nil {
		return nil, fmt.Errorf("admin token %s: %w: %w", key, ErrRecord, err)
	}
	if string(key) != string(TokenKey(t.ID)) {
		return nil, fmt.Errorf("admin token %s: %w: it says it is %q", key, ErrRecord, t.ID)
	}
	return t, nil
}

// Write writes an admin token.
func (t *AdminToken) Write(tx store.Tx) error { return SetJSON(tx, TokenKey(t.ID), t) }
