package cli

import (
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
)

func statsCommand(f *common) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Shows the sums over all keys and the state of the store",
		Long: `Shows how many keys there are by status, how many requests run now, and whether
the store is in order.`,
		Example: "  caddy till stats --json | jq .holds",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "GET", "/stats", nil)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var s wire.StatsAnswer
			if err := readable(raw, &s); err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, status := range slices.Sorted(maps.Keys(s.Keys)) {
				fmt.Fprintf(t, "Keys %s\t%d\n", status, s.Keys[status])
			}
			fmt.Fprintf(t, "Activations used, by all keys ever\t%d\nTokens\t%d\nSpend\t$%s\n", s.UsedActivations, s.UsedTokens, s.UsedSpendUSD)
			fmt.Fprintf(t, "Requests in flight\t%d\nForfeited by crashes, at most\t%d\n", s.Holds, s.ForfeitedActivations)
			store := "in order"
			if s.StoreFailure != "" {
				store = "failed: " + s.StoreFailure
			}
			fmt.Fprintf(t, "Store\t%s\n", store)
			if s.Lockdown.LockedDown {
				fmt.Fprintf(t, "Lockdown\tevery key is refused; lift it with: caddy till lockdown --lift\n")
			}
			if s.ClockOffSeconds != 0 {
				fmt.Fprintf(t, "Clock\tset by %s; if it is right now: caddy till repair --clock\n", time.Duration(s.ClockOffSeconds)*time.Second)
			}
			return t.Flush()
		},
	}
}
