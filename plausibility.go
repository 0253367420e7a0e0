package till

import (
	"cmp"
	"fmt"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream"
)

// A report may hold any number. One that passes what was held is believed as long as
// the model can have done that: the key pays it, and the upstream is learnt. What no
// model can do is a mistake or a lie, and would stand for ever in the sums and in a
// role's budget. Then nothing of the report is believed, as if there were none, and
// the request is charged at its bound.
const (
	// mostTokens is what a request may use of input, and an answer have of output,
	// where neither the price table nor an operator's says how much that can be.
	mostTokens = 8 << 20
	// A table may be older than its vendor's models are: twice what it says of tokens
	// is believed, and ten times of a cost that is reported, but so much in any case,
	// as for searches that are billed beside the tokens.
	plausibleTokenFactor = 2
	plausibleCostFactor  = 10
	plausibleCost        = 10_000_000_000 // nano-dollars
)

// reportedUsage is what the answer reported, as far as that can be true.
func (u *usage) reportedUsage() upstream.Usage {
	seen := u.meter.Usage()
	if !u.plausible(seen) {
		return upstream.Unreported()
	}
	return seen
}

// plausible reports whether the model that was asked for can have used so much, or the
// one that answered.
func (u *usage) plausible(seen upstream.Usage) bool {
	return u.plausibleFor(seen, u.price) || u.meter.PricedModel() != u.estimate.Model && u.plausibleFor(seen, u.answeringPrice())
}

func (u *usage) plausibleFor(seen upstream.Usage, price *upstream.Price) bool {
	input, output := u.plausibleMost(price)
	if seen.Input > input || seen.Output > output {
		return false
	}
	return !u.priced || price == nil || seen.Nanodollars <= plausibleCost ||
		seen.Nanodollars/plausibleCostFactor <= price.MaxCost(u.estimate, input, output)
}

// plausibleMost is what is believed of a request to a model in tokens of input and of output.
func (u *usage) plausibleMost(price *upstream.Price) (input, output int64) {
	window, longest := int64(mostTokens), int64(mostTokens)
	if price != nil {
		const most = 1 << 40 // an operator's table may say anything
		window = cmp.Or(min(price.Context, most)*max(u.estimate.Rounds, 1), mostTokens)
		longest = cmp.Or(min(price.MaxOutput, most), min(price.Context, most), mostTokens)
	}
	input = max(window, u.input, u.widest, u.estimate.Input)
	output = (max(longest, u.natural) + u.estimate.Predicted) * max(u.estimate.Answers, 1)
	return plausibleTokenFactor * input, plausibleTokenFactor * output
}

// answeringPrice is the price of the model that the answer names, or nil.
func (u *usage) answeringPrice() *upstream.Price {
	if u.prices == nil {
		return nil
	}
	price, ok := u.prices.Find(u.provider, u.meter.PricedModel(), u.began)
	if !ok {
		return u.price
	}
	return price.For(u.estimate)
}

// reportImplausible says, at most once an hour, that an upstream reports what cannot be.
func (x *exchange) reportImplausible() {
	u := x.usage
	if u.meter == nil {
		return
	}
	reported := u.meter.Usage()
	if u.plausible(reported) || !x.target.advice.shouldLog("beyond belief "+x.target.name, maxAdvice) {
		return
	}
	input, output := u.plausibleMost(u.price)
	x.target.advice.log.Error("an upstream reported more than its model can use: nothing of that report is believed, and the request is charged at its bound",
		"upstream", x.target.name, "key_id", u.key, "model", fmt.Sprintf("%.64q", u.estimate.Model),
		"reported_input", reported.Input, "reported_output", reported.Output, "reported_usd", limiter.FormatUSD(max(reported.Nanodollars, 0)),
		"believed_input", input, "believed_output", output, "mend", "if that is right, state the model's context_window and max_output_tokens in a prices file")
}
