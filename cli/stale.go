package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func staleCommand(f *globalFlags) *cobra.Command {
	var reason string
	var limit int
	cmd := &cobra.Command{
		Use:   "stale",
		Short: "Shows keys that somebody should look at, and how to fix them",
		Long: `Shows active keys that nobody uses (unused and never_used: for the time that
stale_after sets, by default 30 days), that may use far more than they do
(over_granted: they used at most a tenth of a limit, after half of the key's
life or 30 days), or that end soon (expiring). Each has a command that fixes it.`,
		Example: `  caddy till stale
  caddy till stale --reason over_granted
  caddy till stale --json | jq -r '.keys[].fix'`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage("--limit must be a count, or 0 for all, got %d", limit)
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			all := wire.StaleAnswer{Keys: []wire.StaleEntry{}}
			q := url.Values{}
			if reason != "" {
				q.Set("reason", reason)
			}
			for more := true; more; more = all.Next != "" && (limit == 0 || len(all.Keys) < limit) {
				if all.Next != "" {
					q.Set("cursor", all.Next)
				}
				var page wire.StaleAnswer
				if err := c.call(cmd.Context(), "GET", "/stale?"+q.Encode(), nil, &page); err != nil {
					return err
				}
				all.Keys, all.Next = append(all.Keys, page.Keys...), page.Next
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), all)
			}
			if err := printStale(cmd.OutOrStdout(), all.Keys); err != nil {
				return err
			}
			if all.Next != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "There are more; show all with: --limit 0\n")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", record.Either(limiter.StaleReasons[:]))
	cmd.Flags().IntVar(&limit, "limit", 100, "about how many to show; 0: all")
	return cmd
}

func printStale(w io.Writer, entries []wire.StaleEntry) error {
	var b strings.Builder
	if len(entries) == 0 {
		b.WriteString("No key is stale.\n")
	}
	for _, e := range entries {
		line := e.Key.ID
		if e.Key.Name != "" {
			line += " (" + prose.Cut(e.Key.Name, 24) + ")"
		}
		fmt.Fprintf(&b, "%s  %s\n", line, e.Reason)
		for _, part := range wrap(strings.Split(e.Detail, ", "), ", ", tableWidth-2) {
			fmt.Fprintf(&b, "  %s\n", part)
		}
		command, flags, _ := strings.Cut(e.Fix, " --")
		lines := []string{command}
		if flags != "" {
			parts := strings.Split("--"+strings.ReplaceAll(flags, " --", "\x00--"), "\x00")
			lines = wrap(append([]string{command}, parts...), " ", tableWidth-4)
		}
		fmt.Fprintf(&b, "  %s\n", strings.Join(lines, " \\\n    "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
