package admin

import (
	"fmt"
	"net/http"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// ErrNoConsole says that no link can be made.
var ErrNoConsole = &apiError{http.StatusConflict, "no_console",
	"the server does not know the console's address: serve till_console on a site of its own, and set console_url in the global till block"}

// consoleLink makes a link that signs in as its caller, who is the operator:
// also while the store is closed.
func (a *api) consoleLink(w http.ResponseWriter, _ *http.Request) {
	if a.caller.Role != limiter.OperatorRole {
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
