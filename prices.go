package till

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/till-proxy/till/upstream"
)

// ModelPrice is the price of one model.
type ModelPrice struct {
	// The preset, and the model's exact name after a slash, such as
	// "openai/my-finetune". Required.
	Model string `json:"model"`
	// USD per million tokens of input. Required.
	Input float64 `json:"input"`
	// USD per million tokens of output, reasoning included. Required.
	Output float64 `json:"output"`
	// USD per million tokens of input from a cache. Default: that of input.
	CachedInput float64 `json:"cached_input,omitempty"`
	// USD per million tokens of input that is written to a cache. Default: in the same
	// proportion to input as in the table, or that of input if the table has none; for a
	// model of Anthropic's that the table lacks, 1.25 times that of input.
	CacheWrite float64 `json:"cache_write,omitempty"`
}

// loadPrices combines the built-in prices, those of the file, and those of the
// configuration; the later ones override the earlier ones.
func (a *App) loadPrices() error {
	switch a.UnknownPrice {
	case "", "refuse":
	case "count_only":
		a.countOnly = true
	default:
		return fmt.Errorf(`unknown_price must be "refuse" or "count_only", got %q`, a.UnknownPrice)
	}
	if a.PricesFile == "" {
		return a.applyPrices(upstream.BuiltInPrices())
	}
	var err error
	if a.PricesFile, err = caddy.NewReplacer().ReplaceOrErr(a.PricesFile, true, true); err != nil {
		return fmt.Errorf("prices: %w", err)
	}
	return a.addSource(&fileSource{what: "the file of prices", paths: []string{a.PricesFile}, maxSize: upstream.MaxPrices,
		apply: func(_ context.Context, files contents) (bool, error) {
			text, err := files.of(a.PricesFile)
			if err != nil {
				return false, fmt.Errorf("prices: %w", err)
			}
			prices, err := upstream.BuiltInPrices().With(strings.NewReader(text))
			if err != nil {
				return false, fmt.Errorf("prices: %s: %w", a.PricesFile, err)
			}
			return true, a.applyPrices(prices)
		}})
}

// applyPrices adds the prices of the configuration, and puts all of them into force for
// requests that begin from now on.
func (a *App) applyPrices(prices *upstream.Prices) error {
	for i, p := range a.Prices {
		provider, model, err := splitModel(p.Model)
		if err != nil {
			return fmt.Errorf("price: %w", err)
		}
		if slices.ContainsFunc(a.Prices[:i], func(other ModelPrice) bool { return other.Model == p.Model }) {
			return fmt.Errorf("price: %s has two prices; leave one out", p.Model)
		}
		if prices, err = prices.WithPrice(provider, model, p.Input, p.Output, p.CachedInput, p.CacheWrite); err != nil {
			return fmt.Errorf("price: %w", err)
		}
	}
	a.prices.Store(prices)
	return nil
}

// splitModel parses PRESET/MODEL.
func splitModel(s string) (provider, model string, err error) {
	provider, model, ok := strings.Cut(s, "/")
	if !ok || model == "" || !slices.Contains(upstream.Names(), provider) {
		return "", "", fmt.Errorf("a model is written PRESET/MODEL, such as openai/my-finetune, with one of %s; got %q", strings.Join(upstream.Names(), ", "), s)
	}
	return provider, model, nil
}

// pricesAge is the age from which the built-in prices are reported as old.
const pricesAge = 45 * 24 * time.Hour

// oldPrices reports whether the built-in prices may be out of date.
func (a *App) oldPrices(now time.Time) (asOf string, old bool) {
	asOf = a.prices.Load().AsOf
	at, err := time.Parse(time.DateOnly, asOf)
	return asOf, err != nil || now.Sub(at) >= pricesAge
}

func (a *App) warnOldPrices(now time.Time) {
	if asOf, old := a.oldPrices(now); old {
		a.logger.Warn("the built-in prices are old: update till, or name a file of your own with: prices PATH", zap.String("as_of", asOf))
	}
}

// PriceTable returns the prices that limits in dollars count with.
func (a *App) PriceTable() *upstream.Prices { return a.prices.Load() }
