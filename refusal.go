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

// refuseUnread lets a client that waits for "100 Continue" (RFC 9110, section
// 10.1.1) hear a refusal before it sends its body. Go's server would read the
// body first, because Caddy wraps it and so hides that nobody asked for it.
func refuseUnread(w http.ResponseWriter) {
	// Where the writer cannot do it, the refusal comes after the body.
	if http.NewResponseController(w).EnableFullDuplex() == nil {
		w.Header()["Connection"] = []string{"close"}
	}
}

// writeRefusal answers with a refusal in the dialect. status 0 takes the
// code's own.
func writeRefusal(w http.ResponseWriter, d upstream.Dialect, r *limiter.Refusal, status int, requestID string) error {
	if status == 0 {
		status = upstream.Status(string(r.Code))
	}
	body := d.Body(upstream.Refusal{Code: string(r.Code), Status: status, Message: r.Message, RequestID: requestID})
	h := w.Header()
	for _, stale := range []string{"Content-Encoding", "Content-Length", "Etag", "Last-Modified", "Trailer", "Transfer-Encoding"} {
		delete(h, stale)
	}
	refusalHeader(h, r.Code, status, r.RetryAfter, requestID)
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}
