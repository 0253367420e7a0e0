package admin

import (
	"errors"
	"net/http"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

func lockdownOf(s *limiter.LockedDown) wire.LockdownJSON {
	if s == nil {
		return wire.LockdownJSON{}
	}
	o := wire.LockdownJSON{LockedDown: true, By: s.By, Reason: s.Reason, Durable: &s.Durable}
	if !s.Since.IsZero() {
		o.Since = &s.Since
	}
	return o
}

// lockdown refuses every key at once. It needs no store.
func (a *api) lockdown(w http.ResponseWriter, r *http.Request) {
	var body wire.RevokeBody
	if err := readOptionalBody(r, &body); err != nil {
		a.fail(w, err)
		return
	}
	s, cut, err := a.backend.Lockdown().Set(a.caller, body.Reason, time.Now())
	if err != nil {
		a.fail(w, err)
		return
	}
	answer := lockdownOf(&s)
	answer.StreamsCut = &cut
	a.write(w, http.StatusOK, answer)
}

func (a *api) liftLockdown(w http.ResponseWriter, _ *http.Request) {
	err := a.backend.Lockdown().Lift(a.caller)
	if err != nil && !errors.Is(err, limiter.ErrNotLocked) {
		a.fail(w, err)
		return
	}
	a.write(w, http.StatusOK, lockdownOf(nil))
}

func (a *api) showLockdown(w http.ResponseWriter, _ *http.Request) {
	a.write(w, http.StatusOK, a.lockdownSeen())
}

// lockdownSeen is what the caller is told of the lockdown that is in force. While
// the store is closed, nothing is known of roles.
func (a *api) lockdownSeen() wire.LockdownJSON {
	o := lockdownOf(a.backend.Lockdown().State())
	if a.caller.Role == limiter.OperatorRole {
		return o
	}
	if l, err := a.backend.Limiter(); err != nil || !l.SeesReason(a.caller) {
		o.By, o.Reason = "", ""
	}
	return o
}
