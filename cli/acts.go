package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// act is a command that does one thing to each of the keys that it is given.
type act struct {
	use, short, long, example string

	method, path string // path is appended to the path of the key
	how          naming
	done         string // what is printed before the id
	body         func() (any, error)
}

func (a act) command(f *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use: a.use + " KEY...", Short: a.short, Long: a.long, Example: a.example,
		Args: argCount(1, 0, "the keys, by id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body any
			if a.body != nil {
				var err error
				if body, err = a.body(); err != nil {
					return err
				}
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			return each(args, func(_ int, arg string) error { return a.on(cmd, f, c, arg, body) })
		},
	}
}

func (a act) on(cmd *cobra.Command, f *globalFlags, c *client, arg string, body any) error {
	k, err := c.find(cmd.Context(), arg, a.how)
	if err != nil {
		return err
	}
	raw, err := c.raw(cmd.Context(), a.method, "/keys/"+url.PathEscape(k.ID)+a.path, body)
	if err != nil {
		return fmt.Errorf("%s: %w", printable(k.ID), err)
	}
	if len(raw) == 0 {
		raw, err = json.Marshal(map[string]any{"id": k.ID, "forgotten": true})
		if err != nil {
			return err
		}
	}
	var after wire.RevokedKey
	if err := c.decoded(decodePrintable(raw, &after), &after); err != nil {
		return err
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	line := a.done + " " + k.ID
	if k.Name != "" {
		line += " (" + prose.Cut(k.Name, 32) + ")"
	}
	if after.StreamsCut > 0 {
		line += ", and ended " + prose.Counted(int64(after.StreamsCut), "running request")
	}
	if a.method == "POST" && after.Status != record.Revoked {
		line += "\n  " + string(after.Status)
		if after.RemainingActivations != nil {
			line += fmt.Sprintf(", %d of %s left", *after.RemainingActivations, prose.Counted(*after.MaxActivations, "activation"))
		}
		if after.RemainingTokens != nil {
			line += fmt.Sprintf(", %d of %s left", *after.RemainingTokens, prose.Counted(*after.MaxTokens, "token"))
		}
		if after.RemainingSpendUSD != "" {
			line += ", $" + after.RemainingSpendUSD + " of $" + after.MaxSpendUSD + " left"
		}
		if after.ExpiresAt != nil {
			line += ", until " + after.ExpiresAt.Format("2006-01-02 15:04 MST")
		}
	}
	if after.SealedWithoutSalt {
		line += "\n  " + withoutSalt(k.ID)
	}
	line += pendingText("\n  ", after.Pending)
	_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}

// pendingText says which nodes have not yet followed an act; empty if all have.
func pendingText(before string, nodes []string) string {
	if len(nodes) == 0 {
		return ""
	}
	return before + "Not yet known to " + prose.Cut(strings.Join(nodes, ", "), 26) + ", where nothing is admitted."
}

func suspendCommand(f *globalFlags) *cobra.Command {
	return act{
		use: "suspend", short: "Stops keys until they are resumed",
		long: `Stops keys and their running requests at once, until the keys are resumed.
Their counts stay as they are.`,
		example: "  caddy till suspend nightly",
		method:  "POST", path: "/suspend", how: byPrefix, done: "Suspended",
	}.command(f)
}

func resumeCommand(f *globalFlags) *cobra.Command {
	return act{
		use: "resume", short: "Ends a suspension",
		long: `Lets suspended keys work again, with what they had left. If somebody else has
suspended a key, only the operator can resume it, or a caller with keys:update
and a role that sees more than theirs. caddy till show says who suspended it.

After a restore or a repair, strings that were rotated away since work again
with their keys: rotate such a key before you resume it, or grant to it.`,
		example: "  caddy till resume nightly",
		method:  "POST", path: "/resume", how: byPrefix, done: "Resumed",
	}.command(f)
}

func revokeCommand(f *globalFlags) *cobra.Command {
	var reason string
	many := new(bulk)
	cmd := act{
		use: "revoke", short: "Ends keys for ever, and their running requests",
		long: `Ends keys for ever: the next request is refused and running streams are cut.
Their records are kept; remove them with forget. A key must be named by its id
or its full name, because this cannot be undone.

With --all it ends every key that matches the flags, or every key if there are
no such flags, except for those that --except names (a child of a key that ends
still ends with it). All of them are refused at once. The command first says how
many keys there are, and asks; of what is minted after it counted, it ends only
children of keys that end. With --yes it ends all that match by then, unless
--created-before says otherwise.`,
		example: `  caddy till revoke nightly --reason "the contractor left"
  caddy till revoke --all --owner ann --except nightly --dry-run
  caddy till revoke --all --label team=search --unused-for 30d --yes`,
		method: "POST", path: "/revoke", how: exactly, done: "Revoked",
		body: func() (any, error) { return map[string]string{"reason": reason}, nil },
	}.command(f)
	cmd.Flags().StringVar(&reason, "reason", "", "why; holders of the key see it, too")
	many.flags(cmd.Flags())
	some := cmd.RunE
	cmd.Args = func(_ *cobra.Command, given []string) error {
		switch {
		case many.all && len(given) > 0:
			return usage("takes keys or --all, not both")
		case !many.all && len(given) == 0:
			return usage("name the keys, by id or name, or give --all and flags that pick keys")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if many.all {
			return many.run(cmd, f, reason)
		}
		if given := many.given(cmd.Flags()); given != "" {
			return usage("--%s belongs to --all", given)
		}
		return some(cmd, args)
	}
	return cmd
}

func forgetCommand(f *globalFlags) *cobra.Command {
	return act{
		use: "forget", short: "Removes the records of ended keys",
		long: `Removes the records of keys that have ended. What they used stays in the
totals. A live key must be revoked first.`,
		example: "  caddy till forget key_01M86CD5XPYDCWAP07D6V89DTK",
		method:  "DELETE", how: naming{of: ended, full: true}, done: "Forgot",
	}.command(f)
}

func grantCommand(f *globalFlags) *cobra.Command {
	more := new(limitFlags)
	cmd := act{
		use: "grant", short: "Adds to the limits of keys, and revives exhausted and expired ones",
		long: `Adds to what keys may use, and revives those that are exhausted or expired. A
revoked key stays revoked.`,
		example: "  caddy till grant nightly --activations 50 --expires-in 24h",
		method:  "POST", path: "/grant", how: naming{of: grantable}, done: "Granted more to",
		body: func() (any, error) {
			b, err := more.fields(nil)
			if err == nil && len(b) == 0 {
				err = usage("say what to add: --activations, --tokens, --spend-usd or --expires-in")
			}
			return b, err
		},
	}.command(f)
	more.String("activations", "", "how many more: 50, 10k")
	more.String("tokens", "", "how many more: 50k, 1M")
	more.String("spend-usd", "", "how many dollars more: 5.00")
	more.String("expires-in", "", "how much longer: 24h, 7d")
	cmd.Flags().AddFlagSet(&more.FlagSet)
	return cmd
}

// updateCommand takes the flags of create, except for those that are fixed when a
// key is minted.
func updateCommand(f *globalFlags) *cobra.Command {
	limits := new(limitFlags)
	var unset []string
	cmd := &cobra.Command{
		Use:   "update KEY",
		Short: "Changes the limits, rules and notes of a key",
		Long: `Changes what the flags name, and nothing more. Limits are totals that include
what was used; to add to a limit, use grant. If a key has ended, only its name
and labels can be changed.`,
		Example: `  caddy till update nightly --max-activations 50 --models gpt-5-mini
  caddy till update nightly --expires-in 7d --owner ops
  caddy till update nightly --unset rate,ips`,
		Args: argCount(1, 1, "the key, by id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := limits.fields(cmd.InOrStdin())
			if err != nil {
				return err
			}
			for _, name := range unset {
				field := strings.ReplaceAll(name, "-", "_")
				if field == "label" { // the flag sets one label
					field = "labels"
				}
				if _, both := body[field]; both {
					return usage("--unset %s: the same field is set by another flag", name)
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
			return callAndPrint(cmd, c, "PATCH", "/keys/"+url.PathEscape(k.ID), body, func(after *wire.KeyObject) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "Updated %s\n  %s\n", after.ID, strings.Join(wrap(limitsOf(after), ", ", tableWidth-2), "\n  "))
				return err
			})
		},
	}
	limits.add(cmd)
	cmd.Flags().StringSliceVar(&unset, "unset", nil, "remove these, by the names of their flags: rate,models,expires-at")
	for _, name := range []string{"upstream", "upstream-key", "role", "delegate"} { // these are fixed when a key is minted
		if flag := cmd.Flags().Lookup(name); flag != nil {
			flag.Hidden = true
		}
	}
	return cmd
}
