// Package token makes and reads the strings that till hands out: scoped keys
// (till_sk_…) and admin tokens (till_admin_…). It knows their alphabet, their
// checksum and the hash under which they are looked up; it does not know
// whether a key exists, what it may do, or how it arrived.
//
// It uses the standard library's cryptography only, and imports nothing of
// this project.
package token

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is every printed form of a Secret.
const redacted = "[redacted]"

// Secret holds a credential or a key's string. However it is printed, logged or
// marshalled, alone or inside another value, it shows "[redacted]"; only Reveal
// returns the text.
type Secret struct {
	// A function value is the one thing that the printers of fmt and reflect cannot
	// look into: they print an address.
	reveal func() string
}

// NewSecret wraps s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{reveal: func() string { return s }}
}

// Reveal returns the text. Call it where the secret is used, never before.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.reveal == nil }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements encoding.TextMarshaler, and so also JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Interface guards
var (
	_ fmt.Formatter  = Secret{}
	_ slog.LogValuer = Secret{}
)
