package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// filterFlags are the flags that pick keys. They are named like the filters of the
// API, with - in place of _.
var filterFlags = map[string]string{
	"status":         record.Either(record.Statuses[:]),
	"upstream":       "keys for this upstream",
	"role":           "keys of this role",
	"owner":          "keys of this owner",
	"created-by":     "keys minted by this caller",
	"parent":         "children of the key with this id or name",
	"name":           "keys with exactly this name",
	"unused-for":     "keys unused for at least this long: 7d",
	"created-before": "keys minted before 2026-12-31T18:00:00Z, or longer ago than 7d",
	"q":              "beginning of an id or name",
}

// picking holds the values of filterFlags and of --label.
type picking struct {
	texts  map[string]*string
	labels map[string]string
}

func (p *picking) flags(f *pflag.FlagSet, belongs string) {
	p.texts = make(map[string]*string)
	for name, help := range filterFlags {
		p.texts[name] = f.String(name, "", belongs+help)
	}
	f.StringToStringVar(&p.labels, "label", nil, belongs+"NAME=VALUE, repeatable")
}

// filter returns the filter that the flags make; an empty one stands for every key.
func (p *picking) filter() (map[string]string, error) {
	picked := make(map[string]string)
	for name, value := range p.texts {
		if *value != "" {
			picked[strings.ReplaceAll(name, "-", "_")] = *value
		}
	}
	for name, value := range p.labels {
		picked["label."+name] = value
	}
	if isSecret(picked["q"]) {
		return nil, errKeyString
	}
	return picked, nil
}

func listCommand(f *globalFlags) *cobra.Command {
	var picks picking
	var order string
	var limit int
	var upstreamKey string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Lists keys",
		Long: `Lists keys, newest first, with the activations that were used, their limit, and
when the key ends or has ended. The table fits into 80 columns; --json shows all
fields.`,
		Example: `  caddy till list
  caddy till list --status active --unused-for 7d
  caddy till list --upstream-key - < leaked-key.txt
  caddy till list --label team=search --json | jq -r '.keys[].id'`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage("--limit must be a count, or 0 for all, got %d", limit)
			}
			filter, err := picks.filter()
			if err != nil {
				return err
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			if err := c.resolve(cmd.Context(), filter); err != nil {
				return err
			}
			q := url.Values{}
			for name, value := range filter {
				q.Set(name, value)
			}
			if upstreamKey != "" {
				if err := c.dependsOn(cmd, q, upstreamKey); err != nil {
					return err
				}
			}
			picked := len(q) > 0
			if order != "" {
				q.Set("sort", order)
			}
			keys, more, err := c.all(cmd.Context(), q, limit)
			if err != nil {
				return err
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), wire.Listed{Keys: keys, Next: more})
			}
			if len(keys) == 0 && picked {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "No key matches; list all with: caddy till list")
				return err
			}
			if err := printTable(cmd.OutOrStdout(), keys, time.Now()); err != nil {
				return err
			}
			if n := withoutSalts(keys); n > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s without a salt, of which no string opens; see: caddy till doctor\n", prose.Counted(int64(n), "sealed key"))
			}
			if more != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "There are more; these are %d. Show all with: --limit 0\n", len(keys))
			}
			return nil
		},
	}
	picks.flags(cmd.Flags(), "")
	cmd.Flags().StringVar(&order, "sort", "", "created or last_used; with - before it, last first")
	cmd.Flags().StringVar(&upstreamKey, "upstream-key", "", "keys that depend on this real key; - reads it from standard input")
	cmd.Flags().IntVar(&limit, "limit", 100, "how many keys at most; 0: all")
	return cmd
}

func withoutSalts(keys []*wire.KeyObject) (n int) {
	for _, k := range keys {
		if k.SealedWithoutSalt {
			n++
		}
	}
	return n
}

// pages follows the pages of a list until it has limit items; 0 stands for all of them.
// of returns the items of a page and the cursor of the next page; more is such a
// cursor, too.
func pages[Page, Item any](ctx context.Context, c *client, path string, q url.Values, limit int, of func(*Page) ([]Item, string)) (items []Item, more string, err error) {
	items = []Item{}
	for {
		size := wire.MaxPage
		if limit > 0 {
			size = min(limit-len(items), wire.MaxPage)
		}
		q.Set("limit", strconv.Itoa(size))
		page := new(Page)
		if err := c.call(ctx, "GET", path+"?"+q.Encode(), nil, page); err != nil {
			return nil, "", err
		}
		some, next := of(page)
		items = append(items, some...)
		if next == "" || limit > 0 && len(items) >= limit {
			return items, next, nil
		}
		q.Set("cursor", next)
	}
}

// all lists at most limit keys; see pages.
func (c *client) all(ctx context.Context, q url.Values, limit int) (keys []*wire.KeyObject, more string, err error) {
	return pages(ctx, c, "/keys", q, limit, func(p *wire.Listed) ([]*wire.KeyObject, string) { return p.Keys, p.Next })
}

const (
	tableWidth = 80
	nameColumn = 1
)

// printTable prints a table of keys. It shortens long names of upstreams, but no
// ids, because people paste them.
func printTable(w io.Writer, keys []*wire.KeyObject, now time.Time) error {
	if len(keys) == 0 {
		_, err := fmt.Fprintln(w, "No keys. Mint one with: caddy till create --max-activations 500")
		return err
	}
	rows := [][]string{{"ID", "NAME", "FOR", "STATUS", "USED", "ENDS"}}
	for _, k := range keys {
		used := compact(k.UsedActivations)
		if k.MaxActivations != nil {
			used += "/" + compact(*k.MaxActivations)
		}
		ends := "-"
		switch {
		case k.EndedAt != nil:
			ends = prose.Relative(*k.EndedAt, now)
		case k.ExpiresAt != nil:
			ends = prose.Relative(*k.ExpiresAt, now)
		}
		rows = append(rows, []string{k.ID, cmp.Or(k.Name, "-"), prose.Cut(k.Upstream, 9), string(k.Status), used, ends})
	}
	return printRows(w, rows)
}

// printRows prints a table that fits into 80 columns. If it is too wide, the second
// column, which has the names, is shortened.
func printRows(w io.Writer, rows [][]string) error {
	widths := make([]int, len(rows[0]))
	total := len(widths) - 1
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], prose.Wide(row[i]))
		}
		total += widths[i]
	}
	if over := total - tableWidth; over > 0 {
		widths[nameColumn] = max(widths[nameColumn]-over, 4)
	}
	var b strings.Builder
	for _, row := range rows {
		row[nameColumn] = prose.Cut(row[nameColumn], widths[nameColumn])
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-prose.Wide(cell)+1))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// compact writes a count of less than a trillion in at most four characters. It
// rounds down, so that a limit never looks used up before it is.
func compact(n int64) string {
	switch {
	case n < 10_000:
		return strconv.FormatInt(n, 10)
	case n < 1_000_000:
		return strconv.FormatInt(n/1_000, 10) + "k"
	case n < 1_000_000_000:
		return strconv.FormatInt(n/1_000_000, 10) + "M"
	}
	return strconv.FormatInt(n/1_000_000_000, 10) + "G"
}

// dependsOn adds a filter for the keys that depend on a real key.
func (c *client) dependsOn(cmd *cobra.Command, q url.Values, upstreamKey string) error {
	body := make(map[string]any)
	if err := upstreamKeyFlag(body, upstreamKey, cmd.InOrStdin(), "list"); err != nil {
		return err
	}
	var named wire.Fingerprinted
	if err := c.call(cmd.Context(), "POST", "/fingerprint", body, &named); err != nil {
		return err
	}
	q.Set("credential_fingerprint", named.CredentialFingerprint)
	return nil
}
