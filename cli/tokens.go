package cli

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

func tokenCommand(f *globalFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Makes, lists and revokes admin tokens",
		Long: `Admin tokens let people and machines manage keys within a role that the
configuration declares, over a site with till_console. Make one for each person
or job, and let it expire.`,
		Example: `  caddy till token create anna --role researcher --expires-in 90d
  caddy till token list
  caddy till token revoke anna`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var name, role, expiresIn, expiresAt string
	create := &cobra.Command{
		Use:   "create [NAME] --role ROLE",
		Short: "Makes an admin token and prints its string, only this once",
		Long: `Makes an admin token. Its string is printed only this once; only its hash is
kept. You can give a role whose permissions and ceilings are within your own.
The role * may do everything, and only the operator can give it.`,
		Example: "  caddy till token create anna --role researcher --expires-in 90d",
		Args:    argCount(0, 1, "the token, after the person or job it is for"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if name != "" && name != args[0] {
					return usage("the name is given twice")
				}
				name = args[0]
			}
			if name == "" || role == "" {
				return usage("say who the token is for, and which role it gives: NAME --role ROLE")
			}
			body := map[string]string{"name": name, "role": role, "expires_in": expiresIn, "expires_at": expiresAt}
			maps.DeleteFunc(body, func(_, value string) bool { return value == "" })
			c, err := f.client()
			if err != nil {
				return err
			}
			return callAndPrint(cmd, c, "POST", "/tokens", body, func(t *wire.TokenObject) error {
				ends := "It never expires: revoke it when it is no longer needed.\n"
				if t.ExpiresAt != nil {
					ends = "It expires at " + t.ExpiresAt.Format(time.RFC3339) + ".\n"
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n\nToken %s of %s, with the role %s.\nIt is not shown again. %sUse it with: TILL_ADDRESS=https://CONSOLE/till/api TILL_TOKEN=… caddy till list\n",
					t.Token, t.ID, t.Name, t.Role, ends)
				return err
			})
		},
	}
	create.Flags().StringVar(&name, "name", "", "who the token is for")
	create.Flags().StringVar(&role, "role", "", "the role that it gives")
	create.Flags().StringVar(&expiresIn, "expires-in", "", "lifetime: 24h, 90d")
	create.Flags().StringVar(&expiresAt, "expires-at", "", "end of life: 2026-12-31T18:00:00Z")
	list := &cobra.Command{
		Use:   "list",
		Short: "Lists admin tokens",
		Long: `Lists admin tokens with their roles, who made them, when they were last used,
and when they end. Only their holders know their strings.`,
		Example: "  caddy till token list",
		Args:    argCount(0, 0, ""),
		RunE: f.calling(func(cmd *cobra.Command, c *client, _ []string) error {
			all, err := c.tokens(cmd.Context())
			if err != nil {
				return err
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), wire.ListedTokens{Tokens: all})
			}
			rows := [][]string{{"ID", "NAME", "ROLE", "CREATED BY", "LAST USED", "ENDS"}}
			now := time.Now()
			for _, t := range all {
				used, ends := "never", "never"
				if t.LastUsedAt != nil {
					used = prose.Relative(*t.LastUsedAt, now)
				}
				switch {
				case t.Status != record.Active:
					ends = string(t.Status)
				case t.ExpiresAt != nil:
					ends = prose.Relative(*t.ExpiresAt, now)
				}
				rows = append(rows, []string{t.ID, t.Name, prose.Cut(t.Role, 10), prose.Cut(t.CreatedBy, 10), used, ends})
			}
			if len(all) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "No admin tokens. Make one with: caddy till token create NAME --role ROLE")
				return err
			}
			return printRows(cmd.OutOrStdout(), rows)
		}),
	}
	revoke := &cobra.Command{
		Use:   "revoke TOKEN",
		Short: "Ends an admin token for ever, by its id or name",
		Long: `Ends an admin token for ever. The keys minted with it live on; see them with:
caddy till list --created-by NAME
Tokens that were made with it live on, too. The command lists those.`,
		Example: "  caddy till token revoke anna",
		Args:    argCount(1, 1, "the token, by its id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if isSecret(args[0]) {
				return errKeyString
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			all, err := c.tokens(cmd.Context())
			if err != nil {
				return err
			}
			named := func(by func(*wire.TokenObject) string) int {
				return slices.IndexFunc(all, func(t *wire.TokenObject) bool { return by(t) == args[0] })
			}
			i := named(func(t *wire.TokenObject) string { return t.ID })
			if i < 0 { // ids come first, so that a token named like the id cannot take its place
				i = named(func(t *wire.TokenObject) string { return t.Name })
			}
			if i < 0 {
				return fmt.Errorf("no token has the id or name %q; see: caddy till token list", args[0])
			}
			return callAndPrint(cmd, c, "POST", "/tokens/"+url.PathEscape(all[i].ID)+"/revoke", nil, func(t *wire.TokenObject) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "Token %s of %s is revoked.%s\n%s", t.ID, t.Name, pendingText("\n", t.Pending), madeText("it", t.Made))
				return err
			})
		},
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}

// madeText lists the tokens that were made with one that has ended, and how to end them.
func madeText(with string, made []wire.MadeToken) string {
	if len(made) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "These tokens were made with %s and still work. To end them:\n", with)
	for _, t := range made {
		fmt.Fprintf(&b, "  caddy till token revoke %s  (%s)\n", t.ID, prose.Cut(t.Name, 20))
	}
	return b.String()
}

func (c *client) tokens(ctx context.Context) ([]*wire.TokenObject, error) {
	all, _, err := pages(ctx, c, "/tokens", url.Values{}, 0, func(p *wire.ListedTokens) ([]*wire.TokenObject, string) { return p.Tokens, p.Next })
	return all, err
}
