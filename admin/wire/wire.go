// Package wire is what goes over the management API: the requests and answers as
// JSON has them, and the forms of durations, amounts and real keys in it.
//
// The server answers with these types and the command line reads them. It knows
// neither how a key comes to be what its object shows, nor how calls are made or
// served.
package wire

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// MaxPage is the largest page that the API gives.
const MaxPage = 500

// BasePath is where the API is on Caddy's admin endpoint.
const BasePath = "/till"

// Span is a duration as people write it: "24h", "7d".
type Span time.Duration

func (s *Span) UnmarshalText(text []byte) error {
	d, err := caddy.ParseDuration(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("a duration is written 90s, 24h or 7d, got %q", text)
	}
	*s = Span(d)
	return nil
}

// Dollars is an amount as the API writes it: text with decimals, such as "5.00".
// Numbers are taken, too.
type Dollars int64

func (d *Dollars) UnmarshalJSON(b []byte) error {
	n, err := limiter.ParseUSD(strings.Trim(string(b), `"`))
	*d = Dollars(n)
	return err
}

// RealKey is an upstream's own key, to be sealed. Its errors do not quote it.
type RealKey struct{ token.Secret }

func (k *RealKey) UnmarshalText(text []byte) error {
	value := strings.TrimSpace(string(text))
	switch {
	case value == "" || len(value) > token.MaxCredential:
		return fmt.Errorf("must be the upstream's own key, from 1 to %d bytes long; got %d", token.MaxCredential, len(value))
	case token.HoldsKey(value):
		return errors.New("must be the upstream's own key, not a scoped key of till")
	}
	if err := token.CheckCredential(value); err != nil {
		return err
	}
	k.Secret = token.NewSecret(value)
	return nil
}

// String writes a duration without empty parts: "24h", not "24h0m0s", and none
// of nothing.
func (s Span) String() string {
	if s == 0 {
		return ""
	}
	text := time.Duration(s).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
