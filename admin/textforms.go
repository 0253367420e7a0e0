package admin

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// maxPage is the largest page that the API gives.
const maxPage = 500

const basePath = "/till"

// span is a duration as people write it: "24h", "7d".
type span time.Duration

func (s *span) UnmarshalText(text []byte) error {
	d, err := caddy.ParseDuration(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("a duration is written 90s, 24h or 7d, got %q", text)
	}
	*s = span(d)
	return nil
}

// dollars is an amount as the API writes it: text with decimals, such as "5.00".
// Numbers are taken, too.
type dollars int64

func (d *dollars) UnmarshalJSON(b []byte) error {
	n, err := limiter.ParseUSD(strings.Trim(string(b), `"`))
	*d = dollars(n)
	return err
}

// realKey is an upstream's own key, to be sealed. Its errors do not quote it.
type realKey struct{ token.Secret }

func (k *realKey) UnmarshalText(text []byte) error {
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
func (s span) String() string {
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
