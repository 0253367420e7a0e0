package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
)

func sealCommand(f *globalFlags) *cobra.Command {
	run := func(method, path string) func(*cobra.Command, []string) error {
		return f.calling(func(cmd *cobra.Command, c *client, _ []string) error {
			return callAndPrint(cmd, c, method, path, nil, func(answer *wire.SealKeysAnswer) error { return printSealKeys(cmd, answer.SealKeys) })
		})
	}
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Shows the server's seal keys, and which are still needed",
		Long: `Sealed keys carry the real key in their string, encrypted under the server's
seal key. This lists the seal keys, and how many keys need each of them. A seal
key that no key needs can be removed.`,
		Example: "  caddy till seal\n  caddy till seal rotate",
		Args:    argCount(0, 0, ""),
		RunE:    run("GET", "/seal"),
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Makes a new seal key; those before it still open",
		Long: `Makes a new seal key, which seals from now on. The former seal keys still open
what they sealed. Keys change over to the new one when they are rotated or
replaced. Once no key needs a seal key, remove its lines from the server's
seal_key_file (by default till/seal.key in Caddy's data directory): that takes
effect by itself.

If the configuration names the seal keys, make the new one by hand: see
docs/runbooks.md.`,
		Example: "  caddy till seal rotate",
		Args:    argCount(0, 0, ""),
		RunE:    run("POST", "/seal/rotate"),
	})
	return cmd
}

func printSealKeys(cmd *cobra.Command, keys []wire.SealKeyObject) error {
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SEAL KEY\tIT\tLIVE KEYS\tENDED KEYS")
	var idle, lost []string
	for _, k := range keys {
		does := "opens"
		switch {
		case k.Seals:
			does = "seals"
		case !k.Opens:
			does = "is missing"
			lost = append(lost, k.ID)
		case k.LiveKeys == 0 && k.EndedKeys == 0:
			idle = append(idle, k.ID)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\n", k.ID, does, k.LiveKeys, k.EndedKeys)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(lost) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Missing, so their keys do not open: %s\n", strings.Join(lost, " "))
	}
	if len(idle) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Not needed any more: %s\n", strings.Join(idle, " "))
	}
	return nil
}
