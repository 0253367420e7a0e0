package till

import (
	"crypto/rand"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream"
)

// newRequestID names one request, for clients and logs. It is no secret.
func newRequestID() string { return "req_" + rand.Text() }

// refusalHeader is the header of a refusal. SDKs stop at once when told not
// to retry; only where a retry is right are they told when.
func refusalHeader(h http.Header, code limiter.Code, status int, retryAfter time.Duration, requestID string) {
	h["Content-Type"] = []string{"application/json"}
	h["Cache-Control"] = []string{"no-store"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Till-Refusal"] = []string{string(code)}
	h["X-Request-Id"] = []string{requestID}
	h["Request-Id"] = []string{requestID} // Anthropic's name for it
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		seconds := max(1, int64(math.Ceil(retryAfter.Seconds())))
		h["Retry-After"] = []string{strconv.FormatInt(seconds, 10)}
		return
	}
	h["X-Should-Retry"] = []string{"false"}
}

// challenge tells clients that send a credential only where they are asked for one
// how to send it (RFC 9110, section 11.6.1): git, docker and curl among them. A
// browser would ask people, so pages of other origins get none.
func challenge(h http.Header, r *http.Request, status int) {
	_, decided := h["Www-Authenticate"]
	if status == http.StatusUnauthorized && len(h["Access-Control-Allow-Origin"]) == 0 && !decided && !fromOtherSite(r) {
		h["Www-Authenticate"] = []string{`Basic realm="till", Bearer`}
	}
}

// fromOtherSite reports whether a page of another origin made a browser send a request
// (https://www.w3.org/TR/fetch-metadata/), other than by a link to follow.
func fromOtherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Method != http.MethodGet && r.Method != http.MethodHead
	}
	return false
}

// refuseAmbient refuses what a browser adds by itself: a key that a person typed in when
// asked for one goes with whatever pages of other sites load from here and post. Those
// whose origin cors names may send keys, and others cannot set the header themselves.
func refuseAmbient(r *http.Request) *limiter.Refusal {
	if !fromOtherSite(r) {
		return nil
	}
	for _, value := range r.Header["Authorization"] {
		if scheme, _, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Basic") {
			return &limiter.Refusal{Code: limiter.CodeBadRequest, Message: "a page of another site sent this with a key that the browser remembers; whoever runs this server lets pages of an origin use keys with cors"}
		}
	}
	return nil
}

// expectsContinue reports whether a client waits for "100 Continue" before it sends its body
// (RFC 9110, section 10.1.1).
func expectsContinue(r *http.Request) bool { return r.ProtoMajor == 1 && len(r.Header["Expect"]) > 0 }

// closeIfUnread ends the connection with an answer to a client that waits for "100
// Continue": what it says next would be taken for its body. Go's server sees to that by
// itself, but Caddy wraps the body and so hides that nobody asked for it.
func closeIfUnread(w http.ResponseWriter, r *http.Request) {
	if expectsContinue(r) && http.NewResponseController(w).EnableFullDuplex() == nil {
		w.Header()["Connection"] = []string{"close"}
	}
}

// clientRefusal is a refusal as a client of the endpoint at path hears of it.
func clientRefusal(r *limiter.Refusal, path, requestID string) upstream.Refusal {
	return upstream.Refusal{
		Code: string(r.Code), Status: upstream.Status(path, string(r.Code)), Message: r.Message, RequestID: requestID, Field: r.Field,
	}
}

// writeRefusal answers with a refusal, said in the dialect.
func writeRefusal(w http.ResponseWriter, r *http.Request, d upstream.Dialect, refusal *limiter.Refusal, answer upstream.Refusal) error {
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
