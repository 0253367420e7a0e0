package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

func lockdownCommand(f *common) *cobra.Command {
	var reason string
	var lift, status bool
	cmd := &cobra.Command{
		Use:   "lockdown",
		Short: "Refuses every key at once, until it is lifted",
		Long: `Refuses every key at once and cuts what runs. No key is changed: --lift lets
them all work again as before. It works while the store is closed, in doubt or
full, and survives a restart. Holders of keys are told the reason.`,
		Example: `  caddy till lockdown --reason "a key of ours is public"
  caddy till lockdown --status
  caddy till lockdown --lift`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lift && status || reason != "" && (lift || status) {
				return usage("--reason, --lift and --status exclude each other")
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
			raw, err := c.raw(cmd.Context(), method, "/lockdown", body)
			if err != nil {
				return err
			}
			var s wire.LockdownJSON
			if err := readable(raw, &s); err != nil {
				return err
			}
			if s.Durable != nil && !*s.Durable {
				fmt.Fprintln(cmd.ErrOrStderr(), "Warning: not yet durable, so a restart would end it; the server's log says why.")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), lockdownText(&s))
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why: holders of keys are told, too")
	cmd.Flags().BoolVar(&lift, "lift", false, "let keys work again")
	cmd.Flags().BoolVar(&status, "status", false, "only say whether there is a lockdown")
	return cmd
}

func lockdownText(s *wire.LockdownJSON) string {
	if !s.LockedDown {
		return "Keys work: there is no lockdown.\n"
	}
	text := "Every key is refused"
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
	return text + "Lift it with: caddy till lockdown --lift\n"
}
