package upstream

import (
	"math"
	"math/bits"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

// Price is what a model costs, in picodollars ($10^-12) per token: one dollar per
// million tokens is 1,000,000 picodollars per token.
type Price struct {
	Provider string
	Model    string
	Rates
	// Tiers apply to a whole request with a longer input.
	Tiers []Tier
	// Image and Media are the prices of a token of input in requests that hold
	// pictures, or sound, films and files, if that is more than for text; otherwise
	// 0.
	Image, Media int64
	// From and Until bound the time in which the price applies; zero: no bound.
	From, Until time.Time
	// OffPeak is the discount outside of peak hours; nil: none.
	OffPeak *OffPeak
	// Context is the longest input, and MaxOutput the longest answer, in tokens; 0 if
	// not known.
	Context, MaxOutput int64
	AsOf               string // date, 2026-11-10
	Source             string
	Confidence         string // high, single-source or low; "" for an operator's own

	bare  string         // see bareName
	alias *regexp.Regexp // matches dated snapshots of the model
	other *Price         // the price of the same model for other dates
}

// longestRequest is how long before a change of prices a request may begin and be
// billed after it, as the vendor bills a streamed answer at its end.
const longestRequest = 24 * time.Hour

// at returns the price at which a request that begins at a moment is held and charged;
// nil if none applies then. Near a change, each rate is the dearer of both rows'.
func (p *Price) at(now time.Time) *Price {
	var held *Price
	for q := p; q != nil && held == nil; q = q.other {
		if q.holds(now) {
			held = q
		}
	}
	if held == nil || p.other == nil {
		return held
	}
	for q := p; q != nil; q = q.other {
		ended := !q.Until.IsZero() && !now.Add(-clockDoubt).Before(q.Until)
		if begins := !q.From.After(now.Add(longestRequest)); begins && !ended && !q.holds(now) {
			held = held.dearer(q)
		}
	}
	return held
}

// dearer returns a price that is at no rate below either, and has no discounts by the
// time of day.
func (p *Price) dearer(other *Price) *Price {
	both := *p
	at := func(input int64) Rates { return p.rates(input).dearer(other.rates(input)) }
	both.Rates, both.Tiers, both.OffPeak = at(0), nil, nil
	for _, t := range slices.Concat(p.Tiers, other.Tiers) {
		both.Tiers = append(both.Tiers, Tier{t.Above, at(t.Above + 1)})
	}
	both.Image, both.Media = max(p.Image, other.Image), max(p.Media, other.Media)
	both.Context = max(p.Context, other.Context)
	return &both
}

// dearer returns the higher of both at each rate.
func (r Rates) dearer(other Rates) Rates {
	higher := func(a, b int64) int64 {
		if a == 0 && b == 0 {
			return 0
		}
		return max(r.orInput(a), other.orInput(b))
	}
	return Rates{
		Input: max(r.Input, other.Input), Output: max(r.Output, other.Output), CachedInput: higher(r.CachedInput, other.CachedInput),
		CacheWrite: higher(r.CacheWrite, other.CacheWrite), CacheWrite1: higher(r.CacheWrite1, other.CacheWrite1),
	}
}

func (p *Price) holds(now time.Time) bool {
	return !now.Before(p.From) && (p.Until.IsZero() || now.Before(p.Until))
}

// OffPeak is a price's discount by the time of day: outside of peaks, requests cost
// less. Requests are held at the full price.
type OffPeak struct {
	Permille  int64 // the part of the full price that is charged
	UTCOffset time.Duration
	// Peaks are the hours of a working day, Monday to Friday, at the full price, as
	// start and end since local midnight.
	Peaks [][2]time.Duration
}

// clockDoubt is how far the vendor's clock and ours may differ.
const clockDoubt = 5 * time.Minute

// full reports whether any moment between the two may be in a peak.
func (o *OffPeak) full(began, ended time.Time) bool {
	began, ended = began.UTC().Add(o.UTCOffset-clockDoubt), ended.UTC().Add(o.UTCOffset+clockDoubt)
	for day := began.Truncate(24 * time.Hour); !day.After(ended); day = day.AddDate(0, 0, 1) {
		if day.Weekday() == time.Saturday || day.Weekday() == time.Sunday {
			continue
		}
		for _, peak := range o.Peaks {
			if ended.After(day.Add(peak[0])) && began.Before(day.Add(peak[1])) {
				return true
			}
		}
	}
	return false
}

// discount returns the factor for the costs of a request that ran between two
// moments, in permille.
func (p *Price) discount(began, ended time.Time) int64 {
	if p.OffPeak == nil || p.OffPeak.full(began, ended) {
		return 1000
	}
	return p.OffPeak.Permille
}

// For returns the price for a request that may hold more than text. All of its input
// is charged at the rate of its dearest part.
func (p *Price) For(e *Estimate) *Price {
	input := p.Input
	if e.Pictures {
		input = max(input, p.Image)
	}
	if e.Media {
		input = max(input, p.Image, p.Media)
	}
	if input == p.Input {
		return p
	}
	dearer := *p
	dearer.Input, dearer.CachedInput = input, 0
	if p.CacheWrite > 0 {
		dearer.CacheWrite = max(scaled(p.CacheWrite, input, p.Input), input)
	}
	if p.CacheWrite1 > 0 {
		dearer.CacheWrite1 = max(scaled(p.CacheWrite1, input, p.Input), input)
	}
	dearer.Tiers = slices.Clone(p.Tiers)
	for i := range dearer.Tiers {
		dearer.Tiers[i].CachedInput = 0
	}
	return &dearer
}

// Rates are prices of tokens by kind. A rate of 0 is not set, and the input's rate
// applies.
type Rates struct {
	Input, Output           int64
	CachedInput             int64
	CacheWrite, CacheWrite1 int64 // kept for minutes, and for an hour or longer
}

// Tier is the price of a request whose input is longer than Above tokens.
type Tier struct {
	Above int64
	Rates
}

// rates returns the rates for an input of that length.
func (p *Price) rates(input int64) Rates {
	r := p.Rates
	for _, t := range p.Tiers {
		if input <= t.Above {
			continue
		}
		r = Rates{
			Input: max(r.Input, t.Input), Output: max(r.Output, t.Output), CachedInput: max(r.CachedInput, t.CachedInput),
			CacheWrite: max(r.CacheWrite, t.CacheWrite), CacheWrite1: max(r.CacheWrite1, t.CacheWrite1),
		}
	}
	// Vendors derive the price of cache writes from the input's rate, and so does
	// this for a tier or a row that does not state it.
	if p.Input > 0 && r.Input > p.Input {
		r.CacheWrite = max(r.CacheWrite, scaled(p.CacheWrite, r.Input, p.Input))
		r.CacheWrite1 = max(r.CacheWrite1, scaled(p.CacheWrite1, r.Input, p.Input))
	}
	if r.CacheWrite1 == 0 && (r.CacheWrite > 0 || p.Provider == "openai" || strings.HasPrefix(p.Model, "openai/") || strings.Contains(p.Model, "claude")) {
		r.CacheWrite1 = max(p.longWrite(r.Input), r.CacheWrite)
	}
	return r
}

// longWrite returns the rate for cache writes that are kept longer than usual, from the
// rate for input. Anthropic charges twice the input's price for an hour, and OpenAI 2.5
// times for twelve (https://developers.openai.com/api/docs/models/gpt-6.2-sol).
func (p *Price) longWrite(input int64) int64 {
	if p.Provider == "openai" && !strings.Contains(p.Model, "claude") || strings.HasPrefix(p.Model, "openai/") {
		return scaled(input, 5, 2)
	}
	return 2 * input
}

// scaled returns rate times to over from, rounded up.
func scaled(rate, to, from int64) int64 {
	if from <= 0 {
		return rate
	}
	high, low := bits.Mul64(uint64(max(rate, 0)), uint64(max(to, 0)))
	if high >= uint64(from) {
		return math.MaxInt64 / 4
	}
	n, rest := bits.Div64(high, low, uint64(from))
	if rest > 0 {
		n++
	}
	return int64(min(n, math.MaxInt64/4))
}

func (r Rates) orInput(rate int64) int64 {
	if rate == 0 {
		return r.Input
	}
	return rate
}

// MaxCost bounds the cost of a request in nano-dollars, with so many tokens of input
// and of output in total, at the highest rates that can apply.
func (p *Price) MaxCost(e *Estimate, input, output int64) int64 {
	r := p.rates(input)
	in := r.Input
	if e.Cached || p.Provider != "anthropic" { // only at Anthropic does the request say when to write
		in = max(in, r.CacheWrite)
	}
	in = max(in, r.CachedInput) // an operator's own rate may be higher
	if e.CachedHour {
		in = max(in, r.CacheWrite1)
	}
	return nanodollars(e.Permille, product{input, in}, product{output, r.Output})
}

// Permille returns the factor for the prices of an answer: it depends on the region and
// the tier that the vendor names, and on when the request ran.
func (p *Price) Permille(e *Estimate, m *Meter, began, ended time.Time) int64 {
	permille := e.Asked
	if m.Region() != "" {
		permille = e.Permille
	}
	permille = (permille*p.discount(began, ended) + 999) / 1000
	if p.Provider != "openai" && p.Provider != "mistral" {
		return permille
	}
	asked, served := int64(1000), int64(1000)
	if e.Priority {
		asked = e.priorityPermille()
	}
	switch m.Tier() {
	case "flex":
		if e.Flex && p.Provider == "openai" {
			permille = (permille + 1) / 2
		}
		return permille
	case "priority", "fast":
		served = e.priorityPermille()
	case "ultrafast":
		served = ultrafastPermille
	case "default", "standard": // perhaps no priority was available
	case "", "auto": // it does not say which tier it was
		if !e.projectDecides() {
			return permille
		}
		served = e.priorityPermille()
	default:
		return permille
	}
	return (permille*served + asked - 1) / asked
}

var saysCost = []string{"openrouter", "xai"}

// Cost returns the cost of a usage in nano-dollars. If a provider in saysCost reports
// a charge, that is the cost; the report of any other counts only if it is higher
// than the table's. A charge of nothing for an answer counts only if the table
// agrees.
func (p *Price) Cost(u Usage, permille int64) int64 {
	if slices.Contains(saysCost, p.Provider) && (u.Nanodollars > 0 || u.Nanodollars == 0 && u.Output == 0) {
		return u.Nanodollars
	}
	return max(p.byTable(u, permille), u.Nanodollars)
}

// Reported returns a usage in which the charge that the provider reports is
// multiplied by the operator's factor. If the request asked for something to be kept for
// an hour or longer, and the answer does not say how much was, everything that was
// written counts as that.
func (e *Estimate) Reported(u Usage) Usage {
	if e.CachedHour && u.CacheWrite1h < 0 {
		u.CacheWrite1h = u.CacheWrite
	}
	if e.Multiply > 0 && e.Multiply != 1000 && u.Nanodollars > 0 {
		u.Nanodollars = scaled(u.Nanodollars, e.Multiply, 1000)
	}
	return u
}

func (p *Price) byTable(u Usage, permille int64) int64 {
	r := p.rates(u.Input)
	cached, written := clamp(u.CachedInput, u.Input), max(u.CacheWrite, 0)
	written = clamp(written, u.Input-cached)
	hour := clamp(u.CacheWrite1h, written)
	return nanodollars(permille,
		product{max(u.Input, 0) - cached - written, r.Input},
		product{cached, r.orInput(r.CachedInput)},
		product{written - hour, r.orInput(r.CacheWrite)},
		product{hour, max(r.orInput(r.CacheWrite1), r.CacheWrite)},
		product{max(u.Output, 0), r.Output})
}

func clamp(n, most int64) int64 { return min(max(n, 0), max(most, 0)) }

// Affords returns how many tokens of output a request can have for so many
// nano-dollars, less than math.MaxInt32; negative if its input alone costs more.
func (p *Price) Affords(e *Estimate, input, nano int64) int64 {
	return int64(sort.Search(math.MaxInt32, func(n int) bool { return p.MaxCost(e, input, int64(n)) > nano })) - 1
}

// product is a number of tokens at a rate.
type product struct{ tokens, rate int64 }

// nanodollars sums products of picodollars, multiplied by permille, and rounds up. It
// saturates on overflow.
func nanodollars(permille int64, products ...product) int64 {
	var high, low uint64
	for _, p := range products {
		h, l := bits.Mul64(uint64(max(p.tokens, 0)), uint64(max(p.rate, 0)))
		if h != 0 {
			return math.MaxInt64 / 4
		}
		h, l = bits.Mul64(l, uint64(permille))
		var carry uint64
		low, carry = bits.Add64(low, l, 0)
		high += h + carry
	}
	const divisor = 1_000_000 // permille times 1,000 picodollars
	if high >= divisor {
		return math.MaxInt64 / 4
	}
	n, rest := bits.Div64(high, low, divisor)
	if rest > 0 {
		n++
	}
	return int64(min(n, math.MaxInt64/4))
}
