package till

import (
	"crypto/rand"
	"math"
	"net/http"
	"strconv"
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
	if status == http.StatusUnauthorized && len(h["Access-Control-Allow-Origin"]) == 0 && len(h["Www-Authenticate"]) == 0 {
		h["Www-Authenticate"] = []string{`Basic realm="till", Bearer`}
	}
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
