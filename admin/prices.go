package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream"
)

// PriceObject is a price as the management API shows it, in USD per million
// tokens.
type PriceObject struct {
	Provider     string      `json:"provider"`
	Model        string      `json:"model"`
	Input        string      `json:"input"`
	Output       string      `json:"output"`
	CachedInput  string      `json:"cached_input,omitempty"`
	CacheWrite   string      `json:"cache_write,omitempty"`
	CacheWrite1h string      `json:"cache_write_1h,omitempty"`
	Tiers        []tierPrice `json:"tiers,omitempty"`
	Context      int64       `json:"context_window,omitempty"`
	MaxOutput    int64       `json:"max_output_tokens,omitempty"`
	AsOf         string      `json:"as_of,omitempty"`
	Source       string      `json:"source,omitempty"`
	Confidence   string      `json:"confidence,omitempty"`
}

type tierPrice struct {
	Above  int64  `json:"above_input_tokens"`
	Input  string `json:"input"`
	Output string `json:"output"`
}

// perMillion writes picodollars a token as dollars per million tokens.
func perMillion(pico int64) string { return limiter.FormatUSD(pico * 1000) }

func orNone(pico int64) string {
	if pico == 0 {
		return ""
	}
	return perMillion(pico)
}

func priceJSON(p *upstream.Price) PriceObject {
	o := PriceObject{
		Provider: p.Provider, Model: p.Model, Input: perMillion(p.Input), Output: perMillion(p.Output),
		CachedInput: orNone(p.CachedInput), CacheWrite: orNone(p.CacheWrite), CacheWrite1h: orNone(p.CacheWrite1),
		Context: p.Context, MaxOutput: p.MaxOutput, AsOf: p.AsOf, Source: p.Source, Confidence: p.Confidence,
	}
	for _, t := range p.Tiers {
		o.Tiers = append(o.Tiers, tierPrice{t.Above, perMillion(t.Input), perMillion(t.Output)})
	}
	return o
}

// listedPrices is the table, or those of its models that a name finds.
type listedPrices struct {
	AsOf   string        `json:"as_of"` // of the built-in table
	Prices []PriceObject `json:"prices"`
}

// prices answers with the table. ?model= names a model, with its provider and a
// slash before it or without; what a request of that name would cost is meant,
// so dated snapshots are found, too.
func (a *api) prices(_ *limiter.Limiter, r *http.Request) (int, any, error) {
	table := a.backend.PriceTable()
	answer := listedPrices{AsOf: table.AsOf, Prices: []PriceObject{}}
	model := r.URL.Query().Get("model")
	if model == "" {
		for _, p := range table.All() {
			answer.Prices = append(answer.Prices, priceJSON(p))
		}
		return http.StatusOK, answer, nil
	}
	for _, provider := range upstream.Names() {
		name, named := strings.CutPrefix(model, provider+"/")
		if !named {
			name = model
		}
		if p, ok := table.Find(provider, name, time.Now()); ok {
			answer.Prices = append(answer.Prices, priceJSON(p))
		}
	}
	return http.StatusOK, answer, nil
}

func pricesCommand(f *common) *cobra.Command {
	return &cobra.Command{
		Use:   "prices [MODEL]",
		Short: "Shows what limits in dollars count with",
		Long: `Shows the prices that the server counts with, in US dollars per million tokens:
the built-in ones, with those of its configuration in their place.`,
		Example: `  caddy till prices
  caddy till prices gpt-5-mini
  caddy till prices openai/gpt-5-mini --json`,
		Args: takes(0, 1, "the model, by its exact name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			path := "/prices"
			if len(args) == 1 {
				path += "?" + url.Values{"model": args}.Encode()
			}
			var answer listedPrices
			if err := c.call(cmd.Context(), "GET", path, nil, &answer); err != nil {
				return err
			}
			if len(args) == 1 && len(answer.Prices) == 0 {
				return fmt.Errorf("the price of %s is not known; add it to the configuration: price PRESET/%s INPUT OUTPUT", cut(args[0], 64), cut(args[0], 64))
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), answer)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "MODEL\tINPUT\tOUTPUT\tCACHED\tAS OF")
			for _, p := range answer.Prices {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", cut(p.Provider+"/"+p.Model, 40), p.Input, p.Output, orDash(p.CachedInput), orDash(p.AsOf))
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
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nUSD per million tokens. The built-in table is of %s.\n", answer.AsOf)
			return err
		},
	}
}

// printPrice tells what else is known of a model, and how well.
func printPrice(w io.Writer, p *PriceObject) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", cut(p.Provider+"/"+p.Model, 78))
	line := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, "  %-20s %s\n", name, cut(value, 56))
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
