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
	rowIf := func(applies bool, name, value string) {
		if applies {
			row(name, "", value)
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
	used := phrases{prose.Counted(k.UsedActivations, "activation")}
	if k.UsedTokens != nil {
		used = append(used, prose.Counted(*k.UsedTokens, "token"))
	}
	used.add(k.UsedSpendUSD != "", "$"+k.UsedSpendUSD)
	row("Used", ", ", used...)
	if by := k.TokensByKind; by != nil {
		var kinds phrases
		for _, kind := range []struct {
			n    int64
			what string
		}{{by.Input, "input"}, {by.CachedInput, "cached input"}, {by.CacheWrite, "cache write"}, {by.Output, "output"}, {by.Unmeasured, "not metered"}} {
			kinds.add(kind.n > 0, fmt.Sprintf("%d %s", kind.n, kind.what))
		}
		row("Tokens by kind", ", ", kinds...)
	}
	rowIf(k.HeldActivations > 0, "In flight", prose.Counted(k.HeldActivations, "activation"))
	if k.RemainingActivations != nil && *k.MaxActivations > 0 {
		row("Left", "", bar(*k.RemainingActivations, *k.MaxActivations))
	}
	if k.RemainingTokens != nil && *k.MaxTokens > 0 {
		row("Tokens left", "", bar(*k.RemainingTokens, *k.MaxTokens))
	}
	rowIf(k.RemainingSpendUSD != "", "Spend left", "$"+k.RemainingSpendUSD+" of $"+k.MaxSpendUSD)
	if k.Delegate {
		row("Child keys", ", ", append([]string{fmt.Sprint(k.Children)}, amountsOf(k.DelegatedActivations, k.DelegatedTokens, k.DelegatedSpendUSD)...)...)
	}
	row("Child of", "", k.Parent)
	row("Returned", ", ", amountsOf(k.ReturnedActivations, k.ReturnedTokens, k.ReturnedSpendUSD)...)
	row("Renews", "", when(k.RenewsAt))
	row("Expires", "", when(k.ExpiresAt))
	rowIf(k.Charge == record.ChargeSuccess, "Charged", "successes only, within twice the attempts")
	rowIf(k.Fit != nil && !*k.Fit, "Fit", "no: what may use more than is left is refused")
	rowIf(k.UnknownPrice != "refuse", "Unknown price", k.UnknownPrice)
	rowIf(!k.SelfRevoke, "Self-revoke", "no: its holder may not revoke it")
	row("Models", " ", k.Models...)
	row("Paths", " ", k.Paths...)
	row("Methods", " ", k.Methods...)
	row("Addresses", " ", k.IPs...)
	rowIf(k.PinIP, "Pinned", "to the first address that uses it")
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

// phrases are the parts from which a line about a key is joined.
type phrases []string

// add adds a phrase if it applies.
func (p *phrases) add(applies bool, text string) {
	if applies {
		*p = append(*p, text)
	}
}

func limitsOf(k *wire.KeyObject) []string {
	var parts phrases
	if k.MaxActivations != nil {
		parts = append(parts, prose.Counted(*k.MaxActivations, "activation"))
	}
	if k.MaxTokens != nil {
		parts = append(parts, prose.Counted(*k.MaxTokens, "token"))
	}
	parts.add(k.MaxSpendUSD != "", "$"+k.MaxSpendUSD)
	parts.add(k.MaxRequestUSD != "", "$"+k.MaxRequestUSD+" a request")
	parts.add(k.Renews != "", "renews each "+k.Renews)
	if k.ExpiresAt != nil {
		parts = append(parts, "until "+k.ExpiresAt.Format("2006-01-02 15:04 MST"))
	}
	parts.add(k.Rate != "", k.Rate)
	parts.add(k.MaxConcurrency > 0, fmt.Sprintf("%d at a time", k.MaxConcurrency))
	parts.add(k.IdleTimeout != "", "idle "+k.IdleTimeout)
	parts.add(k.FirstUseWithin != "", "first use within "+k.FirstUseWithin)
	if len(parts) == 0 {
		return []string{"none"}
	}
	return parts
}

// amountsOf describes amounts, without the kinds that are zero.
func amountsOf(activations, tokens int64, spendUSD string) []string {
	var parts phrases
	parts.add(activations > 0, prose.Counted(activations, "activation"))
	parts.add(tokens > 0, prose.Counted(tokens, "token"))
	parts.add(spendUSD != "", "$"+spendUSD)
	return parts
}
