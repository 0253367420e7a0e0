package admin

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

func TestTheFixOfAStaleKeyIsPrintedInFull(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	base := func() *limiter.StaleKey {
		s := &limiter.StaleKey{Seen: &limiter.Seen{}, Since: now.Add(-45 * 24 * time.Hour)}
		s.ID, s.CreatedAt, s.Limit = "key_X", now.Add(-60*24*time.Hour), record.NoLimits()
		return s
	}
	forty := make([]string, 40)
	for i := range forty {
		forty[i] = "model-" + string(rune('a'+i%26)) + string(rune('0'+i/26))
	}
	for _, test := range []struct {
		name        string
		make        func(*limiter.StaleKey)
		reason      limiter.StaleReason
		detail, fix string
	}{
		{"never used", func(*limiter.StaleKey) {}, limiter.StaleNeverUsed, "minted 60d ago and never used", "caddy till revoke key_X --reason unused"},
		{"unused", func(*limiter.StaleKey) {}, limiter.StaleUnused, "last used 45d ago", "caddy till revoke key_X --reason unused"},
		{"expiring", func(s *limiter.StaleKey) { s.ExpiresAt = now.Add(3 * time.Hour) }, limiter.StaleExpiring,
			"ends in 3h, at 2026-11-24T12:00:00Z", "caddy till grant key_X --expires-in 60d"},
		{"as the interface has it", func(s *limiter.StaleKey) {
			s.Limit[record.Activations] = 500
			s.Over = []limiter.OverGrant{{Kind: record.Activations, Granted: 500, Used: 12}}
			s.Scope = scope.Scope{Models: forty}
			s.Seen = &limiter.Seen{Models: []string{forty[3]}, Addrs: []string{"192.0.2.1"}}
		}, limiter.StaleOverGranted, "500 granted, 12 used, 1 of 40 models, one address", "caddy till update key_X --max-activations 50 --models " + forty[3]},
		{"of every kind", func(s *limiter.StaleKey) {
			s.Limit[record.Tokens], s.Limit[record.Nanodollars] = 1_000_000, 5e9
			s.Over = []limiter.OverGrant{{Kind: record.Tokens, Granted: 1_000_000, Used: 1500}, {Kind: record.Nanodollars, Granted: 5e9, Used: 12e7}}
			s.Seen.Addrs = []string{"a", "b"}
		}, limiter.StaleOverGranted, "1000000 tokens granted, 1500 used, $5.00 granted, $0.12 used, 2 addresses",
			"caddy till update key_X --max-tokens 10000 --max-spend-usd 0.50"},
		{"renewing", func(s *limiter.StaleKey) {
			s.Limit[record.Activations] = 100
			s.Over = []limiter.OverGrant{{Kind: record.Activations, Granted: 3000, Used: 90}}
		}, limiter.StaleOverGranted, "3000 granted, 90 used", "caddy till update key_X --max-activations 20"},
		{"little as it is", func(s *limiter.StaleKey) {
			s.Limit[record.Activations] = 10
			s.Over = []limiter.OverGrant{{Kind: record.Activations, Granted: 10, Used: 1}}
		}, limiter.StaleOverGranted, "10 granted, 1 used", "caddy till show key_X"},
		{"a model's name that is a command", func(s *limiter.StaleKey) {
			s.Limit[record.Activations] = 500
			s.Over = []limiter.OverGrant{{Kind: record.Activations, Granted: 500, Used: 0}}
			s.Scope = scope.Scope{Models: []string{"*", "x"}}
			s.Seen = &limiter.Seen{Models: []string{"$(reboot)"}, MoreAddrs: true, Addrs: make([]string, 16)}
		}, limiter.StaleOverGranted, "500 granted, 0 used, 1 of 2 models, more than 16 addresses", "caddy till update key_X --max-activations 10"},
	} {
		s := base()
		test.make(s)
		if detail, fix := advise(s, test.reason, now); detail != test.detail || fix != test.fix {
			t.Errorf("%s:\n%s\n%s\nwant\n%s\n%s", test.name, detail, fix, test.detail, test.fix)
		}
	}
}
