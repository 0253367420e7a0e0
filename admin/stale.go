package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

func (a *api) stale(l *limiter.Limiter, r *http.Request) (any, error) {
	var reason, cursor string
	var limit int
	for name, values := range r.URL.Query() {
		if len(values) != 1 {
			return nil, invalid("%s may be given once", name)
		}
		switch name {
		case "reason":
			reason = values[0]
		case "cursor":
			cursor = values[0]
		case "limit":
			var err error
			if limit, err = pageSize(values[0]); err != nil {
				return nil, err
			}
		default:
			return nil, invalid("unknown filter %q; the filters are reason, limit, cursor", prose.Cut(name, 64))
		}
	}
	page, err := l.Stale(r.Context(), a.caller, limiter.StaleReason(reason), limit, cursor)
	if err != nil {
		return nil, err
	}
	now := l.Time()
	answer := wire.StaleAnswer{Keys: []wire.StaleEntry{}, Next: page.Next, Partial: page.Partial}
	for i := range page.Keys {
		s := &page.Keys[i]
		for _, reason := range s.Reasons {
			detail, fix := advise(s, reason, now)
			answer.Keys = append(answer.Keys, wire.StaleEntry{Key: keyJSON(s.View), Reason: reason, Detail: detail, Fix: fix})
		}
	}
	return answer, nil
}

// advise says what is wrong with a key, and which command fixes it.
func advise(s *limiter.StaleKey, reason limiter.StaleReason, now time.Time) (detail, fix string) {
	switch reason {
	case limiter.StaleNeverUsed:
		return "minted " + prose.Relative(s.CreatedAt, now) + " and never used", "caddy till revoke " + s.ID + " --reason unused"
	case limiter.StaleUnused:
		return "last used " + prose.Relative(s.Since, now), "caddy till revoke " + s.ID + " --reason unused"
	case limiter.StaleExpiring:
		return "ends " + prose.Relative(s.ExpiresAt, now) + ", at " + s.ExpiresAt.UTC().Format(time.RFC3339),
			"caddy till grant " + s.ID + " --expires-in " + lifetime(s.ExpiresAt.Sub(s.CreatedAt))
	}
	return adviseNarrower(s)
}

// lifetime writes a duration as the command line takes it.
func lifetime(d time.Duration) string {
	if d >= 48*time.Hour {
		return strconv.FormatInt(int64(d.Round(24*time.Hour)/(24*time.Hour)), 10) + "d"
	}
	return wire.Span(max(d.Round(time.Minute), time.Minute)).String()
}

// adviseNarrower says how much of a key's limits and models is used, and which
// command narrows the key to that.
func adviseNarrower(s *limiter.StaleKey) (detail, fix string) {
	var facts, flags []string
	for _, over := range s.Over {
		limit := s.Limit[over.Kind]
		windows := max(over.Granted/max(limit, 1), 1)
		// Four times what was used is plenty, and the command is proposed only if
		// it is less than the present limit.
		wanted := roundUp(max(4*over.Used/windows, leastGrant[over.Kind]))
		noun := ""
		if over.Kind == record.Tokens {
			noun = " tokens"
		}
		facts = append(facts, fmt.Sprintf("%s%s granted, %s used", over.Kind.Format(over.Granted), noun, over.Kind.Format(over.Used)))
		if wanted < limit {
			flag := "--" + strings.ReplaceAll(over.Kind.LimitField(), "_", "-")
			flags = append(flags, flag+" "+strings.TrimPrefix(over.Kind.Format(wanted), "$"))
		}
	}
	if listed := len(s.Scope.Models); listed > 0 && !s.Seen.MoreModels && len(s.Seen.Models) > 0 {
		used := 0
		for _, pattern := range s.Scope.Models {
			one := scope.Scope{Models: []string{pattern}}
			if slices.ContainsFunc(s.Seen.Models, one.AllowsModel) {
				used++
			}
		}
		facts = append(facts, fmt.Sprintf("%d of %s", used, prose.Counted(int64(listed), "model")))
		if used < listed && len(s.Seen.Models) <= maxNamedModels && !slices.ContainsFunc(s.Seen.Models, awkward) {
			flags = append(flags, "--models "+strings.Join(s.Seen.Models, ","))
		}
	}
	switch n := len(s.Seen.Addrs); {
	case s.Seen.MoreAddrs:
		facts = append(facts, fmt.Sprintf("more than %d addresses", n))
	case n == 1:
		facts = append(facts, "one address")
	case n > 1:
		facts = append(facts, fmt.Sprintf("%d addresses", n))
	}
	detail = strings.Join(facts, ", ")
	if len(flags) == 0 {
		return detail, "caddy till show " + s.ID
	}
	return detail, "caddy till update " + s.ID + " " + strings.Join(flags, " ")
}

// maxNamedModels bounds how many models a proposed command names.
const maxNamedModels = 5

// awkward reports whether the name of a model, which a client chose, must not be
// put into a command that people run.
func awkward(model string) bool {
	return clients.Quote(model) != model || strings.HasPrefix(model, "-")
}

// leastGrant is the smallest limit that is proposed.
var leastGrant = [record.NumKinds]int64{record.Activations: 10, record.Tokens: 1000, record.Nanodollars: 1e8}

// roundUp rounds up to 1, 2 or 5 times a power of ten.
func roundUp(n int64) int64 {
	for unit := int64(1); ; unit *= 10 {
		for _, digit := range []int64{1, 2, 5} {
			if digit*unit >= n {
				return digit * unit
			}
		}
	}
}
