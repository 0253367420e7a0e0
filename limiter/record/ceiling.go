package record

import (
	"fmt"
	"time"
)

// CeilingError says which ceiling of a role a request would exceed.
type CeilingError struct {
	Field string // as in the management API
	Role  string
	Msg   string
}

func (e *CeilingError) Error() string {
	return fmt.Sprintf("%s %s: that is the ceiling of role %s", e.Field, e.Msg, e.Role)
}

// lifetimeSlack is by how much a lifetime may exceed the ceiling and still be shortened
// silently: the caller's clock is not the server's.
const lifetimeSlack = time.Minute

func (r *Role) Hold(name string, operator bool, old, key *Key) error {
	for _, f := range KeyFields {
		if f.hold == nil {
			continue
		}
		if msg := f.hold(r, operator, old, key); msg != "" {
			return &CeilingError{Field: f.Name, Role: name, Msg: msg}
		}
	}
	return nil
}

// Exceeds compares two limits, of which NoLimit is the highest.
func Exceeds(a, b int64) bool { return b != NoLimit && (a == NoLimit || a > b) }

// Lacks says which ceiling a mint would have set on a key that lacks it. as is the key
// as that mint would have made it.
func (r *Role) Lacks(name string, key, as *Key) error {
	for _, f := range KeyFields {
		if f.lacks != nil && f.Fact(key) == nil && f.Fact(as) != nil {
			return &CeilingError{Field: f.Name, Role: name, Msg: f.lacks(as)}
		}
	}
	return nil
}
