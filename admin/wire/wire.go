// Package wire has the types of what is sent over the management API: the JSON of
// requests and answers, and how durations, amounts and real keys are written in it.
//
// The server answers with these types, and the command line reads them. The package
// knows neither how the limiter manages keys, nor how calls are made or served.
package wire

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// MaxPage is the largest number of entries in a page of a list.
const MaxPage = 500

// BasePath is the path of the API on Caddy's admin endpoint.
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

// Dollars is an amount that the API writes as text with decimals, such as "5.00".
// It also reads numbers.
type Dollars int64

func (d *Dollars) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil // as if it were left out
	}
	n, err := record.ParseUSD(strings.Trim(string(b), `"`))
	*d = Dollars(n)
	return err
}

// RealKey is an upstream's own key, which is to be sealed. Errors about it do not
// quote it.
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

// String writes a duration without empty parts: "24h", not "24h0m0s", and an empty
// string for 0.
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

// Replayed is the answer to a call that was done before, under its Idempotency-Key, and
// that was about no key, token or job.
type Replayed struct {
	Replayed bool `json:"replayed"`
}
