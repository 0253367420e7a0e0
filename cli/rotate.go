package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

func rotateCommand(f *globalFlags) *cobra.Command {
	var grace, upstreamKey string
	cmd := &cobra.Command{
		Use:   "rotate KEY",
		Short: "Gives a key a new string, with the same limits and counts",
		Long: `Gives a key a new string and prints it only this once. Its id, limits, counts
and rules stay. During the grace the former string still works beside the new
one; no earlier string works longer than that. Without a grace the former string
stops at once, and its running requests are cut.

A sealed key carries the real key in its string, and the server has no copy:
give the real key again with --upstream-key. To replace the server's own
credential, change it there; keys that use it need no new string.`,
		Example: `  caddy till rotate nightly --grace 1h
  caddy till rotate nightly
  caddy till rotate nightly --json | jq -r .scoped_key
  caddy till rotate sealed --upstream-key - < key.txt`,
		Args: argCount(1, 1, "the key, by id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := make(map[string]any)
			if grace != "" {
				body["grace"] = grace
			}
			if err := upstreamKeyFlag(body, upstreamKey, cmd.InOrStdin(), "rotate KEY"); err != nil {
				return err
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			k, err := c.find(cmd.Context(), args[0], exactly)
			if err != nil {
				return err
			}
			return callAndPrint(cmd, c, "POST", "/keys/"+url.PathEscape(k.ID)+"/rotate", body, func(after *wire.Rotated) error {
				// The key is printed even after an error, because it is shown only this
				// once.
				info, err := c.upstream(cmd.Context(), after.Upstream)
				_, printed := fmt.Fprint(cmd.OutOrStdout(), former(after))
				return errors.Join(printMinted(cmd.OutOrStdout(), &after.Minted, info), printed, err)
			})
		},
	}
	cmd.Flags().StringVar(&grace, "grace", "", "how long the former string still works: 1h, 7d (default: it stops at once)")
	cmd.Flags().StringVar(&upstreamKey, "upstream-key", "", "of a sealed key: the upstream's own key; - reads it from standard\ninput, where other processes do not see it")
	return cmd
}

// former says what becomes of the key's former string.
func former(r *wire.Rotated) string {
	var b strings.Builder
	b.WriteString("Rotated  the former string ")
	if r.GraceEndsAt != nil && r.RotatedAt != nil && r.GraceEndsAt.After(*r.RotatedAt) {
		fmt.Fprintf(&b, "works until %s", r.GraceEndsAt.Format("2006-01-02 15:04 MST"))
	} else {
		b.WriteString("no longer works")
	}
	if r.StreamsCut > 0 {
		b.WriteString(",\n         and " + prose.CountedAs(int64(r.StreamsCut), "running request was cut", "running requests were cut"))
	}
	b.WriteString(pendingText("\n         ", r.Pending) + "\n")
	return b.String()
}
