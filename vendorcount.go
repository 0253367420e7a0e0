package till

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

const (
	// countTime is how long a request waits for the count of its input, and before that
	// for other counts of its key.
	countTime = 3 * time.Second
	// maxCountAnswer is how much of the answer is read, in bytes.
	maxCountAnswer = 64 << 10
	// textPerToken is how many tokens of the bound one token of text usually accounts
	// for.
	textPerToken = 4
	// plenty is the length of an answer, in tokens, that is enough for any client.
	plenty = 16_384
)

// vendorCount is what till knows about asking an upstream's vendor how many tokens an
// input has.
type vendorCount struct {
	transport atomic.Pointer[Transport] // the one that all requests take; nil if there are several
	running   sync.Map                  // by the ids of keys with a count in progress: a channel that is closed at its end

	unreliable atomic.Bool // an answer had more input than was counted: the vendor is not asked any more

	pauses countPauses

	mu   sync.Mutex
	ways map[string]bool // the settings of the transports

	wait time.Duration    // instead of countTime, in tests
	now  func() time.Time // instead of time.Now, in tests
}

// clock is the time by which pauses end.
func (c *vendorCount) clock() time.Time {
	if c.now != nil {
		return c.now()
	}
	return time.Now()
}

// patience is how long a request waits.
func (c *vendorCount) patience() time.Duration { return cmp.Or(c.wait, countTime) }

// addTransport adds a transport of the upstream with its settings. If settings differ,
// nothing is counted, because the credential would take another way than its request.
func (c *vendorCount) addTransport(t *Transport, settings []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ways == nil {
		c.ways = make(map[string]bool)
	}
	if c.ways[string(settings)] = true; len(c.ways) > 1 {
		t = nil
	}
	c.transport.Store(t)
}

// turn waits until no other count for the key is in progress, and returns a function
// that ends the turn; nil if that takes too long.
func (c *vendorCount) turn(ctx context.Context, id string) (done func()) {
	ctx, cancel := context.WithTimeout(ctx, c.patience())
	defer cancel()
	ours := make(chan struct{})
	for {
		former, busy := c.running.LoadOrStore(id, ours)
		if !busy {
			return func() {
				c.running.Delete(id)
				close(ours)
			}
		}
		select {
		case <-former.(chan struct{}):
		case <-ctx.Done():
			return nil
		}
	}
}

// countInput asks the vendor how many tokens the input has, of which till knows only
// the length in bytes. It asks if the request would have to be refused or shortened,
// perhaps only because the bound is too cautious. It uses the credential of the
// request, through the same transport and at the same address. It reports whether the
// vendor gave a number. If it may give one soon, u.uncounted says so.
func (h *Handler) countInput(x *exchange, call *upstream.Call, ask *limiter.Ask, u *usage) (counted bool) {
	key, ctx := x.key, x.request.Context()
	c := &x.target.vendorCount
	t := c.transport.Load()
	if u.questioned {
		return false
	}
	u.uncounted = nil
	if !x.target.countExact || t == nil || !t.mayCount() || x.credential == nil || c.unreliable.Load() {
		return false
	}
	if left, later := x.live.Left(); !u.worthCounting(left) && !u.worthCounting(later) { // it may wait for later
		return false
	}
	q := x.target.preset.Counting(call, u.estimate)
	if q == nil || len(x.target.allow) > 0 && !x.target.allow.Match(http.MethodPost, q.Path, x.target.preset.Version(q.Path)) {
		return false
	}
	if c.isPaused(key, u) {
		return false
	}
	done := c.turn(ctx, key.ID)
	if done == nil {
		u.uncounted = crowded(key)
		return false
	}
	defer done()
	if c.isPaused(key, u) {
		return false
	}
	if may, later := x.live.MayProbe(ask); !may {
		if later {
			u.uncounted = crowded(key)
		}
		return false
	}
	u.questioned = true
	answer, res, err := t.askCount(x, q)
	status := 0
	if res != nil {
		status = res.StatusCode
	}
	n := q.Bound(answer)
	switch {
	case err == nil && status == http.StatusOK && n > 0:
		c.pauses.counted(u.family)
		u.counted = n + x.target.preset.ServerInput()
		u.input = min(u.input, u.counted)
		return true
	case err == nil && status == http.StatusOK && n == 0, ctx.Err() != nil,
		status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnprocessableEntity,
		status == http.StatusNotFound && u.price == nil: // perhaps the model was not found
		return false // this concerns one request, and is no reason not to ask about others
	case err != nil:
		res = nil // it did not come whole
	}
	now := c.clock()
	pause, again, news := c.pauses.fail(u.family, now, failureOf(res, now))
	if again > 0 {
		u.uncounted = uncounted(key, again)
	}
	if news {
		h.logger.Warn("the vendor's endpoint for counting tokens did not count, so this key's inputs are bounded by their length for a while; count_exact off does not ask it",
			zap.String("upstream", x.target.name), zap.String("key_id", key.ID), zap.Int("status", status), zap.Duration("for", pause), zap.Error(x.credential.scrub(err)))
	}
	return false
}

// isPaused reports whether the vendor must not be asked for a key at the moment, and
// sets u.uncounted if that may be over soon.
func (c *vendorCount) isPaused(key *record.Key, u *usage) bool {
	paused, again := c.pauses.check(u.family, c.clock())
	if again > 0 {
		u.uncounted = uncounted(key, again)
	}
	return paused
}

// crowded is the refusal of a request that is too large as far as is known, while other
// requests of its key keep it from being counted.
func crowded(key *record.Key) *record.Refusal {
	return key.Refuse(record.CodeBudgetHeld, "has other requests whose inputs are being counted, and this one may fit into what is left once its own is; try again when they are done").After(time.Second)
}

// uncounted is the refusal of such a request while the vendor does not count.
func uncounted(key *record.Key, again time.Duration) *record.Refusal {
	return key.Refuse(record.CodeBudgetHeld, "has too little left for this request by its length, and may have enough once the vendor counts its tokens, which it does not do at the moment; try again later, or make the request shorter").After(again)
}

// checkCount stops asking if an answer has more input than the count allows: a
// gateway's endpoint may only guess. It is called for every answer.
func (x *exchange) checkCount() {
	u := x.usage
	if u == nil || u.counted == 0 || u.meter == nil || u.reportedUsage().Input <= u.counted {
		return
	}
	c := &x.target.vendorCount
	if c.unreliable.Swap(true) || x.target.contradictions == nil {
		return
	}
	x.target.contradictions.log.Error("an answer has more input than the vendor's endpoint for counting tokens had counted: inputs are bounded by their length until a configuration is loaded; count_exact off does not ask it",
		"upstream", x.target.name, "key_id", x.grant.Key().ID, "counted_tokens", u.counted, "reported_tokens", u.reportedUsage().Input)
}

// worthCounting reports whether the request gets less than it asks for out of what is
// left, and might get notably more if its input were counted. Most of a conversation
// that goes on is known.
func (u *usage) worthCounting(left record.Amounts) bool {
	if u.maxSpend > 0 && u.priced {
		left[record.Nanodollars] = min(left[record.Nanodollars], u.maxSpend)
	}
	longest := u.longest(left)
	if longest >= min(u.natural, plenty) {
		return false
	}
	guessed := *u
	known := int64(0)
	if u.recall != nil {
		known = min(u.recall.Known(), u.input)
	}
	guessed.input = known + (u.input-known)/textPerToken
	return guessed.longest(left) > longest+longest/4
}

// longest returns how long an answer may be out of what is left, or -1 if there can be
// none.
func (u *usage) longest(left record.Amounts) int64 {
	if fitsInto(u.bound(u.natural), left) {
		return u.natural
	}
	if n, ok := u.fitted(left); ok {
		return n
	}
	return -1
}

// mayCount reports whether the upstream can be reached without the reverse proxy, which
// alone can dial a socket and resolve placeholders.
func (t *Transport) mayCount() bool {
	o := t.target.origins[0]
	return o.network != "unix" && (o.scheme == "https") == t.TLSEnabled() && !(t.TLSEnabled() && strings.Contains(t.TLS.ServerName, "{"))
}

// askCount sends one question. It is no activation, and the text of the answer is not
// passed on.
func (t *Transport) askCount(x *exchange, q *upstream.Counting) (answer []byte, res *http.Response, err error) {
	r, o := x.request, t.target.origins[0]
	ctx, cancel := context.WithTimeout(r.Context(), t.target.vendorCount.patience())
	defer cancel()
	header := http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json"}, "Accept-Encoding": {"identity"}, "User-Agent": {r.UserAgent()},
	}
	for _, name := range upstream.VersionHeaders() {
		if values := r.Header[name]; len(values) > 0 && !t.target.withholds(name) {
			header[name] = values
		}
	}
	path, err := url.PathUnescape(t.target.base)
	if err != nil {
		return nil, nil, err
	}
	out := (&http.Request{
		Method: http.MethodPost, URL: &url.URL{Scheme: o.scheme, Host: o.address, Path: path + q.Path, RawQuery: q.Query}, Host: o.host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(q.Body), ContentLength: q.Size,
	}).WithContext(ctx)
	t.target.authAt(q.Path).Apply(out.Header, out.URL, x.credential.secret)
	if res, err = t.send(out); err != nil {
		return nil, nil, err
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxCountAnswer))
	return answer, res, err
}
