package till

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// Transport is the reverse proxy's HTTP transport with one addition: it writes the
// upstream's real credential on the request that goes out, and nowhere else. It sends
// only what the till handler has admitted, only to the upstream that the key is for,
// and never twice. Compression is off unless it is set, so that content that is stored
// compressed arrives as it is stored.
type Transport struct {
	reverseproxy.HTTPTransport

	// The upstream whose requests this transport carries. Required.
	Upstream string `json:"upstream,omitempty"`

	target *target
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.till",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision sets up the connection pool.
func (t *Transport) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	t.logger = ctx.Logger()
	if t.target = app.targets[t.Upstream]; t.target == nil {
		return fmt.Errorf("upstream %q is not configured", t.Upstream)
	}
	if t.ProxyProtocol != "" {
		return errors.New("proxy_protocol would show the upstream its client's address; remove it")
	}
	if t.Compression == nil {
		// net/http would ask for gzip even if the client did not, and would decode what
		// is stored that way.
		t.Compression = new(bool)
	}
	t.MaxResponseHeaderSize = cmp.Or(t.MaxResponseHeaderSize, maxAnswerHead)
	settings, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	t.target.vendorCount.addTransport(t, settings)
	t.warnProxy(ctx)
	return nil
}

// maxAnswerHead is the longest header of an answer, in bytes, unless the operator sets
// another (max_response_header_size). It is searched for the credential, and no
// vendor's is longer than a few kilobytes.
const maxAnswerHead = 256 << 10

var errDispatched = errors.New("the request was already sent once; till never sends one twice")

// RoundTrip implements http.RoundTripper. It is called once for each attempt.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	if x == nil {
		if r.Context().Value(caddyhttp.VarsCtxKey) == nil {
			// This is not a client's request but the reverse proxy's own health check.
			// It goes out without the credential.
			return t.send(r)
		}
		return nil, errors.New("a reverse_proxy with the till transport must follow a till handler")
	}
	if x.dispatched.Load() {
		// The reverse proxy tries again, perhaps at another address, where an error would
		// count as a failure.
		t.logger.Error("upstream failed", zap.String("key_id", x.grant.Key().ID), zap.String("upstream", t.Upstream),
			zap.String("code", string(record.CodeUpstreamFailed)), zap.String("request_id", x.id()), zap.Error(x.failed))
		x.closeUnlessRead()
		return x.answer(r, upstreamFailed(x.grant.Key(), t.Upstream, "broke off before it answered")), nil
	}
	o, ok := t.origin(r, x)
	if !ok {
		key := x.grant.Key()
		return x.answer(r, key.Refuse(record.CodeUpstreamChanged, "was not sent on: the address is not one of upstream %s", key.Upstream)), nil
	}
	ctx, cancel := x.outlive(r.Context())
	if !x.begin(cancel) {
		cancel()
		return x.answer(r, x.grant.Cut()), nil
	}
	out := t.outgoing(r, x, o, ctx)
	res, err := t.send(out)
	if err != nil {
		cancel()
		if cut := x.grant.Cut(); cut != nil {
			x.closeUnlessRead()
			return x.answer(r, cut), nil
		}
		if why := x.bodyFailed.Load(); why != nil && !errors.Is(err, context.Canceled) {
			// With an error the reverse proxy would count a failure of the upstream
			// (fail_duration), and keep all other requests from it.
			x.closeUnlessRead()
			return x.answer(r, brokenBody(x.grant.Key(), *why)), nil
		}
		x.failed = x.credential.scrub(err)
		if x.repeated.Load() {
			x.failed = errDispatched
		}
		return nil, x.failed
	}
	res.Status = statusLine(res.StatusCode) // the upstream's words go into a placeholder
	x.status.Store(int32(res.StatusCode))
	x.closeUnlessRead()
	res = t.admitAnswer(res, out, x, cancel)
	if x.drain.clientGone() {
		_ = res.Body.Close() // it was read on, and nobody receives it
		return nil, context.Canceled
	}
	return res, nil
}

// send sends a request. See muteUpstreams.
func (t *Transport) send(out *http.Request) (*http.Response, error) {
	muteUpstreams()
	return t.HTTPTransport.RoundTrip(out)
}

// origin checks that the request is for this upstream, and returns which of its
// addresses is being dialled.
func (t *Transport) origin(r *http.Request, x *exchange) (origin, bool) {
	info, ok := reverseproxy.GetDialInfo(r.Context())
	if !ok || x.target != t.target || x.credential == nil {
		return origin{}, false
	}
	scheme := "http"
	if t.TLSEnabled() {
		scheme = "https"
	}
	network := info.Network
	if network != "unix" {
		network = "tcp"
	}
	for _, o := range t.target.origins {
		if o.scheme == scheme && o.network == network && strings.EqualFold(o.address, info.Address) {
			return o, true
		}
	}
	return origin{}, false
}

// overrides are the headers by which some servers take a request for one with a method
// or address other than those that were checked.
var overrides = []string{
	"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url", "X-Original-Uri",
}

// neverSent are the headers that are not sent on, besides overrides and those that
// forwards names: they reveal the client, or try to make the upstream see another
// request than the one that was checked.
var neverSent = []string{
	"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For",
	"True-Client-Ip", "Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Cf-Ipcountry", "Cf-Ray", "Fastly-Client-Ip",
	"X-Original-Host", "X-Host", "Early-Data", "Trailer", "Http2-Settings",
}

// forwards reports whether a header says who sent a request to a proxy: some proxies add
// their users' names, tokens and certificates.
func forwards(name string) bool {
	rest, ok := strings.CutPrefix(name, "X-Forwarded")
	return ok && (rest == "" || rest[0] == '-')
}

// isNeverSent reports whether no upstream is sent this header. The name is canonical.
func isNeverSent(name string) bool {
	return forwards(name) || slices.Contains(overrides, name) || slices.Contains(neverSent, name)
}

// authAt returns where the credential goes on a canonical path. A preset's vendor may
// expect it in one place on some paths and in another on the rest.
func (t *target) authAt(path string) upstream.Auth {
	if t.ownAuth {
		return t.auth
	}
	return t.preset.AuthAt(path)
}

// withholds reports whether this upstream is not sent a header of the client's.
func (t *target) withholds(name string) bool { return t.withheld[name] || forwards(name) }

// outgoing returns the request to the upstream. It is a copy, because what the reverse
// proxy logs must never hold the credential. Header values are shared with the original
// and are only ever replaced.
func (t *Transport) outgoing(r *http.Request, x *exchange, o origin, ctx context.Context) *http.Request {
	x.trace = httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		// From here on a byte may have been sent, so the request counts as dispatched.
		x.dispatched.Store(true)
		x.stopRepeating()
	}}
	if x.body.takesRoom() {
		x.trace.WroteRequest = x.bodySent
	}
	out := r.WithContext(&outgoingContext{Context: ctx, trace: &x.trace})
	leaving := 2 // those that are added below
	for name := range r.Header {
		if !t.target.withholds(name) {
			leaving++
		}
	}
	out.Header = make(http.Header, leaving) // a map of at most eight entries is one allocation
	for name, values := range r.Header {
		if !t.target.withholds(name) {
			out.Header[name] = values
		}
	}
	if encodings := out.Header["Accept-Encoding"]; len(encodings) > 0 {
		out.Header["Accept-Encoding"] = []string{acceptEncoding(encodings)}
	}
	if x.models != nil {
		requestFullList(out.Header)
	}
	if x.usage != nil {
		out.Header["Accept-Encoding"] = []string{"identity"} // the answer is read
		if !x.usage.unbounded {
			upstream.Unmask(out.Header)
		}
	}
	x.rewriteAddresses(out.Header, o)
	if body := x.body.whole(out.ContentLength); body != nil {
		out.Body = body // bodySent or the handler releases its memory
	}
	if x.body == nil && out.Body != nil && out.Body != http.NoBody {
		out.Body = &passingBody{ReadCloser: out.Body, x: x, left: out.ContentLength}
	}
	out.Trailer = nil
	out.Host = o.host
	u := *r.URL
	u.Path, u.RawPath, u.Opaque = x.out, "", ""
	if strings.IndexByte(x.out, '%') >= 0 {
		// locate has checked it.
		if path, err := url.PathUnescape(x.out); err == nil {
			u.Path, u.RawPath = path, x.out
		}
	}
	out.URL = &u
	t.target.authAt(x.path).Apply(out.Header, out.URL, x.credential.secret)
	sendOnce(out)
	if out.Body == nil || out.Body == http.NoBody {
		x.trace.WroteHeaderField = x.noteStream
	}
	return out
}

// Over HTTP/2, net/http repeats a request without a body, on new connections and without
// end, if the upstream breaks it off with PROTOCOL_ERROR. Unlike REFUSED_STREAM (RFC 9113,
// section 8.7), that does not say that the upstream has done nothing. The repetition is
// stopped when it has a connection, before it writes anything.

// noteStream notes that a request is being sent over HTTP/2: over HTTP/1 it has no fields
// that begin with a colon.
func (x *exchange) noteStream(name string, _ []string) {
	if name[0] == ':' {
		x.streamed.Store(true)
	}
}

func (x *exchange) stopRepeating() {
	if !x.streamed.Load() {
		return
	}
	x.repeated.Store(true)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel()
}

// sendOnce keeps net/http from repeating a request by itself when a reused connection
// breaks. It does that with requests that it considers idempotent and that have no body
// (see Request.isReplayable there), and an upstream would count it twice.
func sendOnce(out *http.Request) {
	if out.Body != nil && out.Body != http.NoBody {
		return
	}
	switch out.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		// A body that exists but is empty. The transport reads it before it decides how
		// to send the request, and sends none.
		out.Body, out.ContentLength = emptyBody{}, -1
	default:
		for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
			if values, ok := out.Header[name]; ok {
				delete(out.Header, name)
				// The same field to every server, but spelled in a way that net/http
				// does not look for.
				out.Header[strings.ToLower(name)] = values //nolint:canonicalheader // see above
			}
		}
	}
}

type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }
func (emptyBody) Close() error             { return nil }

// outgoingContext replaces the reverse proxy's connection trace with ours. Composing
// the two would cost reflection on every request; and the proxy's own passes 1xx
// answers to the client, which till does not.
type outgoingContext struct {
	context.Context
	trace *httptrace.ClientTrace
}

func (c *outgoingContext) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return c.trace
	}
	return v
}

// cookieHeaders are dropped from answers unless cookies pass.
var cookieHeaders = []string{"Set-Cookie", "Set-Cookie2"}

// siteHeaders are dropped from answers: they make statements about a whole site, which
// outlast the answer, and the site is this server's. With the reporting ones browsers
// would send the address of each request, and so a key in its query, to another server.
var siteHeaders = []string{
	"Report-To", "Reporting-Endpoints", "Nel", "Expect-Ct", "Public-Key-Pins", "Public-Key-Pins-Report-Only",
	"Alt-Svc", "Strict-Transport-Security", "Clear-Site-Data",
}

// cleanHeader removes from an answer's header what must not reach the client.
func (t *Transport) cleanHeader(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Till-") || len(t.target.cors) > 0 && strings.HasPrefix(name, "Access-Control-") {
			delete(h, name) // till sets them itself
		}
	}
	for _, names := range [][]string{t.target.preset.AccountHeaders, siteHeaders} {
		for _, name := range names {
			delete(h, name)
		}
	}
	if !t.target.cookies {
		for _, name := range cookieHeaders {
			delete(h, name)
		}
	}
}

func (c *credential) shownInHeader(h http.Header) bool {
	for name, values := range h {
		if slices.ContainsFunc(values, c.shownIn) || c.shownInName(name) {
			return true
		}
	}
	return false
}

// shownInName reports whether the name of a header contains the credential, in any case,
// since HTTP does not preserve that. A name cannot contain escapes.
func (c *credential) shownInName(name string) bool {
	return len(name) >= minSearched && slices.ContainsFunc(*c.forms.Load(), func(form token.Secret) bool {
		return len(name) >= len(form.Reveal()) && strings.Contains(strings.ToLower(name), strings.ToLower(form.Reveal()))
	})
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
)
