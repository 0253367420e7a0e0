package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/scope"
)

// staleEntry is a key that somebody should look at, for one reason.
type staleEntry struct {
	Key    *KeyObject          `json:"key"`
	Reason limiter.StaleReason `json:"reason"`
	Detail string              `json:"detail"`
	// Fix is the command that mends it.
	Fix string `json:"fix"`
}

type staleAnswer struct {
	Keys    []staleEntry `json:"keys"`
	Next    string       `json:"next,omitempty"`
	Partial bool         `json:"partial,omitempty"`
}

func (a *api) stale(l *limiter.Limiter, r *http.Request) (int, any, error) {
	var reason, cursor string
	var limit int
	for name, values := range r.URL.Query() {
		if len(values) != 1 {
			return 0, nil, invalid("%s may be given once", name)
		}
		switch name {
		case "reason":
			reason = values[0]
		case "cursor":
			cursor = values[0]
		case "limit":
			n, err := strconv.Atoi(values[0])
			if err != nil || n < 1 {
				return 0, nil, invalid("limit must be at least 1, got %q", values[0])
			}
			limit = n
		default:
			return 0, nil, invalid("unknown filter %q; there are reason, limit, cursor", cut(name, 64))
		}
	}
	page, err := l.Stale(r.Context(), a.caller, limiter.StaleReason(reason), limit, cursor)
	if err != nil {
		return 0, nil, err
	}
	now := l.Time()
	answer := staleAnswer{Keys: []staleEntry{}, Next: page.Next, Partial: page.Partial}
	for i := range page.Keys {
		s := &page.Keys[i]
		for _, reason := range s.Reasons {
			detail, fix := mend(s, reason, now)
			answer.Keys = append(answer.Keys, staleEntry{Key: KeyJSON(s.View), Reason: reason, Detail: detail, Fix: fix})
		}
	}
	return http.StatusOK, answer, nil
}

// mend says what is wrong with a key, and the command that mends it.
func mend(s *limiter.StaleKey, reason limiter.StaleReason, now time.Time) (detail, fix string) {
	switch reason {
	case limiter.StaleNeverUsed:
		return "minted " + relative(s.CreatedAt, now) + " and never used", "caddy till revoke " + s.ID + " --reason unused"
	case limiter.StaleUnused:
		return "last used " + relative(s.Since, now), "caddy till revoke " + s.ID + " --reason unused"
	case limiter.StaleExpiring:
		return "ends " + relative(s.ExpiresAt, now) + ", at " + s.ExpiresAt.UTC().Format(time.RFC3339),
			"caddy till grant " + s.ID + " --expires-in " + lifetime(s.ExpiresAt.Sub(s.CreatedAt))
	}
	return narrow(s)
}

// lifetime writes a duration as the command line takes it.
func lifetime(d time.Duration) string {
	if d >= 48*time.Hour {
		return strconv.FormatInt(int64(d.Round(24*time.Hour)/(24*time.Hour)), 10) + "d"
	}
	return short(max(d.Round(time.Minute), time.Minute))
}

// narrow says how much of a key is not needed, and how to grant what is.
func narrow(s *limiter.StaleKey) (detail, fix string) {
	var facts, flags []string
	for _, over := range s.Over {
		limit := s.Limit[over.Kind]
		windows := max(over.Granted/max(limit, 1), 1)
		// Four times what was used is plenty, and still less than before.
		wanted := roundUp(max(4*over.Used/windows, leastGrant[over.Kind]))
		switch over.Kind {
		case limiter.Activations:
			facts = append(facts, fmt.Sprintf("%d granted, %d used", over.Granted, over.Used))
			if wanted < limit {
				flags = append(flags, "--max-activations "+strconv.FormatInt(wanted, 10))
			}
		case limiter.Tokens:
			facts = append(facts, fmt.Sprintf("%d tokens granted, %d used", over.Granted, over.Used))
			if wanted < limit {
				flags = append(flags, "--max-tokens "+strconv.FormatInt(wanted, 10))
			}
		case limiter.Nanodollars:
			facts = append(facts, fmt.Sprintf("$%s granted, $%s used", limiter.FormatUSD(over.Granted), limiter.FormatUSD(over.Used)))
			if wanted < limit {
				flags = append(flags, "--max-spend-usd "+limiter.FormatUSD(wanted))
			}
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
		facts = append(facts, fmt.Sprintf("%d of %s", used, counted(int64(listed), "model")))
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

// maxNamedModels is how many models a proposed command names at most.
const maxNamedModels = 5

// awkward reports whether a model's name, which a client chose, must not stand
// in a command that people run.
func awkward(model string) bool { return quote(model) != model || strings.HasPrefix(model, "-") }

// leastGrant is what is proposed at least.
var leastGrant = [limiter.NumKinds]int64{limiter.Activations: 10, limiter.Tokens: 1000, limiter.Nanodollars: 1e8}

// roundUp makes a number of one digit that is 1, 2 or 5.
func roundUp(n int64) int64 {
	for unit := int64(1); ; unit *= 10 {
		for _, digit := range []int64{1, 2, 5} {
			if digit*unit >= n {
				return digit * unit
			}
		}
	}
}

func staleCommand(f *common) *cobra.Command {
	var reason string
	var limit int
	cmd := &cobra.Command{
		Use:   "stale",
		Short: "Shows keys that somebody should look at, with what mends them",
		Long: `Shows active keys that nobody uses (unused and never_used: for as long as
stale_after says, by default 30 days), that are granted far more than they use
(over_granted: a tenth of a limit at most, after half of the key's life or 30
days), or that end soon (expiring). Under each stands the command that mends it.`,
		Example: `  caddy till stale
  caddy till stale --reason over_granted
  caddy till stale --json | jq -r '.keys[].fix'`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage("--limit must be a count, or 0 for all, got %d", limit)
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			all := staleAnswer{Keys: []staleEntry{}}
			q := url.Values{}
			if reason != "" {
				q.Set("reason", reason)
			}
			for more := true; more; more = all.Next != "" && (limit == 0 || len(all.Keys) < limit) {
				if all.Next != "" {
					q.Set("cursor", all.Next)
				}
				var page staleAnswer
				if err := c.call(cmd.Context(), "GET", "/stale?"+q.Encode(), nil, &page); err != nil {
					return err
				}
				all.Keys, all.Next = append(all.Keys, page.Keys...), page.Next
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), all)
			}
			if err := printStale(cmd.OutOrStdout(), all.Keys); err != nil {
				return err
			}
			if all.Next != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "There are more; show all with: --limit 0\n")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "unused, never_used, over_granted or expiring")
	cmd.Flags().IntVar(&limit, "limit", 100, "how many to show, more or less; 0: all")
	return cmd
}

func printStale(w io.Writer, entries []staleEntry) error {
	var b strings.Builder
	if len(entries) == 0 {
		b.WriteString("No key is stale.\n")
	}
	for _, e := range entries {
		line := e.Key.ID
		if e.Key.Name != "" {
			line += " (" + cut(e.Key.Name, 24) + ")"
		}
		fmt.Fprintf(&b, "%s  %s\n", line, e.Reason)
		for _, part := range wrap(strings.Split(e.Detail, ", "), ", ", tableWidth-2) {
			fmt.Fprintf(&b, "  %s\n", part)
		}
		command, flags, _ := strings.Cut(e.Fix, " --")
		lines := []string{command}
		if flags != "" {
			parts := strings.Split("--"+strings.ReplaceAll(flags, " --", "\x00--"), "\x00")
			lines = wrap(append([]string{command}, parts...), " ", tableWidth-4)
		}
		fmt.Fprintf(&b, "  %s\n", strings.Join(lines, " \\\n    "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// updateCommand changes what a key may do: any flag of create that a living
// key can take.
func updateCommand(f *common) *cobra.Command {
	limits := new(limitFlags)
	var unset []string
	cmd := &cobra.Command{
		Use:   "update KEY",
		Short: "Changes the limits, rules and notes of a key",
		Long: `Changes what is named by a flag, and nothing else. Limits are totals: what was
used stays used; grant adds to them instead. Of a key that has ended, only name
and labels change.`,
		Example: `  caddy till update nightly --max-activations 50 --models gpt-5-mini
  caddy till update nightly --expires-in 7d --owner ops
  caddy till update nightly --unset rate,ips`,
		Args: takes(1, 1, "the key, by id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := limits.fields(cmd.InOrStdin())
			if err != nil {
				return err
			}
			for flag, value := range map[string]bool{"fit": limits.fit, "self-revoke": limits.selfRevoke, "pin-ip": limits.pinIP} {
				if cmd.Flags().Changed(flag) {
					body[strings.ReplaceAll(flag, "-", "_")] = value
				}
			}
			for _, name := range unset {
				field := strings.ReplaceAll(name, "-", "_")
				if _, both := body[field]; both {
					return usage("--unset %s: it is set, too", name)
				}
				body[field] = nil
			}
			if len(body) == 0 {
				return usage("say what to change, such as --max-activations 50")
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			k, err := c.find(cmd.Context(), args[0], exactly)
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "PATCH", "/keys/"+url.PathEscape(k.ID), body)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var after KeyObject
			if err := readable(raw, &after); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Updated %s\n  %s\n", after.ID, strings.Join(wrap(limitsOf(&after), ", ", tableWidth-2), "\n  "))
			return err
		},
	}
	limits.add(cmd)
	cmd.Flags().StringSliceVar(&unset, "unset", nil, "take away: the names of flags, such as rate,models,expires-at")
	for _, name := range []string{"upstream", "upstream-key", "role", "delegate"} { // a key is born with them
		if flag := cmd.Flags().Lookup(name); flag != nil {
			flag.Hidden = true
		}
	}
	return cmd
}
