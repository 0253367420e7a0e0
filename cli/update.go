package cli

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
)

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
			var after wire.KeyObject
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
