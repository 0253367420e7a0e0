package till

import (
	"cmp"
	"fmt"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// A report can contain any number. One that exceeds what was held is accepted as long
// as the model can have used that much: the key pays for it, and the contradiction is
// recorded. A number that no model can use is a mistake or a lie, and would stay in the
// sums and in a role's budget for ever. Then the whole report is ignored, and the
// request is charged at its bound as if there were none.
const (
	// mostTokens is how many tokens a request may use as input, and an answer have as
	// output, if no price table says how many there can be.
	mostTokens = 8 << 20
	// A price table may be older than its vendor's models: twice its number of tokens
	// is accepted, and ten times the cost if a cost is reported, but always at least
	// plausibleCost, for instance for searches that are billed beside the tokens.
	plausibleTokenFactor = 2
	plausibleCostFactor  = 10
	plausibleCost        = 10_000_000_000 // nano-dollars
)

// reportedUsage returns the use that the answer reported, if that is plausible.
func (u *usage) reportedUsage() upstream.Usage {
	reported := u.meter.Usage()
	if !u.plausible(reported) {
		return upstream.Unreported()
	}
	return reported
}

// plausible reports whether the model that was asked for, or the one that answered, can
// have used so much.
func (u *usage) plausible(reported upstream.Usage) bool {
	return u.plausibleFor(reported, u.price) || u.meter.PricedModel() != u.estimate.Model && u.plausibleFor(reported, u.answeringPrice())
}

func (u *usage) plausibleFor(reported upstream.Usage, price *upstream.Price) bool {
	input, output := u.plausibleMost(price)
	if reported.Input > input || reported.Output > output {
		return false
	}
	return !u.priced || price == nil || reported.Nanodollars <= plausibleCost ||
		reported.Nanodollars/plausibleCostFactor <= price.MaxCost(u.estimate, input, output)
}

// plausibleMost returns the most tokens of input and of output that a request to a
// model can plausibly use.
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

// answeringPrice is the price of the model that the answer names, or, where the table lacks
// it, of the one that was asked for; nil if there is none.
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

// reportImplausible logs, at most once an hour, that an upstream reports what cannot be
// true.
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
	x.target.advice.log.Error("an upstream reported more than its model can use: that report is ignored, and the request is charged at its bound",
		"upstream", x.target.name, "key_id", x.key.ID, "model", fmt.Sprintf("%.64q", u.estimate.Model),
		"reported_input", reported.Input, "reported_output", reported.Output, "reported_usd", record.FormatUSD(max(reported.Nanodollars, 0)),
		"believed_input", input, "believed_output", output, "mend", "if that is right, state the model's context_window and max_output_tokens in a prices file")
}
