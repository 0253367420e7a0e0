package admin

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// Load balancers and supervisors ask two questions, which have different answers while
// a database is away: whether the process is worth keeping, and whether to send it
// requests. Neither answer has a secret, and neither needs a token.

// Probe answers GET /till/live and GET /till/ready, and reports whether the request
// was one of them. ready returns why nothing is admitted now, or nil.
func Probe(w http.ResponseWriter, r *http.Request, ready func() error) bool {
	var answer func(http.ResponseWriter)
	switch r.URL.Path {
	case wire.BasePath + "/live":
		answer = live
	case wire.BasePath + "/ready":
		answer = func(w http.ResponseWriter) { isReady(w, ready()) }
	default:
		return false
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		probed(w, http.StatusMethodNotAllowed, "ask with GET")
		return true
	}
	answer(w)
	return true
}

func live(w http.ResponseWriter) { probed(w, http.StatusOK, "live") }

func isReady(w http.ResponseWriter, err error) {
	switch {
	case caddy.Exiting():
		probed(w, http.StatusServiceUnavailable, "not ready: the server is stopping")
	case err != nil:
		w.Header().Set("Retry-After", "2")
		probed(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
	default:
		probed(w, http.StatusOK, "ready")
	}
}

// probed writes one line. A prober that has gone does not matter.
func probed(w http.ResponseWriter, status int, line string) {
	announce(w, "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n")
}

func (a *api) live(_ *limiter.Limiter, w http.ResponseWriter, _ *http.Request) { live(w) }

func (a *api) ready(_ *limiter.Limiter, w http.ResponseWriter, _ *http.Request) {
	isReady(w, a.backend.Ready())
}
