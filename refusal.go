package till

import (
	"crypto/rand"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// newRequestID returns an id for one request, for clients and logs. It is not secret.
func newRequestID() string { return "req_" + rand.Text() }

func storeClosed() *record.Refusal {
	return &record.Refusal{
		Code: record.CodeStoreUnavailable, RetryAfter: 2 * time.Second,
		Message: "the key could not be checked, so the request was not forwarded",
	}
}

// refusalHeader sets the header of a refusal. SDKs give up at once if it says not to
// retry, and it says when to retry only if a retry can help.
func refusalHeader(h http.Header, code record.Code, status int, retryAfter time.Duration, requestID string) {
	h["Content-Type"] = []string{"application/json"}
	h["Cache-Control"] = []string{"no-store"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Till-Refusal"] = []string{string(code)}
	h["X-Request-Id"] = []string{requestID}
	h["Request-Id"] = []string{requestID} // Anthropic's name for it
	switch status {
	case http.StatusTooEarly: // which SDKs do not retry by themselves
		h["X-Should-Retry"] = []string{"true"}
		fallthrough
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		seconds := max(1, int64(math.Ceil(retryAfter.Seconds())))
		h["Retry-After"] = []string{strconv.FormatInt(seconds, 10)}
		return
	}
	h["X-Should-Retry"] = []string{"false"}
}

// tooEarly refuses a request that came before the TLS handshake was complete (RFC 8470,
// section 5.2), which HTTP/3 allows: nothing has shown yet that the client receives
// anything at its address, which keys may be bound to, and whoever saw the request may
// have sent it again.
func tooEarly(r *http.Request) *record.Refusal {
	if r.TLS == nil || r.TLS.HandshakeComplete {
		return nil
	}
	return &record.Refusal{
		Code: record.CodeTooEarly, RetryAfter: time.Second,
		Message: "this was sent before the TLS handshake was complete, and was not looked at; send it again",
	}
}

// challenge tells clients how to send a credential if they only send one when asked
// (RFC 9110, section 11.6.1): git, docker and curl among them. A browser would ask its
// user, so pages of other origins get no challenge.
func challenge(h http.Header, r *http.Request, status int) {
	_, decided := h["Www-Authenticate"]
	if status == http.StatusUnauthorized && len(h["Access-Control-Allow-Origin"]) == 0 && !decided && !fromOtherSite(r) {
		h["Www-Authenticate"] = []string{`Basic realm="till", Bearer`}
	}
}

// fromOtherSite reports whether a page of another origin made a browser send the
// request (https://www.w3.org/TR/fetch-metadata/), other than by a link that the user
// followed. Over plain HTTP browsers do not say that, except to their own machine. There
// the Origin header tells, which they send with everything but what a page loads with a
// GET. It is "null" if the page hides it.
func fromOtherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Method != http.MethodGet && r.Method != http.MethodHead
	case "":
		if len(r.Header["Origin"]) == 0 {
			return false
		}
		u, err := url.Parse(pageOrigin(r))
		return err != nil || u.Host == "" || authority(u.Scheme, u.Host) != authority(u.Scheme, askedHost(r))
	}
	return false
}

// refuseAmbient refuses a key that a browser adds by itself: a key that its user once
// typed in is also sent with everything that pages of other sites load from here or
// post here. Only pages whose origin the key's upstream names in cors may send it: with
// "*", and with a header that the operator sets, nobody has said that this page may.
// Keys in other headers are sent by whoever has them.
func refuseAmbient(r *http.Request) *record.Refusal {
	if !fromOtherSite(r) {
		return nil
	}
	for _, value := range r.Header["Authorization"] {
		if scheme, _, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Basic") {
			return &record.Refusal{Code: record.CodeBadRequest, Message: "a page of another site sent this with a key that the browser remembers; the operator of this server lets pages of an origin use keys with cors, or send the key as Authorization: Bearer"}
		}
	}
	return nil
}

// expectsContinue reports whether a client waits for "100 Continue" before it sends its
// body (RFC 9110, section 10.1.1).
func expectsContinue(r *http.Request) bool { return r.ProtoMajor == 1 && len(r.Header["Expect"]) > 0 }

// closeIfUnread closes the connection after an answer to a client that waits for "100
// Continue": what it sends next would be taken for its body. Where Caddy lets answers
// begin before bodies are read (enable_full_duplex), the rest of a long body would be
// taken for the next request. Go's server does that by itself, but Caddy wraps the body
// and thereby hides that nobody read it.
func closeIfUnread(w http.ResponseWriter, r *http.Request) {
	switch {
	case expectsContinue(r):
		if http.NewResponseController(w).EnableFullDuplex() == nil {
			w.Header()["Connection"] = []string{"close"}
		}
	case r.ProtoMajor == 1 && r.ContentLength != 0 && fullDuplex(r):
		closeAfterAnswer(w)
	}
}

func fullDuplex(r *http.Request) bool {
	s, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return ok && s.EnableFullDuplex
}

// clientRefusal returns a refusal as a client of the endpoint at path sees it.
func clientRefusal(r *record.Refusal, path, requestID string) upstream.Refusal {
	return upstream.Refusal{
		Code: string(r.Code), Status: upstream.Status(path, string(r.Code)), Message: r.Message, RequestID: requestID, Field: r.Field,
	}
}

func writeRefusal(w http.ResponseWriter, r *http.Request, d upstream.Dialect, refusal *record.Refusal, answer upstream.Refusal) error {
	body := d.Body(answer)
	h := w.Header()
	for _, stale := range []string{"Content-Encoding", "Content-Length", "Etag", "Last-Modified", "Trailer", "Transfer-Encoding"} {
		delete(h, stale)
	}
	refusalHeader(h, refusal.Code, answer.Status, refusal.RetryAfter, answer.RequestID)
	challenge(h, r, answer.Status)
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(answer.Status)
	_, err := w.Write(body)
	return err
}
