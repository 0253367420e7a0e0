package admin

import (
	"net/http"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// stats answers also while the store is closed, and then says why.
func (a *api) stats(w http.ResponseWriter, r *http.Request) {
	lockdown := a.lockdownSeen()
	l, err := a.backend.Limiter()
	if err != nil {
		why := token.Scrub(err.Error())
		message := why
		if lockdown.LockedDown {
			message += "; and a lockdown is in force"
		}
		a.write(w, http.StatusServiceUnavailable, map[string]any{
			"error":         map[string]string{"code": "store_unavailable", "message": message},
			"store_failure": why, "lockdown": lockdown,
		})
		return
	}
	s := l.Stats()
	trouble := ""
	if err := l.Trouble(r.Context()); err != nil {
		trouble = token.Scrub(err.Error())
	}
	a.write(w, http.StatusOK, map[string]any{
		"keys": s.Keys, "holds": s.Holds, "forfeited_activations": s.Forfeited,
		"used_activations": s.Used[limiter.Activations], "used_tokens": s.Used[limiter.Tokens],
		"used_spend_usd":        limiter.FormatUSD(s.Used[limiter.Nanodollars]),
		"forgotten_activations": s.Forgotten[limiter.Activations], "store_failure": trouble,
		"clock_off_seconds": int64(s.ClockOff.Seconds()), "lockdown": lockdown,
	})
}
