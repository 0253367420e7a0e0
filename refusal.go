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
// how to send it (RFC 9110, section 11.6.1): git, docker and curl among them. Where
// the answer goes to the page of another origin, the browser would ask people.
func challenge(h http.Header, status int) {
	_, decided := h["Www-Authenticate"]
	if status == http.StatusUnauthorized && len(h["Access-Control-Allow-Origin"]) == 0 && !decided {
		h["Www-Authenticate"] = []string{`Basic realm="till", Bearer`}
	}
}

// elsewhere reports whether a page of another origin made a browser send a request
// (https://www.w3.org/TR/fetch-metadata/), other than by a link to follow.
func elsewhere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Method != http.MethodGet && r.Method != http.MethodHead
	}
	return false
}

// notAmbient refuses what a browser adds by itself: a key that a person typed in when
// asked for one goes with whatever pages of other sites load from here and post. Those
// whose origin cors names may send keys, and others cannot set the header themselves.
func notAmbient(h http.Header, r *http.Request) *limiter.Refusal {
	if !elsewhere(r) || len(h["Access-Control-Allow-Origin"]) > 0 {
		return nil
	}
	h["Www-Authenticate"] = nil // nor are people asked
	for _, value := range r.Header["Authorization"] {
		if scheme, _, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Basic") {
			return &limiter.Refusal{Code: limiter.CodeBadRequest, Message: "a page of another site sent this with a key that the browser remembers; whoever runs this server lets pages of an origin use keys with cors"}
		}
	}
	return nil
}

// refuseUnread lets a client that waits for "100 Continue" (RFC 9110, section
// 10.1.1) hear a refusal before it sends its body. Go's server would read the
// body first, because Caddy wraps it and so hides that nobody asked for it.
func refuseUnread(w http.ResponseWriter) {
	// Where the writer cannot do it, the refusal comes after the body.
	if http.NewResponseController(w).EnableFullDuplex() == nil {
		w.Header()["Connection"] = []string{"close"}
	}
}

// told is a refusal as a client of the endpoint at path hears of it.
func told(r *limiter.Refusal, path, requestID string) upstream.Refusal {
	return upstream.Refusal{
		Code: string(r.Code), Status: upstream.Status(path, string(r.Code)), Message: r.Message, RequestID: requestID, Field: r.Field,
	}
}

// writeRefusal answers with a refusal, said in the dialect.
func writeRefusal(w http.ResponseWriter, d upstream.Dialect, r *limiter.Refusal, said upstream.Refusal) error {
	body := d.Body(said)
	h := w.Header()
	for _, stale := range []string{"Content-Encoding", "Content-Length", "Etag", "Last-Modified", "Trailer", "Transfer-Encoding"} {
		delete(h, stale)
	}
	refusalHeader(h, r.Code, said.Status, r.RetryAfter, said.RequestID)
	challenge(h, said.Status)
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(said.Status)
	_, err := w.Write(body)
	return err
}
