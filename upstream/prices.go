package upstream

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// The embedded table. It is made from collected figures by
//
//	go run ./upstream/genprices FIGURES.json > upstream/prices.json
//
//go:embed prices.json
var embedded []byte

// Prices is a table of prices.
type Prices struct {
	AsOf    string // of the table that is built in
	byModel map[string]*Price
	aliased []*Price
}

// priceFile is the form of a table as a file, schema till.prices/1. Amounts are
// USD per million tokens.
type priceFile struct {
	Schema string      `json:"schema"`
	AsOf   string      `json:"as_of,omitempty"`
	Models []priceLine `json:"models"`
}

type priceLine struct {
	Provider    string   `json:"provider"`
	ID          string   `json:"id"`
	Alias       string   `json:"alias_regex,omitempty"` // of dated snapshots
	Input       *float64 `json:"input"`
	Output      *float64 `json:"output"`
	CachedInput float64  `json:"cached_input,omitempty"`
	CacheWrite  float64  `json:"cache_write,omitempty"`
	CacheWrite1 float64  `json:"cache_write_1h,omitempty"`
	Tiers       []struct {
		Above       int64   `json:"above_input_tokens"`
		Input       float64 `json:"input,omitempty"`
		Output      float64 `json:"output,omitempty"`
		CachedInput float64 `json:"cached_input,omitempty"`
		CacheWrite  float64 `json:"cache_write,omitempty"`
	} `json:"tiers,omitempty"`
	Context    int64  `json:"context_window,omitempty"`
	MaxOutput  int64  `json:"max_output_tokens,omitempty"`
	AsOf       string `json:"as_of,omitempty"`
	Source     string `json:"source,omitempty"`
	Confidence string `json:"confidence,omitempty"`
}

const (
	priceSchema = "till.prices/1"
	maxPrices   = 8 << 20 // bytes of a file
	maxRate     = 1e5     // USD per million tokens
)

// BuiltInPrices returns the table that is built in. Nobody may change it.
var BuiltInPrices = sync.OnceValue(func() *Prices {
	p := &Prices{byModel: make(map[string]*Price)}
	asOf, err := p.read(bytes.NewReader(embedded))
	if err != nil {
		panic("the built-in prices: " + err.Error()) // a test reads them
	}
	p.AsOf = asOf
	return p
})

// With returns the table with a file's models added or put in place of its own.
func (p *Prices) With(r io.Reader) (*Prices, error) {
	more := p.clone()
	_, err := more.read(r)
	return more, err
}

// WithPrice returns the table with one model's price, in USD per million
// tokens; cached is 0 where it is not set.
func (p *Prices) WithPrice(provider, model string, input, output, cached float64) (*Prices, error) {
	more := p.clone()
	line := priceLine{Provider: provider, ID: model, Input: &input, Output: &output, CachedInput: cached, Source: "price line of the configuration"}
	if old := p.byModel[priceKey(provider, model)]; old != nil {
		line.Context, line.MaxOutput = old.Context, old.MaxOutput
	}
	return more, more.add(line)
}

func (p *Prices) clone() *Prices {
	c := &Prices{AsOf: p.AsOf, byModel: make(map[string]*Price, len(p.byModel)), aliased: slices.Clone(p.aliased)}
	for key, price := range p.byModel {
		c.byModel[key] = price
	}
	return c
}

func (p *Prices) read(r io.Reader) (asOf string, err error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPrices+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxPrices {
		return "", fmt.Errorf("a price file may be %d bytes long", maxPrices)
	}
	var file priceFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return "", err
	}
	if file.Schema != priceSchema {
		return "", fmt.Errorf("schema must be %q, got %q", priceSchema, file.Schema)
	}
	for i, line := range file.Models {
		if err := p.add(line); err != nil {
			return "", fmt.Errorf("models[%d]: %w", i, err)
		}
	}
	return file.AsOf, nil
}

func (p *Prices) add(line priceLine) error {
	if line.Provider == "" || line.ID == "" {
		return fmt.Errorf("provider and id must be set, got %q and %q", line.Provider, line.ID)
	}
	if line.Input == nil || line.Output == nil {
		return fmt.Errorf("%s/%s: input and output must be set", line.Provider, line.ID)
	}
	price := &Price{
		Provider: line.Provider, Model: line.ID, Context: line.Context, MaxOutput: line.MaxOutput,
		AsOf: line.AsOf, Source: line.Source, Confidence: line.Confidence,
	}
	var err error
	if price.Rates, err = rates(*line.Input, *line.Output, line.CachedInput, line.CacheWrite, line.CacheWrite1); err != nil {
		return fmt.Errorf("%s/%s: %w", line.Provider, line.ID, err)
	}
	for _, t := range line.Tiers {
		r, err := rates(t.Input, t.Output, t.CachedInput, t.CacheWrite, 0)
		if err != nil || t.Above < 1 {
			return fmt.Errorf("%s/%s: a tier above %d: %v", line.Provider, line.ID, t.Above, err)
		}
		price.Tiers = append(price.Tiers, Tier{t.Above, r})
	}
	if line.Alias != "" {
		if !strings.HasPrefix(line.Alias, "^") || !strings.HasSuffix(line.Alias, "$") {
			return fmt.Errorf("%s/%s: alias_regex must stand between ^ and $, got %q", line.Provider, line.ID, line.Alias)
		}
		if price.alias, err = regexp.Compile(line.Alias); err != nil {
			return fmt.Errorf("%s/%s: alias_regex: %w", line.Provider, line.ID, err)
		}
	}
	key := priceKey(line.Provider, line.ID)
	if old := p.byModel[key]; old != nil {
		p.aliased = slices.DeleteFunc(slices.Clone(p.aliased), func(q *Price) bool { return q == old })
	}
	p.byModel[key] = price
	if price.alias != nil {
		p.aliased = append(p.aliased, price)
	}
	return nil
}

func rates(input, output, cached, write, write1 float64) (r Rates, err error) {
	for _, f := range []struct {
		to   *int64
		rate float64
	}{{&r.Input, input}, {&r.Output, output}, {&r.CachedInput, cached}, {&r.CacheWrite, write}, {&r.CacheWrite1, write1}} {
		if !(f.rate >= 0 && f.rate <= maxRate) {
			return r, fmt.Errorf("a price must be from 0 to %g USD per million tokens, got %g", float64(maxRate), f.rate)
		}
		*f.to = int64(math.Ceil(f.rate*1e6 - 1e-6)) // 0.3*1e6 is not quite 300,000
	}
	return r, nil
}

func priceKey(provider, model string) string { return provider + "/" + model }

// Find returns the price of a model by its exact name, or by that of a dated
// snapshot of it; never by a beginning, because gpt-5 is not gpt-5-pro.
func (p *Prices) Find(provider, model string) (*Price, bool) {
	if price := p.byModel[priceKey(provider, model)]; price != nil {
		return price, true
	}
	for _, price := range p.aliased {
		if price.Provider == provider && price.alias.MatchString(model) {
			return price, true
		}
	}
	return nil, false
}

// All lists the prices by provider and model.
func (p *Prices) All() []*Price {
	all := make([]*Price, 0, len(p.byModel))
	for _, price := range p.byModel {
		all = append(all, price)
	}
	slices.SortFunc(all, func(a, b *Price) int {
		return strings.Compare(priceKey(a.Provider, a.Model), priceKey(b.Provider, b.Model))
	})
	return all
}
