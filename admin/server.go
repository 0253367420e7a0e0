package admin

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// stats answers even while the store is closed, and then says why it is closed.
func (a *api) stats(_ *limiter.Limiter, r *http.Request) (any, error) {
	lockdown := a.lockdownSeen()
	l, err := a.backend.Limiter()
	if err != nil {
		why := token.Scrub(err.Error())
		message := why
		if lockdown.LockedDown {
			message += "; and a lockdown is in force"
		}
		return withStatus{http.StatusServiceUnavailable, wire.StatsClosed{
			Error: wire.Fault{Code: "store_unavailable", Message: message}, Lockdown: &lockdown, StoreFailure: why,
		}}, nil
	}
	s := l.Stats()
	var nodes []wire.NodeJSON
	if l.Allows(a.caller, record.Everything) {
		if all, err := l.Nodes(); err != nil {
			a.log.Warn("listing the nodes", "error", err) // the store's trouble says why
		} else {
			nodes = describeNodes(all, a.backend.Node())
		}
	}
	trouble := ""
	if err := cmp.Or(l.Trouble(r.Context()), s.Unread); err != nil {
		trouble = token.Scrub(err.Error())
	}
	return wire.StatsAnswer{
		Keys: s.Keys, Holds: s.Holds, ForfeitedActivations: s.Forfeited, ForgottenActivations: s.Forgotten[record.Activations],
		UsedActivations: s.Used[record.Activations], UsedTokens: s.Used[record.Tokens], UsedSpendUSD: record.FormatUSD(s.Used[record.Nanodollars]),
		StoreFailure: trouble, ClockOffSeconds: int64(s.ClockOff.Seconds()), Lockdown: lockdown, Nodes: nodes,
	}, nil
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
func (a *api) lockdown(_ *limiter.Limiter, r *http.Request) (any, error) {
	var body wire.RevokeBody
	if err := readOptionalBody(r, &body); err != nil {
		return nil, err
	}
	s, cut, err := a.backend.Lockdown().Set(a.caller, body.Reason)
	answer := lockdownOf(&s)
	answer.StreamsCut, answer.Pending = &cut, s.Pending
	return answer, err
}

func (a *api) liftLockdown(*limiter.Limiter, *http.Request) (any, error) {
	err := a.backend.Lockdown().Lift(a.caller)
	if errors.Is(err, limiter.ErrNotLocked) {
		err = nil
	}
	return lockdownOf(nil), err
}

func (a *api) showLockdown(*limiter.Limiter, *http.Request) (any, error) {
	return a.lockdownSeen(), nil
}

// lockdownSeen returns what the caller may see of the lockdown in force. While the
// store is closed, the roles are not known.
func (a *api) lockdownSeen() wire.LockdownJSON {
	o := lockdownOf(a.backend.Lockdown().State())
	o.Pending = a.backend.Lockdown().Untold()
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
func (a *api) repair(_ *limiter.Limiter, r *http.Request) (any, error) {
	var ask wire.RepairBody
	if err := readBody(r, &ask); err != nil {
		return nil, err
	}
	switch {
	case ask.Forfeit == ask.Clock:
		return nil, invalid(`say what to repair: {"forfeit": true}, which spends every remaining budget, or {"clock": true}`)
	case ask.Clock && ask.DryRun:
		return nil, invalid(`"dry_run" goes with "forfeit"`)
	case ask.Clock:
		l, err := a.limiter()
		if err != nil {
			return nil, err
		}
		now, err := l.RepairClock(a.caller)
		return wire.RepairedAnswer{Now: &now}, err
	}
	done, err := a.backend.Forfeit(a.caller, ask.DryRun)
	switch {
	case errors.Is(err, limiter.ErrForbidden):
		return nil, err
	case err != nil:
		return nil, &apiError{http.StatusConflict, "not_repaired", err.Error()}
	}
	if ask.DryRun {
		return repairedAnswer(&done), nil
	}
	a.log.Warn("the store was repaired", "by", a.caller.Name, "keys", done.Keys, "forfeited", done.Forfeited, "suspended", done.Suspended, "tokens_revoked", done.Tokens)
	return repairedAnswer(&done), nil
}

func repairedAnswer(done *limiter.Repaired) wire.RepairedAnswer {
	return wire.RepairedAnswer{Keys: &done.Keys, Forfeited: &done.Forfeited, Suspended: &done.Suspended, Tokens: &done.Tokens}
}

// ErrNoConsole is returned if no link can be made because there is no console.
var ErrNoConsole = &apiError{http.StatusConflict, "no_console",
	"the server does not know the console's address: serve till_console on a site of its own, and set console_url in the global till block"}

// consoleLink makes a link that signs in as its caller, who must be the operator.
// It works even while the store is closed, and where the audit log cannot be written:
// the server's log records every link.
func (a *api) consoleLink(*limiter.Limiter, *http.Request) (any, error) {
	var address token.Secret
	var expires time.Time
	err := limiter.MayLink(a.caller)
	if err == nil {
		if address, expires, err = a.backend.SignInLink(a.caller); err != nil {
			return nil, err
		}
		a.log.Warn("a link was made that signs in to the console", "by", a.caller.Name, "from", a.caller.From)
	}
	if l, closed := a.backend.Limiter(); closed == nil {
		if unwritten := l.AuditLink(a.caller); err == nil && unwritten != nil {
			a.log.Error("a link that signs in to the console is not in the audit log", "by", a.caller.Name, "from", a.caller.From, "error", unwritten)
		}
	}
	if err != nil {
		return nil, err
	}
	return wire.Link{URL: address.Reveal(), ExpiresAt: expires.UTC()}, nil
}

func (a *api) webhooks(l *limiter.Limiter, r *http.Request) (any, error) {
	hooks, err := l.ListHooks(a.caller)
	answer := wire.WebhooksAnswer{Webhooks: make([]wire.WebhookState, 0, len(hooks))}
	for _, h := range hooks {
		s := wire.WebhookState{Events: h.Events, Pending: h.Pending, Dropped: h.Dropped, Delivery: a.backend.Delivery(h.URL)}
		if u, err := url.Parse(h.URL); err == nil {
			u.RawQuery, u.User = "", nil
			s.URL = u.String()
		}
		answer.Webhooks = append(answer.Webhooks, s)
	}
	return answer, err
}
