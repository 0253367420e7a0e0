package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// stats answers even while the store is closed, and then says why it is closed.
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
	var nodes []wire.NodeJSON
	if l.Allows(a.caller, record.Everything) {
		if nodes, err = nodesOf(l, a.backend.Node()); err != nil {
			a.log.Warn("listing the nodes", "error", err) // the store's trouble says why
		}
	}
	trouble := ""
	if err := l.Trouble(r.Context()); err != nil {
		trouble = token.Scrub(err.Error())
	}
	answer := map[string]any{
		"keys": s.Keys, "holds": s.Holds, "forfeited_activations": s.Forfeited,
		"used_activations": s.Used[record.Activations], "used_tokens": s.Used[record.Tokens],
		"used_spend_usd":        record.FormatUSD(s.Used[record.Nanodollars]),
		"forgotten_activations": s.Forgotten[record.Activations], "store_failure": trouble,
		"clock_off_seconds": int64(s.ClockOff.Seconds()), "lockdown": lockdown,
	}
	if len(nodes) > 0 {
		answer["nodes"] = nodes
	}
	a.write(w, http.StatusOK, answer)
}

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
	answer.StreamsCut, answer.Pending = &cut, s.Pending
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

// lockdownSeen returns what the caller may see of the lockdown in force. While the
// store is closed, the roles are not known.
func (a *api) lockdownSeen() wire.LockdownJSON {
	o := lockdownOf(a.backend.Lockdown().State())
	if a.caller.Role == record.OperatorRole {
		return o
	}
	if l, err := a.backend.Limiter(); err != nil || !l.SeesReason(a.caller) {
		o.By, o.Reason = "", ""
	}
	return o
}

// repair opens a store that does not agree with its anchor, or makes the limiter
// trust the machine's clock again.
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
	case ask.Clock && a.backend.Node() != "" && a.caller.Role == record.OperatorRole:
		a.fail(w, &apiError{http.StatusConflict, "not_repaired", "limits are judged by the database's clock, so there is nothing to repair here: set the clock of its machine, and till follows"})
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

// ErrNoConsole is returned if no link can be made because there is no console.
var ErrNoConsole = &apiError{http.StatusConflict, "no_console",
	"the server does not know the console's address: serve till_console on a site of its own, and set console_url in the global till block"}

// consoleLink makes a link that signs in as its caller, who must be the operator.
// It works even while the store is closed.
func (a *api) consoleLink(w http.ResponseWriter, _ *http.Request) {
	if a.caller.Role != record.OperatorRole {
		a.fail(w, fmt.Errorf("%w: only the operator makes links that sign in", limiter.ErrForbidden))
		return
	}
	address, expires, err := a.backend.SignInLink(a.caller)
	if err != nil {
		a.fail(w, err)
		return
	}
	a.write(w, http.StatusCreated, wire.Link{URL: address.Reveal(), ExpiresAt: expires.UTC()})
}

func (a *api) webhooks(l *limiter.Limiter, r *http.Request) (int, any, error) {
	hooks, err := l.ListHooks(r.Context(), a.caller)
	if err != nil {
		return 0, nil, err
	}
	answer := wire.WebhooksAnswer{Webhooks: make([]wire.WebhookState, 0, len(hooks))}
	for _, h := range hooks {
		s := wire.WebhookState{Events: h.Events, Pending: h.Pending, Dropped: h.Dropped, Delivery: a.backend.Delivery(h.URL)}
		if u, err := url.Parse(h.URL); err == nil {
			u.RawQuery, u.User = "", nil
			s.URL = u.String()
		}
		answer.Webhooks = append(answer.Webhooks, s)
	}
	return http.StatusOK, answer, nil
}
