package admin

import (
	"errors"
	"net/http"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// repair mends a store that does not agree with its anchor, or believes the
// machine's clock again.
func (a *api) repair(w http.ResponseWriter, r *http.Request) {
	var ask wire.RepairBody
	if err := readBody(r, &ask); err != nil {
		a.fail(w, err)
		return
	}
	switch {
	case ask.Forfeit == ask.Clock:
		a.fail(w, invalid(`say what to repair: {"forfeit": true}, which spends every remaining budget, or {"clock": true}`))
		return
	case ask.Clock:
		a.handle(func(l *limiter.Limiter, r *http.Request) (int, any, error) {
			now, err := l.RepairClock(r.Context(), a.caller)
			return http.StatusOK, map[string]any{"now": now}, err
		}).ServeHTTP(w, r)
		return
	}
	done, err := a.backend.Forfeit(a.caller)
	if errors.Is(err, limiter.ErrForbidden) {
		a.fail(w, err)
		return
	}
	if err != nil {
		a.fail(w, &apiError{http.StatusConflict, "not_repaired", err.Error()})
		return
	}
	a.log.Warn("the store was repaired", "by", a.caller.Name, "keys", done.Keys, "forfeited", done.Forfeited, "suspended", done.Suspended, "tokens_revoked", done.Tokens)
	a.write(w, http.StatusOK, map[string]any{"keys": done.Keys, "forfeited": done.Forfeited, "suspended": done.Suspended, "tokens_revoked": done.Tokens})
}
