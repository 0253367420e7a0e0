package till

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// guard runs the handlers that follow. What they do with the request cannot be
// observed, so the request counts as dispatched from here on.
func (h *Handler) guard(w http.ResponseWriter, r *http.Request, x *exchange, next caddyhttp.Handler) error {
	if expectsContinue(r) {
		closeIfUnread(w, r) // the handler may leave it unread
	}
	if x.unbuffered {
		body := &passingBody{ReadCloser: r.Body, x: x, left: r.ContentLength}
		r.Body = body
		defer func() {
			// net/http reads the rest of a body that nobody has closed before it answers.
			if !x.bodyRead.Load() && (body.closed.Load() || fullDuplex(r)) {
				closeAfterAnswer(w)
			}
		}()
	}
	for _, name := range overrides {
		delete(r.Header, name)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if !x.begin(cancel) {
		x.setRemainingHeaders(w.Header())
		return h.answerRefusal(w, r, x.target, x.path, x.grant.Cut(), 0)
	}
	x.dispatched.Store(true)
	gw := &guardWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, x: x, before: maps.Clone(w.Header()), method: r.Method}
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		err, ok := v.(error)
		switch {
		case !ok || !errors.Is(err, http.ErrAbortHandler):
			panic(v)
		case gw.status == 0 && x.grant.Cut() != nil:
			_ = h.instead(gw, x, nil, 0) // it always returns nil
		case !h.endStream(w, gw, x):
			panic(v)
		}
	}()
	err := next.ServeHTTP(gw, r.WithContext(ctx))
	if gw.status != 0 {
		if err != nil && !h.endStream(w, gw, x) {
			h.logger.Error("a guarded handler failed after it had begun to answer",
				zap.String("key_id", x.grant.Key().ID), zap.String("request_id", x.id()), zap.Error(err))
		}
		return nil
	}
	if err == nil && x.grant.Cut() == nil {
		x.setRemainingHeaders(w.Header())
		return nil
	}
	status := statusOf(err)
	status = cmp.Or(status, http.StatusInternalServerError)
	return h.instead(gw, x, err, status)
}

// instead answers if a guarded handler has begun no answer. Headers that it set after
// the request was cut are discarded, because they were meant for its own answer.
func (h *Handler) instead(gw *guardWriter, x *exchange, err error, status int) error {
	if x.grant.Cut() != nil {
		clear(gw.Header())
		maps.Copy(gw.Header(), gw.before)
	}
	return h.answerError(gw.ResponseWriter, x, err, status)
}

// endStream ends a cut event stream with an error event. It reports whether it did.
func (h *Handler) endStream(w http.ResponseWriter, gw *guardWriter, x *exchange) bool {
	cut := x.grant.Cut()
	kind, _, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if cut == nil || gw.status == 0 || err != nil || kind != "text/event-stream" || w.Header().Get("Content-Length") != "" {
		return false
	}
	dialect, answer := x.target.preset.Dialect, x.refusal(cut)
	for _, words := range [][]byte{append([]byte("\n\n"), dialect.StreamError(x.path, answer)...), dialect.StreamEnd(x.path, answer)} {
		if _, err := w.Write(words); err != nil || http.NewResponseController(w).Flush() != nil {
			return false
		}
	}
	return true
}

// guardWriter records the status of a guarded handler's answer. Once the request was
// cut it lets no answer begin: handlers that notice the end of their context answer in
// their own way, reverse_proxy with a bare 499.
type guardWriter struct {
	*caddyhttp.ResponseWriterWrapper
	x      *exchange
	before http.Header // of the answer, before the handler ran
	method string      // of the request
	status int
	left   int64 // bytes to come; below 0 if unknown
}

func (w *guardWriter) WriteHeader(status int) {
	if final := status >= 200 || status == http.StatusSwitchingProtocols; final && !w.begins(status) || w.status == 0 && w.x.grant.Cut() != nil {
		return
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *guardWriter) Write(b []byte) (int, error) {
	if !w.begins(http.StatusOK) {
		return 0, errCut
	}
	w.pass(int64(len(b)))
	return w.ResponseWriterWrapper.Write(b)
}

// ReadFrom exists because the embedded one would bypass Write.
func (w *guardWriter) ReadFrom(r io.Reader) (int64, error) {
	if !w.begins(http.StatusOK) {
		return 0, errCut
	}
	if w.left <= 1 {
		w.pass(w.left)
		return w.ResponseWriterWrapper.ReadFrom(r)
	}
	// The last byte is sent separately, after what has to happen before it.
	n, err := w.ResponseWriterWrapper.ReadFrom(io.LimitReader(r, w.left-1))
	if w.pass(n); err != nil || w.left > 1 {
		return n, err
	}
	w.pass(w.left)
	last, err := w.ResponseWriterWrapper.ReadFrom(r)
	return n + last, err
}

// watch finds out which byte is the last of the answer.
func (w *guardWriter) watch(status int) {
	if length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil {
		w.left = length
	}
	if bodiless(w.method, status) {
		w.left = 0
	}
	w.pass(0)
}

// pass notes that n bytes of the answer go on. After the last of them the client may
// send its next request.
func (w *guardWriter) pass(n int64) {
	if w.left < 0 {
		return
	}
	if w.left = max(w.left-n, 0); w.left == 0 {
		w.x.grant.Answered()
	}
}

// FlushError exists because a flush sends the header, too.
func (w *guardWriter) FlushError() error {
	if !w.begins(http.StatusOK) {
		return errCut
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// begins notes the status of an answer that begins. It reports false for an answer that
// must not begin any more.
func (w *guardWriter) begins(status int) bool {
	if w.status == 0 && w.x.grant.Cut() == nil {
		w.status = status
		w.x.status.Store(int32(status))
		w.x.setRemainingHeaders(w.Header())
		w.left = -1
		if w.x.grant.Counts() {
			w.watch(status)
		}
	}
	return w.status != 0
}

// Interface guards
var (
	_ http.ResponseWriter             = (*guardWriter)(nil)
	_ io.ReaderFrom                   = (*guardWriter)(nil)
	_ interface{ FlushError() error } = (*guardWriter)(nil)
)
