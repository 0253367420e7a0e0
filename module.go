package till

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/upstream"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler admits requests that carry a scoped key and refuses all others. It
// takes the key out of the request, reserves what the request may use, passes
// it on to the next handler, and settles afterwards.
//
// The next handler is a reverse_proxy with the `till` transport, which writes the
// upstream's real credential on what it sends; or, with `guard`, any handler.
//
// It sets placeholders:
//
// Placeholder | Description
// ------------|------------
// `{http.till.key_id}` | the key's id
// `{http.till.key_name}` | the key's name
// `{http.till.upstream}` | the upstream that the key is for
// `{http.till.activations_remaining}` | activations left after this request; empty when not limited
type Handler struct {
	// The upstreams served here. A key for any other upstream is refused. Default: all.
	Upstreams []string `json:"upstreams,omitempty"`

	// Only guard the handlers that follow: nothing is proxied, and the key's rules
	// about paths apply, but not the upstream's. Default: false.
	Guard bool `json:"guard,omitempty"`

	app         *App
	corsTargets []*target // those served here that have cors
	metrics     *metrics
	logger      *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.till", New: func() caddy.Module { return new(Handler) }}
}

// Provision finds the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := appForSite(ctx, keysRole)
	if err != nil {
		return err
	}
	if err := checkList("upstreams", h.Upstreams); err != nil {
		return err
	}
	for _, name := range h.Upstreams {
		if app.targets[name] == nil {
			return errors.New("upstream " + strconv.Quote(name) + " is not configured")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(app.targets)) {
		if t := app.targets[name]; len(t.cors) > 0 && !h.Guard && (len(h.Upstreams) == 0 || slices.Contains(h.Upstreams, name)) {
			h.corsTargets = append(h.corsTargets, t)
		}
	}
	h.app, h.metrics, h.logger = app, app.engine.metrics, ctx.Logger()
	return nil
}

// selfPath is where a key's holder asks about it.
const selfPath = "/till/self"

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	start := time.Now()
	origin, preflight := h.cors(w, r)
	if preflight {
		return nil
	}
	dropIgnoredUpgrade(r)
	expects := expectsContinue(r)
	if expects {
		// Go's server would read the body before an answer that is sent first. If the
		// writer cannot prevent that, a refusal follows the body.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	escaped := r.URL.EscapedPath()
	if !h.Guard { // the handlers behind a guard see the path as it came
		escaped = normalizePath(escaped)
	}
	path, pathErr := scope.CleanPath(escaped)
	l, by, refusal := h.find(r)
	key, k, t := by.key, by.k, by.target
	allowOrigin(w, r, origin, t)
	if refusal != nil {
		return h.refuse(w, r, t, path, refusal, 0)
	}
	x := &exchange{
		key: key, live: k, target: t, credential: by.credential, location: location{path: path, out: escaped},
		client: w, clientCtx: r.Context(), request: r,
	}
	own := pathErr == nil && (strings.HasPrefix(path, "/till/") || path == "/till")
	ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, String: by.number, Addr: clientAddr(r), OnCut: x.stop}
	switch {
	case own && path != childrenPath && !strings.EqualFold(r.Method, http.MethodTrace) && !strings.EqualFold(r.Method, http.MethodConnect):
		// A holder may ask about a key wherever its requests may go.
		return h.serveSelf(w, r, l, &by, path)
	case t == nil:
		refusal = key.Refuse(record.CodeUpstreamUnknown, "is for upstream %s, which is not configured here", key.Upstream)
	case len(h.Upstreams) > 0 && !slices.Contains(h.Upstreams, t.name):
		refusal = key.Refuse(record.CodeWrongUpstream, "is for upstream %s, which is not served at this address", t.name)
	case strings.EqualFold(r.Method, http.MethodTrace) || strings.EqualFold(r.Method, http.MethodConnect) && !(r.Method == http.MethodConnect && upgrades(r)):
		refusal = key.Refuse(record.CodeMethodNotAllowed, "may not use method %s: it is never forwarded", r.Method)
	case pathErr != nil:
		refusal = key.Refuse(record.CodeBadRequest, "asked for a path that is refused: %s", pathErr)
	case own:
		return h.serveSelf(w, r, l, &by, path)
	case h.Guard:
		x.override = overriding(r.URL.RawQuery)
		if upgrades(r) {
			refusal = key.Refuse(record.CodeUpgradeNotAllowed, "may not upgrade the connection here")
		} else {
			refusal = x.checkDestination(true, &ask)
		}
	case key.Custody == record.CustodySealed && !slices.Equal(by.box.Origins, t.declared):
		refusal = key.Refuse(record.CodeUpstreamChanged, "was sealed for upstream %s at another address than the one configured now; it has to be rotated with its upstream_key, or replaced by a new key", t.name)
	case key.Custody != record.CustodySealed && t.held.Load() == nil:
		refusal = key.Refuse(record.CodeUpstreamUnknown, "is for upstream %s, which has no credential here any more", t.name)
	default:
		x.credential = cmp.Or(by.credential, t.held.Load())
		var to location
		if to, refusal = t.route(r, key, path, escaped); refusal == nil {
			x.location = to
			refusal = x.checkDestination(false, &ask)
		}
	}
	if refusal != nil {
		refusal = k.Refuse(r.Context(), &ask, refusal)
		setRefusedHeaders(w.Header(), key, k, refusal)
		return h.refuse(w, r, t, path, refusal, 0)
	}

	ask.Free, ask.Listens = !h.Guard && x.costsNothing(), !h.Guard && x.listens()
	ask.Method, ask.Path, ask.Version, ask.Override = forwardedMethod(r), x.path, x.version, x.override
	defer x.releaseBody()
	if refusal := h.admit(w, x, &ask, expects); refusal != nil {
		setRefusedHeaders(w.Header(), key, k, refusal)
		return h.refuse(w, r, t, x.path, refusal, 0)
	}
	// This has no effect once the grant is settled. Something may panic before the request
	// is passed on.
	defer x.grant.Cancel()
	x.rewrite()
	x.setKeyHeaders(w.Header())
	h.metrics.overhead.Observe((time.Since(start) - x.grant.Waited()).Seconds())
	return h.forward(w, x, next)
}

// find looks up the key that a request came with. by.target stays nil unless the sender has
// shown the whole key, because refusals in a dialect reveal whose API the key is for.
func (h *Handler) find(r *http.Request) (l *limiter.Limiter, by holder, refusal *record.Refusal) {
	if refusal = tooEarly(r); refusal != nil {
		return nil, by, refusal
	}
	ambient := refuseAmbient(r)
	parsed, refusal := takeKey(r, h.app.slots)
	if refusal != nil {
		return nil, by, refusal
	}
	l, err := h.app.Limiter()
	if err != nil {
		if locked := h.app.engine.lockdown.Refusal(nil); locked != nil {
			return nil, by, locked
		}
		h.logger.Debug("the store is not open", zap.Error(err)) // the engine has logged why
		return nil, by, storeClosed()
	}
	if by.k, refusal = l.Find(r.Context(), parsed.Lookup); refusal != nil {
		return nil, by, refusal
	}
	by.key = by.k.Key()
	t := h.app.targets[by.key.Upstream]
	if by.number, refusal = by.k.Number(by.key, parsed.Lookup, clientAddr(r)); refusal != nil {
		if refusal.Code == record.CodeKeyRevoked && by.key.Custody != record.CustodySealed {
			by.target = t // the box of a revoked key is not opened, so nobody can show all of a sealed one
		}
		return nil, by, refusal
	}
	if by.key.Custody == record.CustodySealed {
		by.box = by.k.Box(by.key, by.number)
	}
	if by.credential, refusal = h.credentialOf(by.k, by.key, parsed, by.box); refusal != nil {
		refusal.Upstream = by.key.Upstream // for the metrics: no answer shows it
		return nil, by, refusal
	}
	by.target = t
	if ambient != nil && !(slices.Contains(h.corsTargets, t) && t.cors.names(pageOrigin(r))) {
		refusal = ambient
	}
	return l, by, refusal
}

// forward passes an admitted request on and settles it, even if a handler below panics,
// as reverse_proxy does to abort an answer.
func (h *Handler) forward(w http.ResponseWriter, x *exchange, next caddyhttp.Handler) error {
	r := x.request
	defer x.settle()
	defer x.handlerDone()
	x.unbuffered = r.ProtoMajor == 1 && r.ContentLength != 0 && x.body == nil
	ctx := context.WithValue(r.Context(), exchangeKey{}, x)
	if h.Guard {
		return h.guard(w, r.WithContext(ctx), x, next)
	}
	for _, name := range x.target.preset.AccountHeaders {
		delete(r.Header, name) // the operator's own come with header_up
	}
	err := next.ServeHTTP(w, r.WithContext(ctx))
	if err == nil {
		return nil
	}
	// The error must not leave this handler: Caddy's server would log it with the
	// original request, keys included.
	return h.answerError(w, x, err, http.StatusBadGateway)
}

// answerError answers with a refusal for an error from a handler below. fallback is the
// status if the error has none of its own.
func (h *Handler) answerError(w http.ResponseWriter, x *exchange, err error, fallback int) error {
	x.grant.Answered()
	if !x.dispatched.Load() {
		x.grant.Cancel() // before the client is told what is left
	}
	x.setRemainingHeaders(w.Header())
	x.closeUnlessRead()
	if cut := x.grant.Cut(); cut != nil {
		return h.answerRefusal(w, x.request, x.target, x.path, cut, 0)
	}
	key := x.grant.Key()
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return h.answerRefusal(w, x.request, x.target, x.path, key.Refuse(record.CodeBodyTooLarge, "sent more than the %d bytes allowed here", tooLarge.Limit), 0)
	}
	status, what := fallback, "could not be reached"
	switch network, ok := errors.AsType[net.Error](err); {
	case ok && network.Timeout(), errors.Is(err, context.DeadlineExceeded), statusOf(err) == http.StatusGatewayTimeout:
		status, what = http.StatusGatewayTimeout, "did not answer in time"
	case x.dispatched.Load():
		what = "broke off before it answered"
	}
	h.logger.Error("upstream failed", zap.String("key_id", key.ID), zap.String("upstream", x.target.name),
		zap.String("code", string(record.CodeUpstreamFailed)), zap.String("request_id", x.id()), zap.Error(err))
	return h.answerRefusal(w, x.request, x.target, x.path, upstreamFailed(key, x.target.name, what), status)
}

func upstreamFailed(key *record.Key, upstream, what string) *record.Refusal {
	return &record.Refusal{
		Code: record.CodeUpstreamFailed, KeyID: key.ID, KeyName: key.Name, Upstream: key.Upstream,
		Message: "upstream " + upstream + " " + what,
	}
}

func statusOf(err error) int {
	handler, _ := errors.AsType[caddyhttp.HandlerError](err)
	return handler.StatusCode
}

// refuse answers a request that was not admitted. It closes the connection if the body
// of the request may still follow.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, t *target, path string, refusal *record.Refusal, status int) error {
	closeIfUnread(w, r)
	return h.answerRefusal(w, r, t, path, refusal, status)
}

// answerRefusal answers with a refusal in the dialect of the key's upstream. t is nil if
// that is not configured, or must not be revealed. If status is 0, the code and the path
// determine it.
func (h *Handler) answerRefusal(w http.ResponseWriter, r *http.Request, t *target, path string, refusal *record.Refusal, status int) error {
	dialect, name := upstream.Unified, ""
	if t != nil {
		dialect, name = t.preset.Dialect, t.name
	} else if h.app.targets[refusal.Upstream] != nil { // metrics have no names but those of the configuration
		name = refusal.Upstream
	}
	h.metrics.countRefusal(name, refusal.Code)
	requestID := newRequestID()
	if c := h.logger.Check(zap.DebugLevel, "refused"); c != nil {
		c.Write(zap.String("key_id", refusal.KeyID), zap.String("upstream", name), zap.String("code", string(refusal.Code)), zap.String("request_id", requestID))
	}
	answer := clientRefusal(refusal, path, requestID)
	if status != 0 {
		answer.Status = status
	}
	if err := writeRefusal(w, r, dialect, refusal, answer); err != nil {
		// The client is gone.
		h.logger.Debug("writing a refusal", zap.Error(err))
	}
	return nil
}

// rereads bounds how often a request is read again because its key changed in the
// meantime.
const rereads = 16

// admit reads from a request what its key's limits depend on, and reserves it. If
// the key, an ancestor or its role's budget changed in between, the request is read
// again under the new terms: its body is in memory, or was not touched.
func (h *Handler) admit(w http.ResponseWriter, x *exchange, ask *limiter.Ask, expects bool) (refusal *record.Refusal) {
	ctx, asked := x.request.Context(), *ask
	for range rereads {
		*ask, x.usage, x.models = asked, nil, nil
		ask.Terms = x.live.Terms()
		if refusal = h.readAsk(w, x, ask); refusal != nil {
			return refusal
		}
		if !expects {
			if refusal = h.readSmall(x, ask); refusal != nil {
				return refusal
			}
		}
		ask.Waits, ask.Keeps = true, x.body.keeps()
		if refusal = x.live.Reserve(ctx, ask, &x.grant); refusal == nil || !refusal.Moved {
			return refusal
		}
	}
	return x.live.Refuse(ctx, ask, refusal)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
