package till

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// usage is what a request of a key with a limit in tokens or dollars can use at most,
// which is held before it is forwarded, and what it did use.
type usage struct {
	family    string // the id of the topmost key, by which shares of common resources are counted
	estimate  *upstream.Estimate
	price     *upstream.Price // nil if it is unknown and not needed
	prices    *upstream.Prices
	provider  string
	began     time.Time
	now       func() time.Time
	priced    bool  // dollars are counted
	unbounded bool  // nothing is held, so what is not reported stays unknown
	mayFit    bool  // the output bound may be lowered
	input     int64 // tokens, at most
	natural   int64 // output tokens of one answer that the request or its model allows
	maxSpend  int64 // nano-dollars that the key may spend on one request

	asked  int64 // output tokens of one answer before it was lowered
	output int64 // the bound that is written for one answer; -1 if none is

	memory *upstream.Memory // of conversations
	recall *upstream.Recall // what the memory knows of this request; nil if there is nothing to learn

	earlier    *upstream.Earlier // what the vendor has stored that the request refers to
	stored     int64             // the most tokens that the input has with it
	widest     int64             // the same, with everything that only the context window bounds
	remembered bool              // the memory has the answer

	meter     *upstream.Meter
	readToEnd bool // the answer was read to its end
	ownError  bool // the answer is an error of the upstream itself
	fromCache bool // the answer is one that was billed before

	quotes bool // the request contains the name of a field that till writes, so an error may repeat it

	counted    int64           // the most tokens of the input by the vendor's count; 0 if it has said nothing
	questioned bool            // the vendor was asked for that, which is done once
	uncounted  *record.Refusal // replaces a final refusal if there may be a count soon; nil: there may not

	inputFirst bool  // answers state their input at their beginning
	leastInput int64 // the least input that is credible
}

// lowered returns the output bound of an answer that gets less than was asked for, or
// -1.
func (u *usage) lowered() int64 {
	if u == nil || u.output < 0 || u.output >= u.asked {
		return -1
	}
	return u.output
}

// allowed returns how long one answer may be according to the request as it was sent
// on.
func (u *usage) allowed() int64 {
	if u.output >= 0 {
		return u.output
	}
	return u.natural
}

// fitFloor is the least output, in tokens, that a request is fitted to, unless it asked
// for less.
const fitFloor = 256

// maxFieldName is the longest name of a field that a refusal repeats, in bytes.
const maxFieldName = 64

// boundUsage finds out what a request can use at most, for the limiter to hold.
func (h *Handler) boundUsage(x *exchange, call *upstream.Call, ask *limiter.Ask) *record.Refusal {
	key := x.key
	terms := &ask.Terms
	tokens, dollars := terms.Tokens, terms.Dollars
	unbounded := func(why string) *record.Refusal {
		return key.Refuse(record.CodeNotMeterable, "has a limit in tokens or dollars, and %s", why)
	}
	switch {
	case h.Guard:
		return unbounded("what is used here cannot be measured; use a key that is limited in activations")
	case x.upgrade:
		return unbounded("what is used on an upgraded connection cannot be bounded")
	}
	e, err := x.target.preset.Estimate(call)
	switch {
	case errors.Is(err, upstream.ErrNotMeterable):
		if field := (upstream.UnknownFieldError{}); errors.As(err, &field) {
			x.target.advice.unknownField(x.target, field.Name)
		}
		refusal := unbounded(err.Error() + "; leave that out, or use a key that is limited in activations")
		if field := (upstream.FieldError{}); errors.As(err, &field) && len(field.Name) <= maxFieldName {
			refusal.Field = field.Name
		}
		return refusal
	case err != nil:
		return key.Refuse(record.CodeBadRequest, "has a limit in tokens or dollars: %s", err)
	case e == nil:
		return nil // it uses none
	}
	for _, option := range [...]string{outputFieldOption, inputExtraOption} {
		if c := x.target.contradictions.find(x.target, option); c != nil {
			return unbounded(c.String())
		}
	}
	if e.HidesUsage() && x.target.contradictions.find(x.target, askUsageOption) != nil {
		e.DontAsk()
	}
	u := &usage{family: x.live.Family(), estimate: e, mayFit: !terms.KeepBound, input: e.Input, output: -1, maxSpend: terms.MaxRequestSpend}
	u.leastInput = upstream.LeastInput(call, e)
	if _, asked := e.Written(false); asked != "" && !x.target.answersUsage.Load() {
		u.quotes = quotes(x.request, call.Body, asked)
	}
	provider := x.target.presetName
	u.prices, u.provider, u.began, u.now = h.app.PriceTable(), provider, time.Now(), time.Now
	u.memory = h.app.engine.memory
	u.earlier = u.memory.Earlier(key.ID, x.target.name, x.target.preset, e)
	price, known := u.prices.Find(provider, e.Model, u.began)
	switch {
	case known:
		price = u.prices.Routed(price, u.began).For(e)
		if u.price, u.priced = price, dollars; dollars {
			e.NameTier()
		}
	case dollars && !terms.CountOnly && !h.app.countOnly:
		return key.Refuse(record.CodePriceUnknown, "has a limit in dollars, and the price of %s/%s is not known; add it with: price %s/%s INPUT OUTPUT", provider, e.Model, provider, e.Model)
	case !tokens:
		// The key does not count dollars without a price. Nothing bounds the request,
		// and what its answer reports is counted.
		x.usage = &usage{family: u.family, estimate: e, prices: u.prices, provider: provider, began: u.began, now: u.now, output: -1, quotes: u.quotes, unbounded: true}
		return nil
	}
	if e.Fee != "" && dollars {
		return unbounded(e.Fee)
	}
	if e.Routed && dollars {
		return unbounded("its \"provider\" chooses a route whose price is not known; leave it out")
	}
	longest := int64(0)
	if u.earlier.Names() {
		longest = u.prices.LongestOutput(provider) // searches the whole table
	}
	if u.stored, known = u.earlier.Bound(e.Input, u.price, longest); !known {
		what, help := u.earlier.Worst()
		return key.Refuse(record.CodeNotMeterable, "has a limit in tokens or dollars, and %s is stored at the vendor, where only the context window bounds it, which is not known of %s; %s", what, e.Model, help)
	}
	u.input = u.stored
	if e.Window {
		if u.price == nil || u.price.Context == 0 {
			return unbounded("this request holds what only the model's context window bounds, which is not known of " + e.Model)
		}
		u.input = max(u.input, u.price.Context*max(e.Rounds, 1))
	}
	u.widest = u.input
	u.recallInput(x, call)
	var sure bool
	if u.natural, sure = e.Longest(u.price, u.input); !sure && !u.mayFit {
		return unbounded("how long an answer of " + e.Model + " can be is not known; state max_tokens")
	}
	if h.countInput(x, call, ask, u) {
		u.natural, _ = e.Longest(u.price, u.input) // a shorter input leaves more room for output
	}
	u.asked = u.natural
	if u.maxSpend > 0 && u.priced {
		if refusal := u.boundToRequestSpend(key); refusal != nil {
			return cmp.Or(u.uncounted, refusal)
		}
	}
	x.usage, ask.Fit, ask.Help = u, u.fit, u.help()
	// With a smaller input the same output costs less, so max_request_spend_usd still holds.
	ask.Refine = func() *record.Refusal {
		u.recallInput(x, call)
		h.countInput(x, call, ask, u)
		return u.uncounted
	}
	return nil
}

// recallInput holds the request to what answers to the key's other requests said about
// its input.
func (u *usage) recallInput(x *exchange, call *upstream.Call) {
	recall := u.memory.Recall(x.key.ID, x.target.name, x.target.preset, call, u.estimate)
	lower := recall != nil && recall.Input >= 0 && recall.Input < u.input
	if lower || u.recall == nil {
		u.recall = recall
	}
	if lower {
		u.input = recall.Input
	}
}

func (u *usage) boundToRequestSpend(key *record.Key) *record.Refusal {
	if u.bound(u.natural)[record.Nanodollars] <= u.maxSpend {
		return nil
	}
	left := record.Amounts{record.Tokens: math.MaxInt64 / 4, record.Nanodollars: u.maxSpend}
	n, ok := u.fitted(left)
	if !ok {
		return key.Refuse(record.CodeBudgetTooSmall, "may spend $%s on one request, and this one may cost up to $%s; %s",
			record.FormatUSD(u.maxSpend), record.FormatUSD(u.bound(u.natural)[record.Nanodollars]), cmp.Or(u.help(), limiter.LowerMaxTokens))
	}
	u.natural, u.output = n, n
	return nil
}

// outputs returns the most that is billed as output if each answer has at most that many
// tokens.
func (u *usage) outputs(each int64) int64 { return (each + u.estimate.Predicted) * u.estimate.Answers }

// help returns what a client can do about a request that is too large because of
// content that is not text, or because of the vendor's fee; or "".
func (u *usage) help() string {
	more, shortest := u.input-u.estimate.Input, u.natural
	if u.fits() {
		shortest = min(shortest, u.least())
	}
	switch fee := u.estimate.Violation; {
	case u.priced && fee > u.bound(shortest)[record.Nanodollars]/2:
		return fmt.Sprintf("%s, but $%s of its cost is a fee that remains: the vendor may take it for content that violates its guidelines", limiter.LowerMaxTokens, record.FormatUSD(fee))
	case more <= u.estimate.Input, !u.fits() && more <= u.natural:
		return ""
	case u.stored > u.estimate.Input:
		what, help := u.earlier.Worst()
		return fmt.Sprintf("most of that is for %s, which is stored at the vendor; %s", what, help)
	}
	return "most of that is for a file, film or sound, or for content at an address, which counts as the model's whole context window; send it as text"
}

// bound returns the most that a request uses if each answer has at most output tokens.
func (u *usage) bound(output int64) record.Amounts {
	all := u.outputs(output)
	b := record.Amounts{record.Tokens: u.input + all}
	if u.priced {
		b[record.Nanodollars] = u.price.MaxCost(u.estimate, u.input, all) + u.estimate.Violation
	}
	return b
}

func fitsInto(b, left record.Amounts) bool {
	return b[record.Tokens] <= left[record.Tokens] && b[record.Nanodollars] <= left[record.Nanodollars]
}

// fit is called by the limiter, and returns the amounts to hold for the request. If it
// cannot be fitted into what is left, these are the least that it could be fitted to:
// requests in flight may give back enough for it.
func (u *usage) fit(left record.Amounts) record.Amounts {
	u.output = -1
	if u.estimate.Stated < 0 || u.natural < u.estimate.Stated || u.estimate.Unwritten {
		u.output = u.natural // nothing else bounds it
	}
	b := u.bound(u.natural)
	if fitsInto(b, left) || !u.fits() {
		return b
	}
	n, ok := u.fitted(left)
	if !ok {
		n = min(u.least(), u.natural)
	}
	if n < u.natural {
		u.output, b = n, u.bound(n)
	}
	return b
}

// fits reports whether there is an output and it may be lowered.
func (u *usage) fits() bool { return u.mayFit && u.estimate.Stated != 0 }

// least is the shortest answer that the request is fitted to.
func (u *usage) least() int64 {
	least := int64(fitFloor)
	if u.estimate.Stated > 0 {
		least = min(least, u.estimate.Stated)
	}
	if u.estimate.Thinking >= u.natural {
		return least // the vendor refuses it anyway
	}
	return max(least, u.estimate.Thinking+1)
}

// fitted returns the longest answer that what is left allows, and whether that is long
// enough.
func (u *usage) fitted(left record.Amounts) (int64, bool) {
	if !u.fits() {
		return 0, false
	}
	all := left[record.Tokens] - u.input
	if u.priced {
		all = min(all, u.price.Affords(u.estimate, u.input, left[record.Nanodollars]-u.estimate.Violation))
	}
	n := min(all/u.estimate.Answers-u.estimate.Predicted, u.natural)
	return n, all > 0 && n >= u.least()
}

// rewrite writes the bound that is held into the request.
func (x *exchange) rewrite() {
	u := x.usage
	if u == nil {
		return
	}
	if u.output < 0 && !u.estimate.HidesUsage() && u.estimate.NamesTier() == "" {
		u.estimate.Forget()
		return
	}
	x.splice(u.estimate.Rewrite(u.output))
}
