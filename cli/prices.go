package cli

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

func pricesCommand(f *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "prices [MODEL]",
		Short: "Shows the prices for limits in dollars",
		Long: `Shows the prices by which the server counts, in US dollars per million tokens.
Prices in its configuration replace the built-in ones.`,
		Example: `  caddy till prices
  caddy till prices gpt-5-mini
  caddy till prices openai/gpt-5-mini --json`,
		Args: argCount(0, 1, "the model, by its exact name"),
		RunE: f.calling(func(cmd *cobra.Command, c *client, args []string) error {
			path := "/prices"
			if len(args) == 1 {
				path += "?" + url.Values{"model": args}.Encode()
			}
			var answer wire.ListedPrices
			if err := c.call(cmd.Context(), "GET", path, nil, &answer); err != nil {
				return err
			}
			if len(args) == 1 && len(answer.Prices) == 0 {
				return fmt.Errorf("the price of %s is not known; add it to the configuration: price PRESET/%s INPUT OUTPUT", prose.Cut(args[0], 64), prose.Cut(args[0], 64))
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), answer)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "MODEL\tINPUT\tOUTPUT\tCACHED\tAS OF")
			for _, p := range answer.Prices {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", prose.Cut(p.Provider+"/"+p.Model, 40), p.Input, p.Output, cmp.Or(p.CachedInput, "-"), cmp.Or(p.AsOf, "-"))
				for _, tier := range p.Tiers {
					fmt.Fprintf(t, "  over %s tokens of input\t%s\t%s\t\t\n", compact(tier.Above), tier.Input, tier.Output)
				}
			}
			if err := t.Flush(); err != nil {
				return err
			}
			if len(args) == 1 {
				for _, p := range answer.Prices {
					if err := printPrice(cmd.OutOrStdout(), &p); err != nil {
						return err
					}
				}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "\nUSD per million tokens. The built-in table is of %s.\n", answer.AsOf)
			return err
		}),
	}
}

// printPrice prints the details of a price that are not in the table.
func printPrice(w io.Writer, p *wire.PriceObject) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", prose.Cut(p.Provider+"/"+p.Model, 78))
	line := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, "  %-20s %s\n", name, prose.Cut(value, 56))
		}
	}
	line("cache write", p.CacheWrite)
	line("cache write, 1 hour", p.CacheWrite1h)
	line("context window", strconv.FormatInt(p.Context, 10))
	line("longest answer", strconv.FormatInt(p.MaxOutput, 10))
	line("source", p.Source)
	line("confidence", p.Confidence)
	_, err := io.WriteString(w, b.String())
	return err
}
