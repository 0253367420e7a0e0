package till

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// exchange is one admitted request on its way through the handlers: its grant, where it
// may go, and the facts that decide what it is charged. It travels as a context value
// of an unexported type, because a configuration could print anything in Caddy's
// variables or placeholders.
type exchange struct {
	location
	key           *record.Key   // as it was when the request came; see grant.Key for later
	live          *limiter.Live // the same key
	grant         limiter.Grant // with the key as it was when the request was admitted
	target        *target
	credential    *credential             // nil behind a guard with a held key
	destination   string                  // like out, for a request that copies or moves; "" if there is none
	requestID     string                  // see id
	body          *bufferedBody           // nil unless the body was read into memory
	models        func(model string) bool // filters a list of models; nil to leave it as it is
	usage         *usage                  // nil unless tokens or dollars are limited
	request       *http.Request           // the handler's; its body may have been replaced
	foundFront    *front                  // see front
	headers       headerValues
	stoppedAsking bool // its answer showed that streams must not be asked for usage

	// Facts, written by the transport (or the guard) and read by the handler.
	dispatched atomic.Bool           // a byte may have been sent to the upstream
	unbuffered bool                  // the body is passed on as it arrives, over HTTP/1
	bodyRead   atomic.Bool           // the unbuffered body was read completely
	bodyFailed atomic.Pointer[error] // why the client broke off the body
	status     atomic.Int32          // of the upstream's answer; 0 if there was none
	failed     error                 // of the round trip
	streamed   atomic.Bool           // without a body, it was sent over HTTP/2; see noteStream
	repeated   atomic.Bool           // net/http has tried to send it again

	mu           sync.Mutex
	cancel       context.CancelFunc  // ends the round trip
	tunnel       io.Closer           // an upgraded connection
	client       http.ResponseWriter // while the handler runs
	clientCtx    context.Context     // of the client's request
	abandonTimer *time.Timer         // runs abandon once the request was cut

	drain *drain // nil if the request ends with its client
	trace httptrace.ClientTrace
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// cutGrace is how long a client whose request was cut may take to read the reason, or
// to send the rest of its body.
const cutGrace = 5 * time.Second

// stop ends the request in progress. It is the grant's OnCut.
func (x *exchange) stop(*record.Refusal) {
	x.mu.Lock()
	cancel, tunnel := x.cancel, x.tunnel
	if x.client != nil {
		x.abandonTimer = time.AfterFunc(cutGrace, x.abandon)
	}
	x.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if tunnel != nil {
		_ = tunnel.Close() // the goroutines that copy report the error
	}
}

// abandon makes the handler's reads from its client and writes to it fail. Otherwise a
// client that reads nothing, or that sends half of a body and waits, would keep the
// handler for as long as Caddy's own timeouts allow, which start again with each write.
func (x *exchange) abandon() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.client == nil {
		return
	}
	past := time.Unix(1, 0)
	client := http.NewResponseController(x.client)
	write := client
	if _, idle := caddyhttp.IdleTimeoutsFromContext(x.clientCtx); idle != nil {
		write = idle.Ctrl // only the handler may use the writer around it
	}
	// Reads come last, because a handler that was waiting in one then writes the
	// answer, and Caddy gives that write a new deadline. If the connection has no
	// deadlines, the client is waited for.
	_ = write.SetWriteDeadline(past)
	_ = client.SetReadDeadline(past)
	x.abandonTimer.Reset(cutGrace)
}

// closeUnlessRead closes the client's connection after the answer, unless the body was
// read completely. The rest of a body that the transport closed, and that did not end
// in time, would be taken for the next request: net/http prevents that only for bodies
// that nobody wraps, and Caddy wraps them.
func (x *exchange) closeUnlessRead() {
	if x.unbuffered && !x.bodyRead.Load() {
		closeAfterAnswer(x.client)
	}
}

// closeAfterAnswer has net/http's server close an HTTP/1 connection after the answer, as it
// does after a body that is too long: it reads no further request from it, and closes its
// own half some time before the rest, since clients that still write may lose an answer to
// a reset (https://golang.org/issue/3595).
func closeAfterAnswer(w http.ResponseWriter) {
	w.Header()["Connection"] = []string{"close"}
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	// The reader tells the server that the body is too long, and returns just that.
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// handlerDone is called when the handler ends; nobody may use its writer any more. It ends
// a round trip whose answer nobody has closed, because something has panicked.
func (x *exchange) handlerDone() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cancel != nil {
		defer x.cancel()
	}
	_, idle := caddyhttp.IdleTimeoutsFromContext(x.clientCtx)
	switch {
	case x.abandonTimer == nil && idle != nil && x.request.ProtoMajor == 1:
		// net/http writes the end of an answer over HTTP/1 after the handler. The deadline
		// of the last write is still set then, and is over if the answer was silent for
		// longer. Override moves it as another write would.
		_ = idle.Override(idle.Deadline.Timeout, idle.Deadline.MinRate, 0)
	case x.abandonTimer != nil && x.abandonTimer.Stop():
		// net/http reads the rest of a body before it sends a short answer, and sends
		// what it has buffered of the answer after the handler.
		at := time.Now().Add(cutGrace)
		_ = http.NewResponseController(x.client).SetReadDeadline(at)
		if idle != nil {
			_ = idle.Ctrl.SetWriteDeadline(at) // the next request's first write moves it
		}
	}
	x.client = nil
}

// begin registers what stop has to cancel. It reports false if the request was cut
// before.
func (x *exchange) begin(cancel context.CancelFunc) bool {
	x.mu.Lock()
	x.cancel = cancel
	x.mu.Unlock()
	return x.grant.Cut() == nil
}

// refusal returns a refusal as the client of this exchange sees it.
func (x *exchange) refusal(r *record.Refusal) upstream.Refusal {
	return clientRefusal(r, x.path, x.id())
}

// id identifies the request to its client and in logs. It is made when it is first
// needed.
func (x *exchange) id() string {
	if x.requestID == "" {
		x.requestID = newRequestID()
	}
	return x.requestID
}

// settle ends the grant according to the facts. The handler calls it exactly once,
// whatever happened below.
func (x *exchange) settle() {
	if !x.dispatched.Load() {
		x.grant.Cancel()
		return
	}
	defer x.grant.SettleBound() // if something panics before what was used is known
	used := record.Amounts{record.Activations: 1}
	if x.grant.Key().Charge == record.ChargeSuccess && !x.succeeded() {
		used[record.Activations] = 0
	}
	if x.usage != nil {
		var kinds record.TokenKinds
		used[record.Tokens], used[record.Nanodollars], kinds = x.usage.charge(int(x.status.Load()))
		x.target.spent.add(&kinds, used[record.Nanodollars])
		x.grant.Measured(kinds)
		x.checkCount()
		x.reportImplausible()
	}
	x.grant.Settle(used)
	x.recordContradiction()
	if used[record.Activations] > 0 {
		x.target.admitted.Inc()
	}
}

// succeeded reports whether the answer counts as a success: 2xx, 304, or an upgrade.
func (x *exchange) succeeded() bool {
	s := x.status.Load()
	return s >= 200 && s < 300 || s == http.StatusNotModified || s == http.StatusSwitchingProtocols
}

// headerValues holds the values of till's own headers, one for each header, in one
// allocation.
type headerValues [6]string

// set sets a header to the value at a place of the memory.
func (s *headerValues) set(h http.Header, place int, name, value string) {
	s[place] = value
	h[name] = s[place : place+1 : place+1]
}

// setKey names the key and its expiry.
func (s *headerValues) setKey(h http.Header, key *record.Key) {
	s.set(h, 0, "Till-Key", key.ID)
	if !key.ExpiresAt.IsZero() {
		s.set(h, 1, "Till-Expires", key.ExpiresAt.UTC().Format(time.RFC3339))
	}
}

// setRemaining says what is left of the limits that the key has.
func (s *headerValues) setRemaining(h http.Header, left record.Amounts) {
	if n := left[record.Activations]; n != record.NoLimit {
		s.set(h, 2, "Till-Activations-Remaining", strconv.FormatInt(n, 10))
	}
	if n := left[record.Tokens]; n != record.NoLimit {
		s.set(h, 3, "Till-Tokens-Remaining", strconv.FormatInt(n, 10))
	}
	if n := left[record.Nanodollars]; n != record.NoLimit {
		s.set(h, 4, "Till-Spend-Remaining", record.FormatUSD(n))
	}
}

// setRefusedHeaders tells the client what is left of a key that goes on working: the
// request was refused, and not the key. An address that may not use the key learns
// nothing about it.
func setRefusedHeaders(h http.Header, key *record.Key, k *limiter.Live, refusal *record.Refusal) {
	switch code := refusal.Code; {
	case code.Ended(), code == record.CodeLockedDown, code == record.CodeKeySuspended, code == record.CodeIPNotAllowed, code == record.CodeStoreUnavailable:
		return
	}
	left, works := k.Remaining()
	if !works { // holders may ask about a dead key, too
		return
	}
	values := new(headerValues)
	values.setKey(h, key)
	values.setRemaining(h, left)
}

// setKeyHeaders identifies the key of an admitted request to the client and to the
// handlers below.
func (x *exchange) setKeyHeaders(h http.Header) {
	key := x.grant.Key()
	x.headers.setKey(h, key)
	repl := x.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Map(func(name string) (any, bool) {
		switch name {
		case "http.till.key_id":
			return key.ID, true
		case "http.till.key_name":
			return key.Name, true
		case "http.till.upstream":
			return key.Upstream, true
		case "http.till.activations_remaining":
			if n := x.grant.Remaining()[record.Activations]; n != record.NoLimit {
				return strconv.FormatInt(n, 10), true
			}
			return "", true
		}
		return nil, false
	})
}

// setRemainingHeaders tells the client what is left. That is known only once there is
// an answer: what was reserved for a request that fails earlier is refunded.
func (x *exchange) setRemainingHeaders(h http.Header) {
	x.headers.setRemaining(h, x.grant.Remaining())
	if n := x.usage.lowered(); n >= 0 {
		x.headers.set(h, 5, "Till-Output-Limit", strconv.FormatInt(n, 10))
	}
}
