package till

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream"
)

// exchange is one admitted request on its way through the handlers: its
// grant, where it may go, and the facts that decide what it is charged. It
// travels as a context value of an unexported type, because anything in
// Caddy's variables or placeholders could be printed by a configuration.
type exchange struct {
	location
	grant         limiter.Grant
	target        *target
	credential    *credential             // nil while guarding with a held key
	destination   string                  // as out, of a request that copies or moves; "": none
	requestID     string                  // see id
	body          *bufferedBody           // nil unless a limit had to read it
	models        func(model string) bool // filters a list of models; nil: as it is
	usage         *usage                  // nil unless tokens or dollars are limited
	request       *http.Request           // as the handler got it
	foundFront    *front                  // see front
	headers       headerValues
	stoppedAsking bool // it taught that streams are not to be asked for usage

	// Facts, written by the transport (or the guard) and read by the handler.
	dispatched atomic.Bool  // a byte may have left for the upstream
	unbuffered bool         // the body goes on as it comes, over HTTP/1
	bodyRead   atomic.Bool  // and was read as a whole
	status     atomic.Int32 // of the upstream's answer; 0: none came

	mu           sync.Mutex
	cancel       context.CancelFunc  // ends the round trip
	tunnel       io.Closer           // an upgraded connection
	client       http.ResponseWriter // while the handler runs
	clientCtx    context.Context     // of the request that it answers
	abandonTimer *time.Timer         // of a client whose request was cut

	drain *drain // nil: the request ends with its client
	trace httptrace.ClientTrace
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// cutGrace bounds how long a client whose request was cut may take to read why,
// or to send what is left of it.
const cutGrace = 5 * time.Second

// stop ends what runs. It is the grant's OnCut.
func (x *exchange) stop(*limiter.Refusal) {
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
		_ = tunnel.Close() // its copiers report what they meet
	}
}

// abandon fails what the handler reads from its client or writes to it. A client
// that reads nothing, or sends half of a body and waits, would else keep it for
// as long as Caddy's own timeouts let it, which begin anew with each write.
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
		write = idle.Ctrl // the writer around it may only be used by the handler
	}
	// Reads come last, because whoever waited in one writes the answer then, and
	// Caddy gives that a time of its own. Where there are no deadlines the client is
	// waited for.
	_ = write.SetWriteDeadline(past)
	_ = client.SetReadDeadline(past)
	x.abandonTimer.Reset(cutGrace)
}

// closeUnlessRead ends the client's connection with the answer, unless its body was read as
// a whole. What is left of a body that the transport closed, and that did not come
// to its end in time, would be taken for the next request: net/http looks for that
// only in bodies that nobody wraps, as Caddy does.
func (x *exchange) closeUnlessRead() {
	if x.unbuffered && !x.bodyRead.Load() {
		x.client.Header()["Connection"] = []string{"close"}
	}
}

// handlerDone says that the handler ends, and that its writer is nobody's from now on.
func (x *exchange) handlerDone() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.abandonTimer != nil && x.abandonTimer.Stop() {
		// net/http reads what is left of a body before it sends a short answer, and
		// sends what it has kept of the answer after the handler.
		at := time.Now().Add(cutGrace)
		_ = http.NewResponseController(x.client).SetReadDeadline(at)
		if _, idle := caddyhttp.IdleTimeoutsFromContext(x.clientCtx); idle != nil {
			_ = idle.Ctrl.SetWriteDeadline(at) // the next request's first write moves it
		}
	}
	x.client = nil
}

// begin registers what stop has to end. It reports false when the request was
// cut before.
func (x *exchange) begin(cancel context.CancelFunc) bool {
	x.mu.Lock()
	x.cancel = cancel
	x.mu.Unlock()
	return x.grant.Cut() == nil
}

// refusal is how a client of this exchange is told no.
func (x *exchange) refusal(r *limiter.Refusal) upstream.Refusal {
	return clientRefusal(r, x.path, x.id())
}

// id names the request to its client and in logs; it is made when the first
// of them needs it.
func (x *exchange) id() string {
	if x.requestID == "" {
		x.requestID = newRequestID()
	}
	return x.requestID
}

// settle ends the grant from the facts. It is called exactly once, by the
// handler, whatever happened below.
func (x *exchange) settle() {
	if !x.dispatched.Load() {
		x.grant.Cancel()
		return
	}
	used := limiter.Amounts{limiter.Activations: 1}
	if x.grant.Key().Charge == limiter.ChargeSuccess && !x.succeeded() {
		used[limiter.Activations] = 0
	}
	if x.usage != nil {
		var kinds limiter.TokenKinds
		used[limiter.Tokens], used[limiter.Nanodollars], kinds = x.usage.charge(int(x.status.Load()))
		x.target.spent.add(&kinds, used[limiter.Nanodollars])
		x.grant.Measured(kinds)
		x.checkCount()
		x.reportImplausible()
	}
	x.grant.Settle(used)
	x.recordContradiction()
	if used[limiter.Activations] > 0 {
		x.target.admitted.Inc()
	}
}

// succeeded reports whether the answer counts as a success: 2xx and 304, and
// an upgrade.
func (x *exchange) succeeded() bool {
	s := x.status.Load()
	return s >= 200 && s < 300 || s == http.StatusNotModified || s == http.StatusSwitchingProtocols
}
