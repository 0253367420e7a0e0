package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
)

func consoleCommand(f *common) *cobra.Command {
	return &cobra.Command{
		Use:   "console",
		Short: "Prints a link that signs in to the dashboard",
		Long: `Prints a link that opens the dashboard, signed in with your own rights. It works
once, for ten minutes. Who has no such rights signs in with an admin token.`,
		Example: "  caddy till console",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "POST", "/console/link", nil)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var made wire.Link
			if err := readable(raw, &made); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Open the dashboard, once, within ten minutes:\n\n  %s\n", made.URL)
			return err
		},
	}
}
