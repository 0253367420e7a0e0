package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// find returns the key with that id, or the only one whose id or name begins
// like that.
func (c *client) find(ctx context.Context, text string) (*KeyObject, error) {
	if token.LooksLikeKey(text) {
		return nil, usage("name the key by its id or name: a key's string belongs in no command line")
	}
	if strings.HasPrefix(text, "key_") {
		var k KeyObject
		err := c.call(ctx, "GET", "/keys/"+url.PathEscape(text), nil, &k)
		var no *refused
		if err == nil || !errors.As(err, &no) || no.code != "not_found" {
			return &k, err
		}
	}
	var page listed
	if err := c.call(ctx, "GET", "/keys?limit=20&q="+url.QueryEscape(text), nil, &page); err != nil {
		return nil, err
	}
	var exact []*KeyObject
	for _, k := range page.Keys {
		if k.Name == text {
			exact = append(exact, k)
		}
	}
	if len(exact) == 1 {
		return exact[0], nil
	}
	switch len(page.Keys) {
	case 0:
		return nil, fmt.Errorf("no key has the id or name %q; see: caddy till list", text)
	case 1:
		return page.Keys[0], nil
	}
	var which []string
	for _, k := range page.Keys {
		which = append(which, "  "+strings.TrimSpace(k.ID+" "+k.Name))
	}
	return nil, usage("%q is the beginning of several keys; name one:\n%s", text, strings.Join(which, "\n"))
}

func printValue(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return printJSON(w, raw)
}

func listCommand(f *common) *cobra.Command {
	q := url.Values{}
	filters := map[string]*string{}
	var labels map[string]string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Lists keys",
		Example: `  caddy till list
  caddy till list --status active --unused-for 7d
  caddy till list --label team=search --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, value := range filters {
				if *value != "" {
					q.Set(strings.ReplaceAll(name, "-", "_"), *value)
				}
			}
			for name, value := range labels {
				q.Set("label."+name, value)
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			keys, err := c.all(cmd.Context(), q, limit)
			if err != nil {
				return err
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), listed{Keys: keys})
			}
			return printTable(cmd.OutOrStdout(), keys, time.Now())
		},
	}
	for name, help := range map[string]string{
		"status":     "active, exhausted, expired, revoked or suspended",
		"upstream":   "keys for this upstream",
		"role":       "keys of this role",
		"owner":      "keys of this owner",
		"created-by": "keys minted by this caller",
		"unused-for": "keys unused for at least this long: 7d",
		"q":          "beginning of an id or name",
		"sort":       "created, or -created: newest first (default)",
	} {
		filters[name] = cmd.Flags().String(name, "", help)
	}
	cmd.Flags().StringToStringVar(&labels, "label", nil, "NAME=VALUE, repeatable")
	cmd.Flags().IntVar(&limit, "limit", 100, "how many keys at most; 0: all")
	return cmd
}

// all follows the pages until limit keys are there; 0 takes all.
func (c *client) all(ctx context.Context, q url.Values, limit int) ([]*KeyObject, error) {
	keys := []*KeyObject{}
	q.Set("limit", "500")
	for {
		if limit > 0 {
			q.Set("limit", strconv.Itoa(min(limit-len(keys), 500)))
		}
		var page listed
		if err := c.call(ctx, "GET", "/keys?"+q.Encode(), nil, &page); err != nil {
			return nil, err
		}
		keys = append(keys, page.Keys...)
		if page.Next == "" || limit > 0 && len(keys) >= limit {
			return keys, nil
		}
		q.Set("cursor", page.Next)
	}
}

// printTable fits 80 columns: an id of 30, and five short columns.
func printTable(w io.Writer, keys []*KeyObject, now time.Time) error {
	if len(keys) == 0 {
		_, err := fmt.Fprintln(w, "No keys. Mint one with: caddy till create --max-activations 500")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tFOR\tSTATUS\tUSED\tENDS")
	for _, k := range keys {
		used := compact(k.UsedActivations)
		if k.MaxActivations != nil {
			used += "/" + compact(*k.MaxActivations)
		}
		ends := "-"
		switch {
		case k.EndedAt != nil:
			ends = relative(*k.EndedAt, now)
		case k.ExpiresAt != nil:
			ends = relative(*k.ExpiresAt, now)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, cut(k.Name, 11), cut(k.Upstream, 9), k.Status, used, ends)
	}
	return t.Flush()
}

func cut(s string, n int) string {
	if s == "" {
		return "-"
	}
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// compact writes a count in at most five characters.
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

// relative writes a moment as a distance: "in 3h", "2d ago".
func relative(t, now time.Time) string {
	d := t.Sub(now)
	past := d < 0
	if past {
		d = -d
	}
	var s string
	switch {
	case d < time.Minute:
		s = strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		s = strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		s = strconv.Itoa(int(d.Hours())) + "h"
	default:
		s = strconv.Itoa(int(d.Hours()/24)) + "d"
	}
	if past {
		return s + " ago"
	}
	return "in " + s
}

func showCommand(f *common) *cobra.Command {
	return &cobra.Command{
		Use:     "show KEY",
		Short:   "Shows one key, by id or name",
		Example: "  caddy till show nightly",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			k, err := c.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), k)
			}
			return printSheet(cmd.OutOrStdout(), k, time.Now())
		},
	}
}

// printSheet shows everything about a key, one line each.
func printSheet(w io.Writer, k *KeyObject, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	when := func(at *time.Time) string {
		if at == nil {
			return ""
		}
		return at.Format("2006-01-02 15:04:05 MST") + " (" + relative(*at, now) + ")"
	}
	row("Id", k.ID)
	row("Name", k.Name)
	row("Status", string(k.Status))
	row("Upstream", k.Upstream)
	row("Limits", limitsOf(k))
	row("Used", counted(k.UsedActivations, "activation"))
	if k.HeldActivations > 0 {
		row("In flight", counted(k.HeldActivations, "activation"))
	}
	if k.RemainingActivations != nil && *k.MaxActivations > 0 {
		left := *k.RemainingActivations
		const width = 24
		filled := int(float64(width) * float64(left) / float64(*k.MaxActivations))
		row("Left", fmt.Sprintf("[%s%s] %d of %d", strings.Repeat("#", filled), strings.Repeat(".", width-filled), left, *k.MaxActivations))
	}
	row("Expires", when(k.ExpiresAt))
	if k.Charge == limiter.ChargeSuccess {
		row("Charged", "successes only, within twice the attempts")
	}
	row("Paths", strings.Join(k.Paths, " "))
	row("Methods", strings.Join(k.Methods, " "))
	row("Addresses", strings.Join(k.IPs, " "))
	if k.PinIP {
		row("Pinned", "to the first address that uses it")
	}
	row("Role", k.Role)
	row("Owner", k.Owner)
	row("Purpose", k.Purpose)
	for _, name := range sorted(k.Labels) {
		row("Label", name+"="+k.Labels[name])
	}
	row("Minted", when(&k.CreatedAt)+" by "+k.CreatedBy)
	row("First used", when(k.FirstUsedAt))
	row("Last used", when(k.LastUsedAt))
	row("From", k.LastIP)
	row("Ended", when(k.EndedAt))
	row("Reason", k.EndedReason)
	return t.Flush()
}

// act builds a command that does one thing to each key it is given.
func act(f *common, use, short, example, done string, path string, body func() any) *cobra.Command {
	return &cobra.Command{
		Use:     use + " KEY...",
		Short:   short,
		Example: example,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			var failed error
			for _, arg := range args {
				if err := actOn(cmd, f, c, arg, path, done, body); err != nil {
					failed = errors.Join(failed, err)
				}
			}
			return failed
		},
	}
}

func actOn(cmd *cobra.Command, f *common, c *client, arg, path, done string, body func() any) error {
	k, err := c.find(cmd.Context(), arg)
	if err != nil {
		return err
	}
	method := "POST"
	if path == "" {
		method = "DELETE"
	}
	var content any
	if body != nil {
		content = body()
	}
	raw, err := c.raw(cmd.Context(), method, "/keys/"+k.ID+path, content)
	if err != nil {
		return fmt.Errorf("%s: %w", k.ID, err)
	}
	if f.json && len(raw) > 0 {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	var answer struct {
		StreamsCut int `json:"streams_cut"`
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &answer); err != nil {
			return err
		}
	}
	line := done + " " + k.ID
	if k.Name != "" {
		line += " (" + k.Name + ")"
	}
	if answer.StreamsCut > 0 {
		line += fmt.Sprintf(", and ended %s", counted(int64(answer.StreamsCut), "running request"))
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}

func suspendCommand(f *common) *cobra.Command {
	return act(f, "suspend", "Stops keys until they are resumed", "  caddy till suspend nightly", "Suspended", "/suspend", nil)
}

func resumeCommand(f *common) *cobra.Command {
	return act(f, "resume", "Ends a suspension", "  caddy till resume nightly", "Resumed", "/resume", nil)
}

func revokeCommand(f *common) *cobra.Command {
	var reason string
	cmd := act(f, "revoke", "Ends keys for ever, and what they have running",
		`  caddy till revoke nightly --reason "the contractor left"`, "Revoked", "/revoke",
		func() any { return map[string]string{"reason": reason} })
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

func forgetCommand(f *common) *cobra.Command {
	return act(f, "forget", "Removes the records of ended keys", "  caddy till forget key_01JD...", "Forgot", "", nil)
}

func grantCommand(f *common) *cobra.Command {
	var activations, expiresIn string
	cmd := act(f, "grant", "Adds to the limits of keys, and revives exhausted and expired ones",
		"  caddy till grant nightly --activations 50 --expires-in 24h", "Granted more to", "/grant",
		func() any {
			b := make(map[string]any)
			if n, err := limiter.ParseCount(activations); err == nil {
				b["activations"] = n
			}
			if expiresIn != "" {
				b["expires_in"] = expiresIn
			}
			return b
		})
	cmd.Flags().StringVar(&activations, "activations", "", "how many more: 50, 10k")
	cmd.Flags().StringVar(&expiresIn, "expires-in", "", "how much longer: 24h, 7d")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if activations == "" && expiresIn == "" {
			return usage("say what to add: --activations or --expires-in")
		}
		if activations != "" {
			if _, err := limiter.ParseCount(activations); err != nil {
				return usage("--activations: %v", err)
			}
		}
		return run(cmd, args)
	}
	return cmd
}

func statsCommand(f *common) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Shows the sums over all keys and the state of the store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "GET", "/stats", nil)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var s struct {
				Keys      map[string]int64
				Holds     int64
				Forfeited int64  `json:"forfeited_activations"`
				Failure   string `json:"store_failure"`
			}
			if err := json.Unmarshal(raw, &s); err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, status := range sorted(s.Keys) {
				fmt.Fprintf(t, "Keys %s\t%d\n", status, s.Keys[status])
			}
			fmt.Fprintf(t, "Requests in flight\t%d\nForfeited by crashes, at most\t%d\n", s.Holds, s.Forfeited)
			store := "in order"
			if s.Failure != "" {
				store = "failed: " + s.Failure
			}
			fmt.Fprintf(t, "Store\t%s\n", store)
			return t.Flush()
		},
	}
}
