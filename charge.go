package till

import (
	"io"
	"net/http"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// charge returns what a request that was dispatched is charged.
func (u *usage) charge(status int) (tokens, nano int64, kinds record.TokenKinds) {
	tokens, nano, measured := u.used(status)
	u.learnInput(status, measured)
	u.rememberAnswer(status)
	var reported upstream.Usage
	switch input, ok := u.inputReported(); {
	case measured:
		reported = u.reportedUsage()
		kinds.Output = max(reported.Output, 0)
	case ok && tokens > 0:
		reported = u.reportedUsage()
		kinds.Unmeasured = tokens - input
	default:
		return tokens, nano, record.TokenKinds{Unmeasured: tokens}
	}
	// The kinds add up to what is charged, whatever an upstream says.
	input := max(reported.Input, 0)
	kinds.CachedInput = min(max(reported.CachedInput, 0), input)
	kinds.CacheWrite = min(max(reported.CacheWrite, 0), input-kinds.CachedInput)
	kinds.Input = input - kinds.CachedInput - kinds.CacheWrite
	return tokens, nano, kinds
}

// learnInput gives the memory of conversations the input that the answer reported.
func (u *usage) learnInput(status int, measured bool) {
	if u.recall == nil || u.meter == nil || u.meter.Guessed() || u.reportedUsage().Input < 0 {
		return // a gateway's estimate is no count to hold later requests to
	}
	// An upstream may not have read all of a request that failed.
	u.memory.Learn(u.recall, u.reportedUsage().Input, u.meter.Model(), measured && status < 300 && !u.meter.Failed())
}

// rememberAnswer gives the memory the ids in the answer, and what it reported. This
// has to happen before the client has the whole answer, because it may send them back
// at once.
func (u *usage) rememberAnswer(status int) {
	if u.earlier == nil || u.meter == nil || u.remembered || status >= 300 {
		return
	}
	u.remembered = true
	reported := u.reportedUsage()
	o := upstream.Outcome{Model: u.meter.Model(), Input: reported.Input, Output: max(u.allowed(), reported.Output), Held: u.widest}
	if reported.Known() && u.meter.Final() && (u.readToEnd || u.meter.Whole()) && !u.meter.Failed() {
		o.Output, o.Final = reported.Output, true
	}
	u.memory.Teach(u.earlier, u.meter.IDs(), o)
}

// used returns what the request is charged, and whether the answer reports all of it.
func (u *usage) used(status int) (tokens, nano int64, measured bool) {
	var reported upstream.Usage
	final := false
	if u.meter != nil {
		reported, final = u.reportedUsage(), u.meter.Final()
	} else {
		reported.Input = -1 // there was no answer, or it was not passed on
	}
	late := status == http.StatusRequestTimeout && u.meter != nil && u.meter.BillsErrors
	refused := !late && (status >= 400 && status < 500 || status >= 500 && u.ownError)
	worked := u.meter != nil && u.meter.Worked()
	switch {
	case refused && !reported.Known() && !worked, !late && u.meter != nil && u.meter.Forgiven():
		if u.priced && u.meter != nil && u.meter.Violated() {
			nano = u.estimate.Violation
		}
		return 0, nano, false
	case u.fromCache && !reported.Known() && status < 300:
		return 0, 0, false // it reports that it used nothing
	case reported.Known() && final && (u.readToEnd || refused || u.meter.Ended()):
		tokens = reported.Tokens()
		if u.priced {
			nano = u.cost(reported)
		}
		return tokens, nano, true
	case final && !u.meter.Failed() && (u.readToEnd || u.meter.Ended()) && (reported.Input >= 0 || reported.Output >= 0):
		// Beside an error, half a report is no better than none.
		tokens, nano = u.chargePartial(reported)
		return tokens, nano, false
	}
	// What is not known is charged at its bound, and never below what was reported.
	if _, ok := u.inputReported(); ok {
		reported.Output, reported.Nanodollars = max(reported.Output, u.outputs(u.allowed())), -1
		if u.priced {
			nano = u.cost(reported) // the region is reported with the input
		}
		return reported.Tokens(), nano, false
	}
	b := u.bound(u.allowed())
	tokens, nano = max(b[record.Tokens], reported.Tokens()), b[record.Nanodollars]
	if u.priced && u.meter != nil {
		if u.meter.Answered() {
			nano -= u.estimate.Violation // it is charged only in place of an answer
		}
		all := reported // of a dearer tier than was asked for, if the answer named one
		all.Input, all.Output = max(reported.Input, u.input), max(reported.Output, u.outputs(u.allowed()))
		all.CachedInput = -1
		nano = max(nano, u.cost(all))
	}
	return tokens, nano, false
}

// chargePartial returns what was used if only one half of a report is credible: the
// other half is charged at what was held.
func (u *usage) chargePartial(reported upstream.Usage) (tokens, nano int64) {
	all := reported
	if all.Input < 0 {
		all.Input = u.input
	} else {
		all.Output = u.outputs(u.allowed())
	}
	if u.priced {
		cost := u.estimate.Reported(all).Nanodollars
		all.Nanodollars = -1
		nano = max(u.cost(all), cost)
		if reported.Input < 0 {
			nano = max(nano, u.price.MaxCost(u.estimate, all.Input, all.Output))
		}
	}
	return all.Tokens(), nano
}

// inputReported returns the input if the answer states its final count at the
// beginning. If the provider may run tools in between, that is the input of the first
// round.
func (u *usage) inputReported() (input int64, ok bool) {
	if u.meter == nil || !u.inputFirst || u.meter.Guessed() || u.estimate.Rounds > 1 {
		return 0, false
	}
	input = u.reportedUsage().Input
	return input, input >= max(u.leastInput, 1)
}

// cost prices what was used at the price that was held, or at the answering model's if
// that is dearer: a model's name can be an alias.
func (u *usage) cost(reported upstream.Usage) int64 {
	reported = u.estimate.Reported(reported)
	permille := u.price.Permille(u.estimate, u.meter, u.began, u.now())
	nano := u.price.Cost(reported, permille)
	model := u.meter.PricedModel()
	if model == "" || model == u.estimate.Model {
		return nano
	}
	if other, ok := u.prices.Find(u.price.Provider, model, u.began); ok {
		// Its discounts by the time of day, its tiers and its regions are its own.
		e := u.estimate.As(model)
		nano = max(nano, other.For(e).Cost(reported, other.Permille(e, u.meter, u.began, u.now())))
	}
	return nano
}

// meterAnswer passes an answer's body through a meter. A request for a stream says
// more about the body than its content type does, and the first bytes say the rest.
func (u *usage) meterAnswer(res *http.Response, preset *upstream.Preset, stream bool) {
	u.meter, u.inputFirst = preset.Meter(stream || u.estimate.Stream), preset.InputFirst
	u.meter.Several, u.meter.Embeds = u.estimate.Answers > 1, u.estimate.Embeds()
	u.meter.BillsErrors = res.Request != nil && upstream.BillsErrors(res.Request.URL.Hostname())
	u.fromCache = preset.FromCache(res.Header)
	if u.earlier != nil {
		u.meter.WantIDs()
	}
	unframed := res.ContentLength < 0 && res.ProtoMajor == 1 && len(res.TransferEncoding) == 0
	most := int64(unlimited)
	if res.StatusCode >= 300 {
		most = maxDecoded
	}
	if res.ContentLength != 0 {
		decode(res, most) // the use of an answer in another encoding stays unknown
	}
	body := &meteredBody{ReadCloser: res.Body, u: u, status: res.StatusCode, unframed: unframed}
	if u.estimate.HidesUsage() && res.StatusCode < 300 {
		body.ReadCloser, body.seen = u.meter.Hide(res.Body), true
		delete(res.Header, "Content-Length") // it becomes shorter
		res.ContentLength = -1
	}
	res.Body = body
}

// meteredBody passes what is read from it to the meter.
type meteredBody struct {
	io.ReadCloser
	u      *usage
	status int
	seen   bool // the body comes from the meter
	// unframed says that only the end of the connection ends the body, which looks the
	// same if the connection breaks (RFC 9112, section 8).
	unframed bool
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.seen {
		b.u.meter.Write(p[:n])
	}
	if err == io.EOF && !b.u.readToEnd {
		b.u.meter.Close()
		b.u.readToEnd = !b.unframed || b.u.meter.Complete()
	}
	if b.u.meter.Whole() {
		b.u.rememberAnswer(b.status)
	}
	return n, err
}
