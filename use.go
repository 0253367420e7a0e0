package till

import (
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream"
)

// use is a request of a key with a limit in tokens or dollars: what it can use
// at most, which is held before it is forwarded, and what it did use.
type use struct {
	estimate *upstream.Estimate
	price    *upstream.Price // nil where it is not known, and need not be
	prices   *upstream.Prices
	provider string
	began    time.Time
	now      func() time.Time
	priced   bool  // dollars are counted
	mayFit   bool  // the output bound may be lowered
	input    int64 // tokens, at most
	natural  int64 // output tokens of one answer that the request or its model allows
	most     int64 // nano-dollars that the key gives to one request

	asked  int64 // output tokens of one answer before anything was lowered
	output int64 // what one answer is bounded by; -1: left as it came

	memory *upstream.Memory // of conversations
	recall *upstream.Recall // what it knows of this one; nil: nothing to learn

	meter *upstream.Meter
	whole bool // the answer was read to its end
	own   bool // the answer is an error in the upstream's own words

	inputFirst bool  // answers say at their beginning what the input was
	leastInput int64 // which cannot be less than that
}

// lowered is the output bound of an answer that has less than was asked for;
// -1 where it has all.
func (u *use) lowered() int64 {
	if u == nil || u.output < 0 || u.output >= u.asked {
		return -1
	}
	return u.output
}

// fitFloor is the least output that a request is fitted to, unless it asked
// for less, in tokens.
const fitFloor = 256

// judgeUse finds out what a request can use at most, and lets the limiter hold
// that.
func (h *Handler) judgeUse(r *http.Request, x *exchange, key *limiter.Key, k *limiter.Live, call *upstream.Call, tokens, dollars bool, ask *limiter.Ask) *limiter.Refusal {
	unbounded := func(why string) *limiter.Refusal {
		return about(key, limiter.CodeNotMeterable, "has a limit in tokens or dollars, and %s", why)
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
		return unbounded(err.Error() + "; leave that out, or use a key that is limited in activations")
	case err != nil:
		return about(key, limiter.CodeBadRequest, "has a limit in tokens or dollars: %s", err)
	case e == nil:
		return nil // it uses none
	}
	for _, option := range [...]string{outputFieldOption, inputExtraOption} {
		if c := x.target.learnt.of(x.target, option); c != nil {
			return unbounded(c.String())
		}
	}
	if e.HidesUsage() && x.target.learnt.of(x.target, askUsageOption) != nil {
		e.DontAsk()
	}
	u := &use{estimate: e, mayFit: !key.Unfitted, input: e.Input, output: -1, most: key.MaxRequestSpend}
	u.leastInput = upstream.LeastInput(call, e)
	provider := x.target.presetName
	u.prices, u.provider, u.began, u.now = h.app.prices, provider, time.Now(), time.Now
	price, known := u.prices.Find(provider, e.Model, u.began)
	switch {
	case known:
		price = u.prices.Routed(price, u.began).For(e)
		u.price, u.priced = price, dollars
	case dollars && !key.CountOnly && !h.app.countOnly:
		return about(key, limiter.CodePriceUnknown, "has a limit in dollars, and the price of %s/%s is not known; add it with: price %s/%s INPUT OUTPUT", provider, e.Model, provider, e.Model)
	case !tokens:
		return nil // dollars cannot be counted, and nobody minds
	}
	if e.Routed && dollars {
		return unbounded("its \"provider\" chooses a route whose price is not known; leave it out")
	}
	if e.Window {
		if u.price == nil || u.price.Context == 0 {
			return unbounded("this request holds what only the model's context window bounds, which is not known of " + e.Model)
		}
		u.input = max(u.input, u.price.Context)
	}
	u.memory = h.app.engine.memory
	if u.recall = u.memory.Recall(key.ID, x.target.name, x.target.preset, call, e); u.recall != nil && u.recall.Input >= 0 {
		u.input = min(u.input, u.recall.Input)
	}
	var sure bool
	if u.natural, sure = e.Longest(u.price, u.input); !sure && !u.mayFit {
		return unbounded("how long an answer of " + e.Model + " can be is not known; state max_tokens")
	}
	if h.countInput(r, x, key, k, call, ask, u) {
		u.natural, _ = e.Longest(u.price, u.input) // more fits behind what is shorter
	}
	u.asked = u.natural
	if u.most > 0 && u.priced {
		if refusal := u.boundOnce(key); refusal != nil {
			return refusal
		}
	}
	x.use, ask.Fit = u, u.fit
	return nil
}

// boundOnce applies the limit of a single request.
func (u *use) boundOnce(key *limiter.Key) *limiter.Refusal {
	if u.bound(u.natural)[limiter.Nanodollars] <= u.most {
		return nil
	}
	left := limiter.Amounts{limiter.Tokens: math.MaxInt64 / 4, limiter.Nanodollars: u.most}
	n, ok := u.fitted(left)
	if !ok {
		return about(key, limiter.CodeBudgetTooSmall, "may spend $%s on one request, and this one may cost up to $%s; lower max_tokens",
			limiter.FormatUSD(u.most), limiter.FormatUSD(u.bound(u.natural)[limiter.Nanodollars]))
	}
	u.natural, u.output = n, n
	return nil
}

// bound is what a request uses whose answers have at most so many tokens each.
func (u *use) bound(output int64) limiter.Amounts {
	all := output * u.estimate.Answers
	b := limiter.Amounts{limiter.Tokens: u.input + all}
	if u.priced {
		b[limiter.Nanodollars] = u.price.MaxCost(u.estimate, u.input, all)
	}
	return b
}

func within(b, left limiter.Amounts) bool {
	return b[limiter.Tokens] <= left[limiter.Tokens] && b[limiter.Nanodollars] <= left[limiter.Nanodollars]
}

// fit is the limiter's question what the request is to be held to. Where it
// cannot be fitted into what is left, the answer is the least that it could be
// fitted to: requests in flight may give back enough for that.
func (u *use) fit(left limiter.Amounts) limiter.Amounts {
	u.output = -1
	if u.estimate.Stated < 0 || u.natural < u.estimate.Stated || u.estimate.Unwritten {
		u.output = u.natural // nobody else bounds it
	}
	b := u.bound(u.natural)
	if within(b, left) || !u.fits() {
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

// fits reports whether the output may be lowered, and there is any.
func (u *use) fits() bool { return u.mayFit && u.estimate.Stated != 0 }

// least is the shortest answer that the request is fitted to.
func (u *use) least() int64 {
	least := int64(fitFloor)
	if u.estimate.Stated > 0 {
		least = min(least, u.estimate.Stated)
	}
	if u.estimate.Thinking >= u.natural {
		return least // refused by the vendor in any case
	}
	return max(least, u.estimate.Thinking+1)
}

// fitted is the longest answer that what is left allows, if that is worth
// anything.
func (u *use) fitted(left limiter.Amounts) (int64, bool) {
	if !u.fits() {
		return 0, false
	}
	all := left[limiter.Tokens] - u.input
	if u.priced {
		all = min(all, u.price.Affords(u.estimate, u.input, left[limiter.Nanodollars]))
	}
	n := min(all/u.estimate.Answers, u.natural)
	return n, all > 0 && n >= u.least()
}

// rewrite writes the bound that is held into the request.
func (x *exchange) rewrite(r *http.Request) {
	u := x.use
	if u == nil {
		return
	}
	if u.output < 0 && !u.estimate.HidesUsage() {
		u.estimate.Forget()
		return
	}
	x.send(r, u.estimate.Rewrite(u.output))
}

// charge is what a request that was dispatched is charged.
func (u *use) charge(status int) (tokens, nano int64, kinds limiter.TokenKinds) {
	tokens, nano, measured := u.used(status)
	u.learn(status, measured)
	var seen upstream.Usage
	switch input, ok := u.reported(); {
	case measured:
		seen = u.meter.Usage()
		kinds.Output = max(seen.Output, 0)
	case ok && tokens > 0:
		seen = u.meter.Usage()
		kinds.Unmeasured = tokens - input
	default:
		return tokens, nano, limiter.TokenKinds{Unmeasured: tokens}
	}
	// Together they are what is charged, whatever an upstream says.
	input := max(seen.Input, 0)
	kinds.CachedInput = min(max(seen.CachedInput, 0), input)
	kinds.CacheWrite = min(max(seen.CacheWrite, 0), input-kinds.CachedInput)
	kinds.Input = input - kinds.CachedInput - kinds.CacheWrite
	return tokens, nano, kinds
}

// learn lets the memory of conversations see what the answer reported.
func (u *use) learn(status int, measured bool) {
	if u.recall == nil || u.meter == nil || u.meter.Usage().Input < 0 {
		return
	}
	u.memory.Learn(u.recall, u.meter.Usage().Input, u.meter.Model(), measured && status < 300)
}

// used is what was used, and whether that was measured.
func (u *use) used(status int) (tokens, nano int64, measured bool) {
	var seen upstream.Usage
	final := false
	if u.meter != nil {
		seen, final = u.meter.Usage(), u.meter.Final()
	} else {
		seen.Input = -1 // no answer, or none that was passed on
	}
	refused := status >= 400 && status < 500 || status >= 500 && u.own
	switch {
	case refused && !seen.Known(), u.meter != nil && u.meter.Forgiven():
		return 0, 0, false
	case seen.Known() && final && (u.whole || refused || u.meter.Ended()):
		tokens = seen.Tokens()
		if u.priced {
			nano = u.cost(seen)
		}
		return tokens, nano, true
	case final && (u.whole || u.meter.Ended()) && (seen.Input >= 0 || seen.Output >= 0):
		tokens, nano = u.half(seen)
		return tokens, nano, false
	}
	// What is not known is charged at the bound, and never below what was
	// seen.
	output := u.natural
	if u.output >= 0 {
		output = u.output
	}
	if _, ok := u.reported(); ok {
		seen.Output, seen.Nanodollars = max(seen.Output, output*u.estimate.Answers), -1
		if u.priced {
			nano = u.cost(seen) // a region is said with the input
		}
		return seen.Tokens(), nano, false
	}
	b := u.bound(output)
	tokens, nano = max(b[limiter.Tokens], seen.Tokens()), b[limiter.Nanodollars]
	if u.priced && seen.Known() {
		nano = max(nano, u.cost(seen))
	}
	return tokens, nano, false
}

// half is what was used where only one half of a report can be true: of the
// other all that was held.
func (u *use) half(seen upstream.Usage) (tokens, nano int64) {
	all := seen
	if all.Input < 0 {
		all.Input = u.input
	} else {
		output := u.natural
		if u.output >= 0 {
			output = u.output
		}
		all.Output = output * u.estimate.Answers
	}
	if u.priced {
		said := u.estimate.Reported(all).Nanodollars
		all.Nanodollars = -1
		nano = max(u.cost(all), said)
		if seen.Input < 0 {
			nano = max(nano, u.price.MaxCost(u.estimate, all.Input, all.Output))
		}
	}
	return all.Tokens(), nano
}

// reported is the input of an answer that said what that is, once and for all,
// before it was over.
func (u *use) reported() (input int64, ok bool) {
	if u.meter == nil || !u.inputFirst {
		return 0, false
	}
	input = u.meter.Usage().Input
	return input, input >= max(u.leastInput, 1)
}

// cost is what was used costs, at the price that the hold was made with, or at
// that of the model which answered if that is dearer: names point elsewhere.
func (u *use) cost(seen upstream.Usage) int64 {
	permille := u.estimate.Asked
	seen = u.estimate.Reported(seen)
	if u.meter.Region() != "" {
		permille = u.estimate.Permille
	}
	if u.price.OffPeak != nil {
		permille = (permille*u.price.Discount(u.began, u.now()) + 999) / 1000
	}
	if u.provider == "openai" {
		switch u.meter.Tier() {
		case "flex":
			if u.estimate.Flex {
				permille = (permille + 1) / 2
			}
		case "priority":
			permille = max(permille, 2000)
		}
	}
	nano := u.price.Cost(seen, permille)
	model := strings.TrimPrefix(u.meter.Model(), "models/")
	if model == "" || model == u.estimate.Model {
		return nano
	}
	if other, ok := u.prices.Find(u.provider, model, u.began); ok {
		nano = max(nano, other.For(u.estimate).Cost(seen, permille))
	}
	return nano
}

// measure watches over an answer's body. That a stream was asked for says more of
// it than its type does, and its first bytes say the rest.
func (u *use) measure(res *http.Response, preset *upstream.Preset, stream bool) {
	u.meter, u.inputFirst = preset.Meter(stream || u.estimate.Stream), preset.InputFirst
	u.meter.Several = u.estimate.Answers > 1
	if res.StatusCode < 300 {
		unpack(res)
	}
	body := &meteredBody{ReadCloser: res.Body, u: u}
	if u.estimate.HidesUsage() && res.StatusCode < 300 {
		body.ReadCloser, body.seen = u.meter.Hide(res.Body), true
		delete(res.Header, "Content-Length") // it becomes shorter
		res.ContentLength = -1
	}
	res.Body = body
}

// meteredBody shows what passes to the meter.
type meteredBody struct {
	io.ReadCloser
	u    *use
	seen bool // the meter has seen it before
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.seen {
		b.u.meter.Write(p[:n])
	}
	if err == io.EOF && !b.u.whole {
		b.u.meter.Close()
		b.u.whole = true
	}
	return n, err
}
