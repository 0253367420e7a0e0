package upstream

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// The embedded table is made from collected figures by
//
//	go run ./upstream/genprices FIGURES.json > upstream/prices.json
//
//go:embed prices.json
var embedded []byte

// Prices is a table of prices.
type Prices struct {
	AsOf    string // the date of the built-in table
	byModel map[string]*Price
	aliased []*Price
}

// priceFile is a table as a file, schema till.prices/1. Amounts are in USD per
// million tokens.
type priceFile struct {
	Schema string      `json:"schema"`
	AsOf   string      `json:"as_of,omitempty"`
	Models []priceLine `json:"models"`
}

type priceLine struct {
	Provider    string   `json:"provider"`
	ID          string   `json:"id"`
	Alias       string   `json:"alias_regex,omitempty"` // matches dated snapshots
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
	Image   float64 `json:"input_image,omitempty"`
	Media   float64 `json:"input_media,omitempty"` // sound, films, files
	From    string  `json:"from,omitempty"`        // a date, UTC
	Until   string  `json:"until,omitempty"`       // the last date
	OffPeak *struct {
		Permille int64    `json:"permille"`
		Offset   int64    `json:"utc_offset_minutes"`
		Peaks    []string `json:"weekday_peaks"` // 09:00-12:00
	} `json:"off_peak,omitempty"`
	Context    int64  `json:"context_window,omitempty"`
	MaxOutput  int64  `json:"max_output_tokens,omitempty"`
	AsOf       string `json:"as_of,omitempty"`
	Source     string `json:"source,omitempty"`
	Confidence string `json:"confidence,omitempty"`
}

// MaxPrices bounds a file of prices, in bytes.
const MaxPrices = 8 << 20

const (
	priceSchema = "till.prices/1"
	maxRate     = 1e5 // USD per million tokens
	// maxListed is the longest window that a table may state, in tokens. A bound that
	// overflows, or that is below zero, would hold nothing.
	maxListed = 1 << 40
)

// BuiltInPrices returns the built-in table. Callers must not change it.
var BuiltInPrices = sync.OnceValue(func() *Prices {
	p := &Prices{byModel: make(map[string]*Price)}
	asOf, err := p.read(bytes.NewReader(embedded))
	if err != nil {
		panic("the built-in prices: " + err.Error()) // a test parses the table
	}
	p.AsOf = asOf
	return p
})

// With returns the table with a file's models added, replacing models that it had.
func (p *Prices) With(r io.Reader) (*Prices, error) {
	more := p.clone()
	_, err := more.read(r)
	return more, err
}

// WithPrice returns the table with one model's price, in USD per million tokens;
// cached and written are 0 if they are not set.
func (p *Prices) WithPrice(provider, model string, input, output, cached, written float64) (*Prices, error) {
	more := p.clone()
	line := priceLine{Provider: provider, ID: model, Input: &input, Output: &output, CachedInput: cached, CacheWrite: written, Source: "price line of the configuration"}
	old := p.byModel[priceKey(provider, model)]
	if old != nil {
		line.Context, line.MaxOutput = old.Context, old.MaxOutput
	}
	if err := more.add(line, nil); err != nil {
		return nil, err
	}
	more.byModel[priceKey(provider, model)].like(old)
	return more, nil
}

// like takes from an older price what a configuration line cannot state, or does not:
// the prices of cache writes, of more than text, and of long inputs, in the
// proportion that they had to the rates that the line does state.
func (p *Price) like(old *Price) {
	if old == nil || old.Input == 0 {
		if p.Provider == "anthropic" {
			p.CacheWrite, p.CacheWrite1 = cmp.Or(p.CacheWrite, scaled(p.Input, 5, 4)), max(2*p.Input, p.CacheWrite)
		}
		return
	}
	input := func(rate int64) int64 { return scaled(rate, p.Input, old.Input) }
	said := p.CacheWrite
	p.CacheWrite = cmp.Or(said, input(old.CacheWrite))
	if old.CacheWrite1 > 0 { // otherwise rates derives it from the input's
		p.CacheWrite1 = max(input(old.CacheWrite1), said)
	}
	p.Image, p.Media = input(old.Image), input(old.Media)
	for _, t := range old.Tiers {
		tier := Tier{t.Above, Rates{Input: input(t.Input), CachedInput: input(t.CachedInput), CacheWrite: input(t.CacheWrite), CacheWrite1: input(t.CacheWrite1), Output: t.Output}}
		if old.Output > 0 {
			tier.Output = scaled(t.Output, p.Output, old.Output)
		}
		if said > 0 {
			tier.CacheWrite, tier.CacheWrite1 = 0, 0 // rates scales the stated price
		}
		p.Tiers = append(p.Tiers, tier)
	}
}

func (p *Prices) clone() *Prices {
	return &Prices{AsOf: p.AsOf, byModel: maps.Clone(p.byModel), aliased: slices.Clone(p.aliased)}
}

func (p *Prices) read(r io.Reader) (asOf string, err error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxPrices+1))
	if err != nil {
		return "", err
	}
	if len(b) > MaxPrices {
		return "", fmt.Errorf("a price file may be %d bytes long", MaxPrices)
	}
	var file priceFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(&file)
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return "", fmt.Errorf("%s may not be of the kind %s: see docs/tokens-and-dollars.md", cmp.Or(kind.Field, "the whole of it"), kind.Value)
	}
	if err != nil {
		return "", fmt.Errorf("reading it as JSON: %w", err)
	}
	if file.Schema != priceSchema {
		return "", fmt.Errorf("schema must be %q, got %q", priceSchema, file.Schema)
	}
	dates := make(map[string]bool)
	for i, line := range file.Models {
		if err := p.add(line, dates); err != nil {
			return "", fmt.Errorf("models[%d]: %w", i, err)
		}
	}
	return file.AsOf, nil
}

func (line *priceLine) price() (*Price, error) {
	if line.Input == nil || line.Output == nil {
		return nil, errors.New("input and output must be set")
	}
	price := &Price{
		Provider: line.Provider, Model: line.ID, Context: line.Context, MaxOutput: line.MaxOutput,
		AsOf: line.AsOf, Source: line.Source, Confidence: line.Confidence, bare: bareName(line.ID),
	}
	for name, n := range map[string]int64{"context_window": line.Context, "max_output_tokens": line.MaxOutput} {
		if n < 0 || n > maxListed {
			return nil, fmt.Errorf("%s must be from 0 to %d tokens, got %d; leave it out if it is not known", name, int64(maxListed), n)
		}
	}
	var err error
	if price.Rates, err = rates(*line.Input, *line.Output, line.CachedInput, line.CacheWrite, line.CacheWrite1); err != nil {
		return nil, err
	}
	more, err := rates(line.Image, line.Media, 0, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("input_image, input_media: %w", err)
	}
	price.Image, price.Media = more.Input, more.Output
	for _, t := range line.Tiers {
		r, err := rates(t.Input, t.Output, t.CachedInput, t.CacheWrite, 0)
		if err != nil || t.Above < 1 {
			return nil, fmt.Errorf("a tier above %d: %v", t.Above, err)
		}
		price.Tiers = append(price.Tiers, Tier{t.Above, r})
	}
	if line.Alias != "" {
		if !strings.HasPrefix(line.Alias, "^") || !strings.HasSuffix(line.Alias, "$") {
			return nil, fmt.Errorf("alias_regex must stand between ^ and $, got %q", line.Alias)
		}
		if price.alias, err = regexp.Compile(line.Alias); err != nil {
			return nil, fmt.Errorf("alias_regex: %w", err)
		}
	}
	return price, price.dated(line)
}

// add replaces the price of a model, but keeps those that dates says were added before:
// a file may have several prices for different times.
func (p *Prices) add(line priceLine, dates map[string]bool) error {
	if line.Provider == "" || line.ID == "" {
		return fmt.Errorf("provider and id must be set, got %q and %q", line.Provider, line.ID)
	}
	key := priceKey(line.Provider, line.ID)
	price, err := line.price()
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	old := p.byModel[key]
	if old != nil && dates[key] {
		for other := old; other != nil; other = other.other {
			if (other.Until.IsZero() || price.From.Before(other.Until)) && (price.Until.IsZero() || other.From.Before(price.Until)) {
				return fmt.Errorf("%s: two prices hold at the same time: give them dates, from and until", key)
			}
		}
		price.other = old
		if price.alias == nil {
			price.alias = old.alias
		}
	}
	if dates != nil {
		dates[key] = true
	}
	if old != nil {
		p.aliased = slices.DeleteFunc(slices.Clone(p.aliased), func(q *Price) bool { return q == old })
	}
	p.byModel[key] = price
	if price.alias != nil {
		p.aliased = append(p.aliased, price)
	}
	return nil
}

func (p *Price) dated(line *priceLine) (err error) {
	if line.From != "" {
		if p.From, err = time.Parse(time.DateOnly, line.From); err != nil {
			return fmt.Errorf("from must be a date such as 2026-12-01, got %q", line.From)
		}
	}
	if line.Until != "" {
		if p.Until, err = time.Parse(time.DateOnly, line.Until); err != nil {
			return fmt.Errorf("until must be a date such as 2026-12-31, got %q", line.Until)
		}
		if p.Until = p.Until.AddDate(0, 0, 1); !p.From.Before(p.Until) {
			return fmt.Errorf("from %s is after until %s", line.From, line.Until)
		}
	}
	if line.OffPeak == nil {
		return nil
	}
	o := &OffPeak{Permille: line.OffPeak.Permille, UTCOffset: time.Duration(line.OffPeak.Offset) * time.Minute}
	if o.Permille < 1 || o.Permille > 1000 || o.UTCOffset.Abs() > 14*time.Hour || len(line.OffPeak.Peaks) == 0 {
		return fmt.Errorf("off_peak needs permille from 1 to 1000, utc_offset_minutes within 840, and weekday_peaks")
	}
	for _, peak := range line.OffPeak.Peaks {
		from, to, _ := strings.Cut(peak, "-")
		begin, err1 := time.Parse("15:04", from)
		end, err2 := time.Parse("15:04", to)
		if err1 != nil || err2 != nil || !begin.Before(end) {
			return fmt.Errorf("a peak is written 09:00-12:00, got %q", peak)
		}
		midnight := begin.Truncate(24 * time.Hour)
		o.Peaks = append(o.Peaks, [2]time.Duration{begin.Sub(midnight), end.Sub(midnight)})
	}
	p.OffPeak = o
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
	if r.CacheWrite > 0 && r.CacheWrite < r.Input {
		// No vendor charges less for writing to a cache than for input: this rate is
		// paid on top of the input's. OpenRouter lists the storage of Google's caches
		// this way, for five minutes
		// (https://openrouter.ai/docs/features/prompt-caching).
		r.CacheWrite += r.Input
	}
	return r, nil
}

func priceKey(provider, model string) string { return provider + "/" + model }

// Find returns the price of a model at a moment, by its exact name or by that of a
// dated snapshot of it; never by a prefix, because gpt-5 is not gpt-5-pro.
func (p *Prices) Find(provider, model string, now time.Time) (*Price, bool) {
	if price := p.byModel[priceKey(provider, model)]; price != nil {
		price = price.at(now)
		return price, price != nil
	}
	for _, price := range p.aliased {
		if price.Provider == provider && price.alias.MatchString(model) {
			price = price.at(now)
			return price, price != nil
		}
	}
	return nil, false
}

// LongestOutput returns the most tokens of an answer of any model of a provider; 0 if
// it is not known. If only a model's window is known, that bounds its answers.
func (p *Prices) LongestOutput(provider string) (n int64) {
	for _, price := range p.byModel {
		for ; price != nil && price.Provider == provider; price = price.other {
			n = max(n, cmp.Or(price.MaxOutput, price.Context))
		}
	}
	return n
}

// All lists the prices by provider and model.
func (p *Prices) All() []*Price {
	all := make([]*Price, 0, len(p.byModel))
	for _, price := range p.byModel {
		for ; price != nil; price = price.other {
			all = append(all, price)
		}
	}
	slices.SortStableFunc(all, func(a, b *Price) int {
		return strings.Compare(priceKey(a.Provider, a.Model), priceKey(b.Provider, b.Model))
	})
	return all
}

// At lists the prices that hold at a moment, one of each model.
func (p *Prices) At(now time.Time) []*Price {
	return slices.DeleteFunc(p.All(), func(price *Price) bool { return !price.holds(now) })
}

// Routed returns the price at which a request is held if its provider chooses who
// answers: the highest that the table has for the model, wherever it is served. A row
// of low confidence has the price of the cheapest route, while an operator's own row
// is what the operator wants.
func (p *Prices) Routed(price *Price, now time.Time) *Price {
	if price.Provider != "openrouter" || price.Confidence != "low" {
		return price
	}
	dearest := *price
	dearest.Tiers = append([]Tier(nil), price.Tiers...)
	for _, other := range p.byModel {
		if other.Provider == price.Provider || other.bare != price.bare {
			continue
		}
		if other = other.at(now); other == nil {
			continue
		}
		dearest.Input, dearest.Output = max(dearest.Input, other.Input), max(dearest.Output, other.Output)
		dearest.CacheWrite, dearest.CacheWrite1 = max(dearest.CacheWrite, other.CacheWrite), max(dearest.CacheWrite1, other.CacheWrite1)
		dearest.Image, dearest.Media = max(dearest.Image, other.Image), max(dearest.Media, other.Media)
		dearest.Tiers = append(dearest.Tiers, other.Tiers...)
	}
	return &dearest
}

// bareName returns a model's name without its maker or host, in small letters and with
// hyphens for the dots in versions, which are written either way; Fireworks writes glm-5p3
// for 5.3. Mistral puts the maker before the name (zai-glm-5-3), and Groq calls the one
// tuned Llama 3.3 that it serves versatile.
func bareName(model string) string {
	name := strings.ToLower(model[strings.LastIndexByte(model, '/')+1:])
	name = pointed.ReplaceAllString(strings.ReplaceAll(name, ".", "-"), "$1-$2")
	if tuned, ok := strings.CutSuffix(name, "-versatile"); ok {
		name = tuned + "-instruct"
	}
	return strings.TrimPrefix(name, "zai-")
}

// pointed matches a version with a p for its dot.
var pointed = regexp.MustCompile(`(\d)p(\d)`)
