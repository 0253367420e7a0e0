package till

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// guard runs the handlers that follow. What they do with the request cannot
// be seen, so it counts as dispatched from here on.
func (h *Handler) guard(w http.ResponseWriter, r *http.Request, x *exchange, next caddyhttp.Handler) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if !x.begin(cancel) {
		return h.refuse(w, x.target, x.path, x.grant.Cut(), 0)
	}
	x.dispatched.Store(true)
	gw := &guardWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, x: x}
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) || !h.endStream(w, gw, x) {
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
		return nil
	}
	status := statusOf(err)
	if status == 0 {
		status = http.StatusInternalServerError
	}
	return h.failed(w, x, err, status)
}

// endStream ends an event stream that was cut with an error event. It reports
// whether it did.
func (h *Handler) endStream(w http.ResponseWriter, gw *guardWriter, x *exchange) bool {
	cut := x.grant.Cut()
	kind, _, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if cut == nil || gw.status == 0 || err != nil || kind != "text/event-stream" || w.Header().Get("Content-Length") != "" {
		return false
	}
	dialect, told := x.target.preset.Dialect, x.refusal(cut)
	for _, words := range [][]byte{append([]byte("\n\n"), dialect.StreamError(x.path, told)...), dialect.StreamEnd(x.path, told)} {
		if _, err := w.Write(words); err != nil || http.NewResponseController(w).Flush() != nil {
			return false
		}
	}
	return true
}

// guardWriter sees which status a guarded handler answers with.
type guardWriter struct {
	*caddyhttp.ResponseWriterWrapper
	x      *exchange
	status int
}

func (w *guardWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.note(status)
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *guardWriter) Write(b []byte) (int, error) {
	w.note(http.StatusOK)
	return w.ResponseWriterWrapper.Write(b)
}

// ReadFrom is here because the embedded one would go past Write.
func (w *guardWriter) ReadFrom(r io.Reader) (int64, error) {
	w.note(http.StatusOK)
	return w.ResponseWriterWrapper.ReadFrom(r)
}

func (w *guardWriter) note(status int) {
	if w.status == 0 {
		w.status = status
		w.x.status.Store(int32(status))
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*guardWriter)(nil)
	_ io.ReaderFrom       = (*guardWriter)(nil)
)
