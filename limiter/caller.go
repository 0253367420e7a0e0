package limiter

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
)

// Caller is the one who requests an administrative act. Every such act of this
// package takes a Caller and is authorised here, however it came.
type Caller struct {
	// Name is what created_by, the audit log and the logs say: "operator" for a
	// caller on the management socket, otherwise the name of a token, or the id
	// of the key that the caller holds.
	Name string
	// Token is the id of the caller's admin token; empty for others.
	Token string
	// Role decides what the caller may do. A role that is not configured may
	// do nothing.
	Role string
	// From is the address that the caller came from, as text.
	From string
	// Session says that the caller is signed in to the console, and showed no token.
	Session bool

	holder string // id of the key that the caller holds
	once   *Once  // the caller's next act is done only once
}

var (
	// Operator is the caller behind Caddy's admin endpoint or till's own socket.
	Operator = Caller{Name: record.OperatorName, Role: record.OperatorRole}
	// itself is the caller of acts that a key's own rules bring about.
	itself = Caller{Name: "till", Role: record.OperatorRole}
)

// At returns the caller as it came from an address.
func (c Caller) At(address string) Caller {
	c.From = address
	return c
}

// Holder is the caller who holds a key's string.
func Holder(key *record.Key, from string) Caller {
	return Caller{Name: key.ID, From: from, holder: key.ID}
}

// These say who is not let in, and what a caller may not do.
var (
	// ErrToken says that no living token has this string.
	ErrToken = errors.New("this admin token is not known here, or has expired or was revoked")
	// ErrAttempts says that too many unknown tokens came from the address.
	ErrAttempts = errors.New("too many unknown admin tokens came from this address: wait a minute")
	// ErrForbidden is wrapped by the answer to a caller whose role does not give it the
	// permission.
	ErrForbidden = errors.New("not permitted")
)

// entry is an act of the caller, for the audit log.
func (c Caller) entry(action, key string, changes map[string]record.Delta) *act {
	return &act{Entry: audit.Entry{Actor: c.Name, From: c.From, Action: action, Key: key, Changes: changes}, once: c.once}
}

// stopEntry returns the entry of an act that stops a key. The act is already in force in
// memory, so whatever is recorded under its idempotency key cannot undo it.
func (c Caller) stopEntry(action, key string, changes map[string]record.Delta) *act {
	e := c.entry(action, key, changes)
	e.inForce = true
	return e
}

// act is an entry of the audit log, and the call that caused it.
type act struct {
	audit.Entry
	once    *Once
	inForce bool // see stopEntry
}

// Once identifies a call that is to be done once.
type Once struct {
	id   [sha256.Size]byte // of the caller and the key
	call [sha256.Size]byte // of the call's content
	try  [16]byte          // this attempt, which may write more than one entry

	reserve bool // it may take what is reserved for the operator
}

// Once makes the caller's next call happen once under a key. call is a hash of
// everything that makes two calls the same.
func (c Caller) Once(key string, call [sha256.Size]byte) Caller {
	who := cmp.Or(c.Token, c.Name)
	c.once = &Once{id: sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(who), who, key)), call: call, reserve: c.Role == record.OperatorRole}
	rand.Read(c.once.try[:]) // never fails
	return c
}
