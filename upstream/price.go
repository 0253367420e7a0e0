package upstream

import (
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Price is what a model costs, in picodollars ($10^-12) a token: a dollar per
// million tokens is 1,000,000 of them.
type Price struct {
	Provider string
	Model    string
	Rates
	// Tiers apply to a whole request whose input is longer.
	Tiers []Tier
	// Image and Media are what a token of input costs in requests that hold
	// pictures, or sound, films and files, where that is more than for text; 0:
	// it is not.
	Image, Media int64
	// From and Until are when the price begins and ends to hold; zero: always.
	From, Until time.Time
	// OffPeak is when less is charged; nil: never.
	OffPeak *OffPeak
	// Context is the longest input, and MaxOutput the longest answer, in
	// tokens; 0 where it is not known.
	Context, MaxOutput int64
	AsOf               string // date, 2026-11-10
	Source             string
	Confidence         string // high, single-source or low; "" for an operator's own

	alias *regexp.Regexp // dated snapshots of the model
	other *Price         // of the same model, for other dates
}

// at is the price that holds at a moment, or nil.
func (p *Price) at(now time.Time) *Price {
	for ; p != nil; p = p.other {
		if !now.Before(p.From) && (p.Until.IsZero() || now.Before(p.Until)) {
			return p
		}
	}
	return nil
}

// OffPeak is a price's discount by the time of day: what is not a peak is
// cheaper. Requests are held at the full price.
type OffPeak struct {
	Permille  int64 // of the full price
	UTCOffset time.Duration
	// Peaks are the hours of a working day, Monday to Friday, at the full price,
	// from and to, since midnight there.
	Peaks [][2]time.Duration
}

// clockDoubt is how far the vendor's clock and ours may be apart.
const clockDoubt = 5 * time.Minute

// full reports whether some moment between the two may be a peak.
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

// Discount is what costs are multiplied with for a request that ran from the
// one moment to the other, in permille.
func (p *Price) Discount(began, ended time.Time) int64 {
	if p.OffPeak == nil || p.OffPeak.full(began, ended) {
		return 1000
	}
	return p.OffPeak.Permille
}

// For is the price for a request, which may hold more than text. All its input
// counts as what is dearest in it.
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
	return &dearer
}

// Rates are prices of tokens by kind. A rate of 0 is not set, and then the
// input's applies.
type Rates struct {
	Input, Output           int64
	CachedInput             int64
	CacheWrite, CacheWrite1 int64 // for minutes, and for an hour
}

// Tier is what a request costs whose input is longer than Above tokens.
type Tier struct {
	Above int64
	Rates
}

// rates returns those for an input.
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
	// Vendors price writing by the input's rate; what a tier or a row does not
	// say follows from that.
	if p.Input > 0 && r.Input > p.Input {
		r.CacheWrite = max(r.CacheWrite, scaled(p.CacheWrite, r.Input, p.Input))
		r.CacheWrite1 = max(r.CacheWrite1, scaled(p.CacheWrite1, r.Input, p.Input))
	}
	if r.CacheWrite > 0 && r.CacheWrite1 == 0 {
		r.CacheWrite1 = max(2*r.Input, r.CacheWrite)
	}
	return r
}

// scaled is rate times to over from, rounded up.
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

// MaxCost bounds what a request costs in nano-dollars, with so many tokens of
// input and of output in all, at the dearest rate that can apply.
func (p *Price) MaxCost(e *Estimate, input, output int64) int64 {
	r := p.rates(input)
	in := r.Input
	if e.Cached || p.Provider != "anthropic" { // only Anthropic is told when to write
		in = max(in, r.CacheWrite)
	}
	in = max(in, r.CachedInput) // an operator's may be dearer
	if e.CachedHour {
		in = max(in, r.CacheWrite1)
	}
	return nanodollars(e.Permille, product{input, in}, product{output, r.Output})
}

// Permille is what prices are multiplied with for an answer: by where its vendor says
// that it was served, and in which tier, and by when it ran.
func (p *Price) Permille(e *Estimate, m *Meter, began, ended time.Time) int64 {
	permille := e.Asked
	if m.Region() != "" {
		permille = e.Permille
	}
	permille = (permille*p.Discount(began, ended) + 999) / 1000
	if p.Provider != "openai" {
		return permille
	}
	switch m.Tier() {
	case "flex":
		if e.Flex {
			permille = (permille + 1) / 2
		}
	case "priority":
		if !e.Priority {
			permille = permille * e.PriorityPermille() / 1000
		}
	case "default", "standard":
		if e.Priority { // there was none to be had
			permille = (permille*1000 + e.PriorityPermille() - 1) / e.PriorityPermille()
		}
	}
	return permille
}

// saysCost are the providers that say what they took.
var saysCost = []string{"openrouter", "xai"}

// Cost is what was used costs, in nano-dollars. Where a provider that does so
// says what it took, that counts; from any other it counts only if it is more. That
// it took nothing for an answer counts only where the table says so, too.
func (p *Price) Cost(u Usage, permille int64) int64 {
	if slices.Contains(saysCost, p.Provider) && (u.Nanodollars > 0 || u.Nanodollars == 0 && u.Output == 0) {
		return u.Nanodollars
	}
	return max(p.byTable(u, permille), u.Nanodollars)
}

// PriorityPermille is what prices of the model are multiplied with when it is
// served with priority: twice the price, and GPT-5.5's 2.5 times
// (https://openai.com/api-priority-processing).
func (e *Estimate) PriorityPermille() int64 {
	if strings.HasPrefix(e.Model, "gpt-5.5") {
		return 2500
	}
	return 2000
}

// Reported is a report in which what the provider says that it took is multiplied
// as the operator says.
func (e *Estimate) Reported(u Usage) Usage {
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
// nano-dollars; below 0 when its input alone costs more.
func (p *Price) Affords(e *Estimate, input, nano int64) int64 {
	left := nano - p.MaxCost(e, input, 0)
	rate := p.rates(input).Output
	switch {
	case left < 0:
		return -1
	case rate == 0:
		return math.MaxInt32
	}
	// Rounded down twice: what the result costs is never more than is there.
	high, low := bits.Mul64(uint64(left), 1_000_000)
	divisor := uint64(rate) * uint64(e.Permille)
	if high >= divisor {
		return math.MaxInt32
	}
	n, _ := bits.Div64(high, low, divisor)
	n = min(n, math.MaxInt32)
	for n > 0 && p.MaxCost(e, input, int64(n)) > nano {
		n--
	}
	return int64(n)
}

// product is a number of tokens at a rate.
type product struct{ tokens, rate int64 }

// nanodollars sums products of picodollars, multiplied by permille, and rounds
// up. What does not fit is the most there is.
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
	const divisor = 1_000_000 // permille, and 1,000 picodollars
	if high >= divisor {
		return math.MaxInt64 / 4
	}
	n, rest := bits.Div64(high, low, divisor)
	if rest > 0 {
		n++
	}
	return int64(min(n, math.MaxInt64/4))
}
