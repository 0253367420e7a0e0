package admin

import (
	"context"
	"fmt"
	"strings"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

const (
	// keysExamined bounds what a diagnosis costs: only this many living keys are
	// examined, the newest first.
	keysExamined = 10_000
	// keysNamed is how many keys a finding names at most.
	keysNamed = 3
	// broadFrom is the number of activations above which a key for everything that
	// its upstream offers is called broad.
	broadFrom = 1000
)

// group counts keys that share a problem, and keeps the ids of the first ones.
type group struct {
	n   int
	ids []string
}

func (g *group) add(id string) {
	if g.n++; len(g.ids) < keysNamed {
		g.ids = append(g.ids, id)
	}
}

func (g *group) names() string {
	s := strings.Join(g.ids, ", ")
	if more := g.n - len(g.ids); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// keyFindings returns findings about the living keys that the caller sees.
func keyFindings(ctx context.Context, l *limiter.Limiter, by limiter.Caller) ([]wire.Finding, error) {
	var endless, lasting, broad, unsalted group
	f, examined := limiter.Filter{Limit: wire.MaxPage}, 0
	for _, f.Status = range record.Statuses { // restored keys are suspended
		for more := !f.Status.Ended(); more && examined < keysExamined; more = f.Cursor != "" {
			page, err := l.List(ctx, by, f)
			if err != nil {
				return nil, err
			}
			for _, k := range page.Keys {
				if k.Unsalted {
					unsalted.add(k.ID)
				}
				if k.Status == record.Suspended {
					continue
				}
				many := k.Limit[record.Activations] == record.NoLimit || k.Limit[record.Activations] > broadFrom
				switch {
				case !k.Bounded():
					endless.add(k.ID)
				case k.ExpiresAt.IsZero() && k.IdleTimeout == 0 && (k.Renews != "" || many):
					lasting.add(k.ID)
				}
				anything := len(k.Scope.Models)+len(k.Scope.Paths)+len(k.Scope.Methods)+len(k.Scope.IPs) == 0 && !k.Scope.PinIP
				if anything && many && !k.Limit.Metered() {
					broad.add(k.ID)
				}
			}
			examined += len(page.Keys) + 1
			f.Cursor = page.Next
		}
	}
	var all []wire.Finding
	for _, f := range []struct {
		check     string
		level     wire.Level
		keys      *group
		one, many string // what is wrong with them
		also      string
		fix       string // %s is the id of the first
	}{
		{"sealed_without_salt", wire.LevelError, &unsalted, "is sealed and has no salt", "are sealed and have no salts",
			", so no string of it opens (a backup without --with-seal was restored)", "caddy till rotate %s --upstream-key - < REAL-KEY"},
		{"unlimited_keys", wire.LevelError, &endless, "has", "have",
			" no limit at all, neither of use nor of time", "caddy till update %s --max-activations 500 --expires-in 24h"},
		{"endless_keys", wire.LevelWarning, &lasting, "never expires", "never expire",
			", and can be used for long", "caddy till update %s --expires-in 30d, or --idle-timeout 7d"},
		{"broad_keys", wire.LevelWarning, &broad, "may", "may",
			" use every model and path of its upstream, from anywhere, more than 1000 times", "caddy till update %s --models gpt-5-mini --paths /v1/responses --ips 10.0.0.0/8"},
	} {
		if f.keys.n > 0 {
			all = append(all, wire.Finding{Check: f.check, Level: f.level, Fix: fmt.Sprintf(f.fix, f.keys.ids[0]),
				What: prose.CountedAs(int64(f.keys.n), "key "+f.one, "keys "+f.many) + f.also + ": " + f.keys.names()})
		}
	}
	return all, nil
}

// tokenFindings returns findings about the admin tokens that the caller sees.
func tokenFindings(ctx context.Context, l *limiter.Limiter, by limiter.Caller) ([]wire.Finding, error) {
	tokens, err := l.ListTokens(by)
	if err != nil {
		return nil, err
	}
	var names, ids []string
	for _, t := range tokens {
		if t.Status(l.Time()) == record.Active && t.ExpiresAt.IsZero() {
			names, ids = append(names, t.Name), append(ids, t.ID)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return []wire.Finding{{Check: "endless_tokens", Level: wire.LevelWarning,
		What: "these admin tokens never expire: " + strings.Join(names[:min(len(names), keysNamed)], ", "),
		Fix:  "caddy till token create NAME --role ROLE --expires-in 90d; then caddy till token revoke " + ids[0]}}, nil
}
