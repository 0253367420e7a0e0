package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

func showCommand(f *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "show KEY...",
		Short: "Shows keys, by id or name",
		Long:  `Shows everything about keys, and what is left of their limits.`,
		Example: `  caddy till show nightly
  caddy till show nightly --json | jq .remaining_activations`,
		Args: argCount(1, 0, "the keys to show, by id or name"),
		RunE: f.calling(func(cmd *cobra.Command, c *client, args []string) error {
			return each(args, func(i int, arg string) error {
				k, err := c.find(cmd.Context(), arg, byPrefix)
				if err != nil {
					return err
				}
				if f.json {
					return printValue(cmd.OutOrStdout(), k)
				}
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				return printSheet(cmd.OutOrStdout(), k, time.Now())
			})
		}),
	}
}

func printSheet(w io.Writer, k *wire.KeyObject, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, separator string, values ...string) {
		for _, line := range wrap(values, separator, tableWidth-14) {
			fmt.Fprintf(t, "%s\t%s\n", name, line)
			name = ""
		}
	}
	when := func(at *time.Time) string {
		if at == nil {
			return ""
		}
		return at.Format("2006-01-02 15:04:05 MST") + " (" + prose.Relative(*at, now) + ")"
	}
	row("Id", "", k.ID)
	row("Name", " ", strings.Fields(k.Name)...)
	row("Status", "", string(k.Status))
	row("Upstream", "", k.Upstream+" ("+cmp.Or(k.Custody, "-")+")")
	if k.SealedWithoutSalt {
		row("Unusable", " ", strings.Fields(withoutSalt(k.ID))...)
	}
	row("Limits", ", ", limitsOf(k)...)
	used := []string{prose.Counted(k.UsedActivations, "activation")}
	if k.UsedTokens != nil {
		used = append(used, prose.Counted(*k.UsedTokens, "token"))
	}
	if k.UsedSpendUSD != "" {
		used = append(used, "$"+k.UsedSpendUSD)
	}
	row("Used", ", ", used...)
	if by := k.TokensByKind; by != nil {
		var kinds []string
		for _, kind := range []struct {
			n    int64
			what string
		}{{by.Input, "input"}, {by.CachedInput, "cached input"}, {by.CacheWrite, "cache write"}, {by.Output, "output"}, {by.Unmeasured, "not metered"}} {
			if kind.n > 0 {
				kinds = append(kinds, fmt.Sprintf("%d %s", kind.n, kind.what))
			}
		}
		row("Tokens by kind", ", ", kinds...)
	}
	if k.HeldActivations > 0 {
		row("In flight", "", prose.Counted(k.HeldActivations, "activation"))
	}
	if k.RemainingActivations != nil && *k.MaxActivations > 0 {
		row("Left", "", bar(*k.RemainingActivations, *k.MaxActivations))
	}
	if k.RemainingTokens != nil && *k.MaxTokens > 0 {
		row("Tokens left", "", bar(*k.RemainingTokens, *k.MaxTokens))
	}
	if k.RemainingSpendUSD != "" {
		row("Spend left", "", "$"+k.RemainingSpendUSD+" of $"+k.MaxSpendUSD)
	}
	if k.Delegate {
		row("Child keys", ", ", append([]string{fmt.Sprint(k.Children)}, amountsOf(k.DelegatedActivations, k.DelegatedTokens, k.DelegatedSpendUSD)...)...)
	}
	row("Child of", "", k.Parent)
	row("Returned", ", ", amountsOf(k.ReturnedActivations, k.ReturnedTokens, k.ReturnedSpendUSD)...)
	row("Renews", "", when(k.RenewsAt))
	row("Expires", "", when(k.ExpiresAt))
	if k.Charge == record.ChargeSuccess {
		row("Charged", "", "successes only, within twice the attempts")
	}
	if k.Fit != nil && !*k.Fit {
		row("Fit", "", "no: what may use more than is left is refused")
	}
	if k.UnknownPrice != "" && k.UnknownPrice != "refuse" {
		row("Unknown price", "", k.UnknownPrice)
	}
	if !k.SelfRevoke {
		row("Self-revoke", "", "no: its holder may not revoke it")
	}
	row("Models", " ", k.Models...)
	row("Paths", " ", k.Paths...)
	row("Methods", " ", k.Methods...)
	row("Addresses", " ", k.IPs...)
	if k.PinIP {
		row("Pinned", "", "to the first address that uses it")
	}
	row("Role", "", k.Role)
	row("Owner", " ", strings.Fields(k.Owner)...)
	row("Purpose", " ", strings.Fields(k.Purpose)...)
	for _, name := range slices.Sorted(maps.Keys(k.Labels)) {
		row("Label", "", name+"="+k.Labels[name])
	}
	for _, name := range slices.Sorted(maps.Keys(k.Metadata)) {
		row("Metadata", "", name+"="+k.Metadata[name])
	}
	row("Minted", "", when(&k.CreatedAt)+" by "+k.CreatedBy)
	row("First used", "", when(k.FirstUsedAt))
	row("Last used", "", when(k.LastUsedAt))
	row("From", "", k.LastIP)
	row("Suspended by", "", k.SuspendedBy)
	row("Ended", "", when(k.EndedAt))
	row("Reason", " ", strings.Fields(k.EndedReason)...)
	return t.Flush()
}

// withoutSalt says why no string of a sealed key opens, and how to fix that.
func withoutSalt(id string) string {
	return "its salt is missing, so no string of it opens; fix this with: caddy till rotate " + id + " --upstream-key - < REAL-KEY"
}

// bar draws what is left of a limit. It is full only if nothing was used, and empty
// only if nothing is left.
func bar(left, limit int64) string {
	const width = 24
	filled := int(float64(width) * float64(left) / float64(limit))
	if filled == 0 && left > 0 {
		filled = 1
	}
	return fmt.Sprintf("[%s%s] %d of %d", strings.Repeat("#", filled), strings.Repeat(".", width-filled), left, limit)
}

// wrap joins values into lines of at most width characters. A longer value gets a
// line of its own. Empty values are left out.
func wrap(values []string, separator string, width int) []string {
	var lines []string
	for _, v := range values {
		last := len(lines) - 1
		switch {
		case v == "":
		case last >= 0 && len(lines[last])+len(separator)+len(v) <= width:
			lines[last] += separator + v
		default:
			if last >= 0 {
				lines[last] += strings.TrimRight(separator, " ")
			}
			lines = append(lines, v)
		}
	}
	return lines
}

func limitsOf(k *wire.KeyObject) []string {
	var parts []string
	if k.MaxActivations != nil {
		parts = append(parts, prose.Counted(*k.MaxActivations, "activation"))
	}
	if k.MaxTokens != nil {
		parts = append(parts, prose.Counted(*k.MaxTokens, "token"))
	}
	if k.MaxSpendUSD != "" {
		parts = append(parts, "$"+k.MaxSpendUSD)
	}
	if k.MaxRequestUSD != "" {
		parts = append(parts, "$"+k.MaxRequestUSD+" a request")
	}
	if k.Renews != "" {
		parts = append(parts, "renews each "+k.Renews)
	}
	if k.ExpiresAt != nil {
		parts = append(parts, "until "+k.ExpiresAt.Format("2006-01-02 15:04 MST"))
	}
	if k.Rate != "" {
		parts = append(parts, k.Rate)
	}
	if k.MaxConcurrency > 0 {
		parts = append(parts, fmt.Sprintf("%d at a time", k.MaxConcurrency))
	}
	if k.IdleTimeout != "" {
		parts = append(parts, "idle "+k.IdleTimeout)
	}
	if k.FirstUseWithin != "" {
		parts = append(parts, "first use within "+k.FirstUseWithin)
	}
	if len(parts) == 0 {
		return []string{"none"}
	}
	return parts
}

// amountsOf describes amounts, without the kinds that are zero.
func amountsOf(activations, tokens int64, spendUSD string) []string {
	var parts []string
	if activations > 0 {
		parts = append(parts, prose.Counted(activations, "activation"))
	}
	if tokens > 0 {
		parts = append(parts, prose.Counted(tokens, "token"))
	}
	if spendUSD != "" {
		parts = append(parts, "$"+spendUSD)
	}
	return parts
}
