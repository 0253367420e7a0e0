package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

func repairCommand(f *common) *cobra.Command {
	var forfeit, clock bool
	cmd := &cobra.Command{
		Use:   "repair --forfeit | --clock",
		Short: "Opens a store in doubt, or believes the clock again",
		Long: `A store that is older than what it had acknowledged (a restored backup, a
damaged disk, a lost anchor) stays closed, and every key is refused. First look
whether the newest store and its anchor can be put in place. If not, this counts
the remaining budget of every key as spent, suspends keys that only time limits
or whose budget renews, revokes every admin token, and opens the store. Then
grant what you want to allow again: caddy till grant KEY --activations 100,
caddy till resume KEY, caddy till token create.

When the machine's clock was set back, or had run ahead, time stands or goes on
as before, so that no expired key lives again; stats say so. When the clock is
right now, --clock believes it again.`,
		Example: "  caddy till stats\n  caddy till repair --forfeit",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if forfeit == clock {
				return usage("say what to repair: --forfeit, which spends every remaining budget, or --clock")
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			p := showProgress(cmd.ErrOrStderr(), "Repairing", inKeys)
			raw, err := c.patient().raw(cmd.Context(), "POST", "/store/repair", map[string]bool{"forfeit": forfeit, "clock": clock})
			p.end()
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var done wire.RepairedAnswer
			if err := readable(raw, &done); err != nil {
				return err
			}
			if clock {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "It is %s.\n", done.Now.Format(time.RFC3339))
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "The store is open. Of %d keys, %d budgets count as spent and %d keys are suspended.\n%s",
				done.Keys, done.Forfeited, done.Suspended, endedTokens(done.Tokens))
			return err
		},
	}
	cmd.Flags().BoolVar(&clock, "clock", false, "believe the machine's clock again")
	cmd.Flags().BoolVar(&forfeit, "forfeit", false, "count every remaining budget as spent")
	return cmd
}

// endedTokens says how many admin tokens were revoked, and what to do about it.
func endedTokens(n int64) string {
	if n == 0 {
		return ""
	}
	return "Revoked " + prose.Counted(n, "admin token") + ", as it is not known which were revoked before: caddy till token create\n"
}
