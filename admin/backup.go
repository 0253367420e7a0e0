package admin

import (
	"errors"
	"net/http"

	"github.com/till-proxy/till/limiter"
)

// backup streams a backup to the caller. One that breaks off has no checksum,
// so nobody takes it for a whole one.
func (a *api) backup(w http.ResponseWriter, r *http.Request) {
	withSalts := false
	switch seal := r.URL.Query().Get("seal"); seal {
	case "", "false":
	case "true":
		withSalts = true
	default:
		a.fail(w, invalid("seal must be true or false, got %q", seal))
		return
	}
	l, err := a.backend.Limiter()
	if err != nil {
		a.fail(w, &apiError{http.StatusServiceUnavailable, "store_unavailable", err.Error()})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	out := newDownload(w)
	keys, err := l.Backup(r.Context(), a.caller, out, withSalts)
	if errors.Is(err, limiter.ErrForbidden) { // nothing was written
		a.fail(w, err)
		return
	}
	if err == nil {
		err = out.end()
	}
	if err != nil {
		a.log.Error("a backup broke off", "by", a.caller.Name, "error", err)
		panic(http.ErrAbortHandler)
	}
	a.log.Info("a backup was taken", "by", a.caller.Name, "keys", keys, "with_salts", withSalts)
}
