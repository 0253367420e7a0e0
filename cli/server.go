package cli

import (
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
)

func statsCommand(f *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Shows the sums over all keys and the state of the store",
		Long: `Shows how many keys there are by status, how many requests run now, and whether
the store is in order. It lists the servers that share a database.`,
		Example: "  caddy till stats --json | jq .holds",
		Args:    argCount(0, 0, ""),
		RunE: f.calling(func(cmd *cobra.Command, c *client, _ []string) error {
			return callAndPrint(cmd, c, "GET", "/stats", nil, func(s *wire.StatsAnswer) error { return printStats(cmd.OutOrStdout(), s) })
		}),
	}
}

func printStats(w io.Writer, s *wire.StatsAnswer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
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
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, nodesTable(s.Nodes))
	return err
}

func lockdownCommand(f *globalFlags) *cobra.Command {
	var reason string
	var lift, status bool
	cmd := &cobra.Command{
		Use:   "lockdown",
		Short: "Refuses every key at once, until it is lifted",
		Long: `Refuses every key at once and cuts running requests. It changes no key: --lift
lets all of them work as before. It works while the store is closed, in doubt or
full, and survives a restart. Holders of keys see the reason.`,
		Example: `  caddy till lockdown --reason "a key of ours is public"
  caddy till lockdown --status
  caddy till lockdown --lift`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lift && status || reason != "" && (lift || status) {
				return usage("give only one of --reason, --lift and --status")
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			method, body := "POST", any(map[string]string{"reason": reason})
			switch {
			case lift:
				method, body = "DELETE", nil
			case status:
				method, body = "GET", nil
			}
			var said struct {
				LockedDown *bool `json:"locked_down"`
			}
			raw, err := c.answer(cmd.Context(), method, "/lockdown", body, &said)
			if err != nil {
				return err
			}
			if !status && *said.LockedDown == lift {
				return c.without("what was asked for")
			}
			var s wire.LockdownJSON
			if err := decodePrintable(raw, &s); err != nil {
				return err
			}
			if s.Durable != nil && !*s.Durable && len(s.Pending) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "Warning: not yet durable, so a restart would end it; the server's log says why.")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), lockdownText(&s))
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; holders of keys see it, too")
	cmd.Flags().BoolVar(&lift, "lift", false, "let keys work again")
	cmd.Flags().BoolVar(&status, "status", false, "only say whether there is a lockdown")
	return cmd
}

func lockdownText(s *wire.LockdownJSON) string {
	if !s.LockedDown {
		return "Keys work: there is no lockdown.\n"
	}
	untold := len(s.Pending) > 0 && s.Durable != nil && !*s.Durable // it is not in the database
	text := "Every key is refused"
	if untold {
		text = "This server refuses every key"
	}
	if s.Since != nil {
		text += " since " + s.Since.Format("2006-01-02 15:04:05 MST")
	}
	if s.By != "" {
		text += ", by " + s.By
	}
	text += ".\n"
	if s.Reason != "" {
		text += "  Reason: " + s.Reason + "\n"
	}
	if s.StreamsCut != nil {
		text += "  Ended: " + prose.Counted(int64(*s.StreamsCut), "running request") + "\n"
	}
	switch {
	case len(s.Pending) == 0:
	case untold:
		text += "  NOT known to " + prose.Cut(strings.Join(s.Pending, ", "), 26) + ", where keys may still work.\n" +
			"  Run caddy till lockdown on a node that has the database.\n"
	default:
		text += pendingText("  ", s.Pending) + "\n"
	}
	return text + "Lift it with: caddy till lockdown --lift\n"
}

func consoleCommand(f *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "console",
		Short: "Prints a link that signs in to the dashboard",
		Long: `Prints a link that opens the dashboard, signed in with your own rights. It works
once, for ten minutes. Callers who may not make one sign in with an admin token.`,
		Example: "  caddy till console",
		Args:    argCount(0, 0, ""),
		RunE: f.calling(func(cmd *cobra.Command, c *client, _ []string) error {
			return callAndPrint(cmd, c, "POST", "/console/link", nil, func(made *wire.Link) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "Open the dashboard, once, within ten minutes:\n\n  %s\n", made.URL)
				return err
			})
		}),
	}
}
