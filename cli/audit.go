package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/audit"
)

func auditCommand(f *globalFlags) *cobra.Command {
	filters := map[string]*string{}
	var limit int
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Shows who did what, and verifies that nothing was changed since",
		Long: `Shows the audit log: every administrative act, every end of a key, and refused
attempts. Without --since it shows the last ones. --json shows what changed.

Each entry holds the hash of the one before it, so no entry can be changed,
removed or added unnoticed. But the owner of the store could rewrite the entire
log: compare its head with the one that the server logs every hour.`,
		Example: `  caddy till audit --since 24h
  caddy till audit --key key_01M86CD5XPYDCWAP07D6V89DTK
  caddy till audit --actor anna --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usage("--limit must be at least 1, got %d", limit)
			}
			q := url.Values{}
			for name, value := range filters {
				if isSecret(*value) {
					return errKeyString
				}
				if *value != "" {
					q.Set(name, *value)
				}
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			entries, more, err := c.entries(cmd.Context(), q, limit)
			if err != nil {
				return err
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), wire.ListedEntries{Entries: entries, Next: more})
			}
			if err := printEntries(cmd.OutOrStdout(), entries); err != nil {
				return err
			}
			if more != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "There are more; these are %d. Show more with: --limit %d\n", len(entries), 10*limit)
			}
			return nil
		},
	}
	for name, help := range map[string]string{
		"since":  "from this seq, time, or this long ago: 17, 2026-12-31T18:00:00Z, 24h",
		"actor":  "by this caller: operator, a token's name, a key's id, till",
		"action": "of this kind: key.create, key.revoke, token.create",
		"key":    "about the key or token with this id",
	} {
		filters[name] = cmd.Flags().String(name, "", help)
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "how many entries at most")
	cmd.AddCommand(verifyCommand(f), exportCommand(f))
	return cmd
}

// entries lists at most limit entries: the first ones after "since", or the last ones if
// that is not set.
func (c *client) entries(ctx context.Context, q url.Values, limit int) (entries []json.RawMessage, more string, err error) {
	newest := q.Get("since") == ""
	if newest {
		q.Set("sort", "-seq")
	}
	entries, more, err = pages(ctx, c, "/audit", q, limit, func(p *wire.ListedEntries) ([]json.RawMessage, string) { return p.Entries, p.Next })
	if newest {
		slices.Reverse(entries)
	}
	return entries, more, err
}

func printEntries(w io.Writer, entries []json.RawMessage) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "No entries.")
		return err
	}
	rows := [][]string{{"SEQ", "ACTOR", "TIME", "ACTION", "KEY"}}
	for _, line := range entries {
		var e struct {
			Seq                      int64
			Time                     time.Time
			Actor, From, Action, Key string
		}
		if err := decodePrintable(line, &e); err != nil {
			return err
		}
		rows = append(rows, []string{strconv.FormatInt(e.Seq, 10), e.Actor, e.Time.UTC().Format("2006-01-02 15:04:05"), e.Action, cmp.Or(e.Key, "-")})
	}
	return printRows(w, rows)
}

func verifyCommand(f *globalFlags) *cobra.Command {
	var head string
	cmd := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "Verifies the audit log, or an export of it",
		Long: `Follows the chain of hashes, and names the first entry that is not what was
written. With FILE (- for standard input) it reads an export, without a server.
With --head it also notices if the end was cut off or the entire log rewritten:
take the head from the server's log, which has it every hour.`,
		Example: `  caddy till audit verify
  caddy till audit export audit.jsonl
  caddy till audit verify audit.jsonl --head 9f86d081884c7d65…`,
		Args: argCount(0, 1, "an export"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var noted *audit.Hash
			if head != "" {
				h, err := audit.ParseHash(head)
				if err != nil {
					return usage("--head %v", err)
				}
				noted = &h
			}
			v, err := f.verify(cmd, args, noted)
			if err != nil {
				return err
			}
			if f.json {
				err = printValue(cmd.OutOrStdout(), v)
			} else if v.OK {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Entries: %d, and each is what was written.\nHead:    %s\n", v.Entries, v.Head)
				if len(args) == 1 && noted == nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "Without --head, entries that were cut off at the end go unnoticed.")
				}
			}
			if err == nil && !v.OK {
				err = fmt.Errorf("entry %d of the audit log is not what was written: %s", v.Seq, v.Why)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "hash of an entry that must be in the log")
	return cmd
}

// verify reads an export, or asks the server. If a head is given, it verifies an export
// of the server's log itself, because then the server need not be trusted.
func (f *globalFlags) verify(cmd *cobra.Command, args []string, head *audit.Hash) (*wire.Verdict, error) {
	var export io.ReadCloser
	switch {
	case len(args) == 1 && args[0] == "-":
		export = io.NopCloser(cmd.InOrStdin())
	case len(args) == 1:
		file, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		export = file
	default:
		c, err := f.client()
		if err != nil {
			return nil, err
		}
		if head == nil {
			p := showProgress(cmd.ErrOrStderr(), "Verifying", inEntries)
			defer p.end()
			return c.verdict(cmd.Context())
		}
		if export, err = c.open(cmd.Context(), "/audit/export"); err != nil {
			return nil, err
		}
	}
	v, err := wire.VerdictOf(audit.Verify(export, head))
	return v, errors.Join(err, export.Close())
}

// verdict asks the server to verify its log, however long that is.
func (c *client) verdict(ctx context.Context) (*wire.Verdict, error) {
	v := new(wire.Verdict)
	return v, c.patient().call(ctx, "GET", "/audit/verify", nil, v)
}

func exportCommand(f *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "export [FILE]",
		Short: "Writes the entire audit log, one entry per line",
		Long: `Writes the entire audit log as JSON Lines to a new file with mode 0600 or,
without FILE or with -, to standard output. It can be verified anywhere:
caddy till audit verify FILE --head HASH.`,
		Example: "  caddy till audit export audit.jsonl",
		Args:    argCount(0, 1, "the new file"),
		RunE: f.calling(func(cmd *cobra.Command, c *client, args []string) error {
			if len(args) == 0 || args[0] == "-" {
				to := cmd.OutOrStdout()
				if _, ok := terminal(to); !ok {
					to = underlying(to) // unescaped, because it is verified byte for byte
				}
				_, err := c.export(cmd.Context(), to)
				return err
			}
			var entries int64
			err := writeNew(args[0], func(file *os.File) (err error) {
				entries, err = c.export(cmd.Context(), file)
				return err
			})
			if err != nil {
				return err
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), map[string]any{"file": args[0], "entries": entries})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s holds %s.\n", args[0], prose.CountedAs(entries, "entry", "entries"))
			return err
		}),
	}
}

// export writes the entire log, and returns how many entries it has.
func (c *client) export(ctx context.Context, to io.Writer) (entries int64, err error) {
	res, err := c.open(ctx, "/audit/export")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	out := bufio.NewWriter(to)
	lines := &lineCounter{w: out}
	if _, err := io.Copy(lines, res); err != nil {
		return lines.n, fmt.Errorf("the export broke off: %w", err)
	}
	return lines.n, out.Flush()
}

// lineCounter counts the lines that are written through it.
type lineCounter struct {
	w io.Writer
	n int64
}

func (c *lineCounter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(strings.Count(string(p[:n]), "\n"))
	return n, err
}
