package admin

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// SignInLink is an address that signs in to the console once.
type SignInLink struct {
	// URL has the secret in its fragment, which browsers send nowhere.
	URL       token.Secret
	ExpiresAt time.Time
}

// ErrNoConsole says that no link can be made.
var ErrNoConsole = &apiError{http.StatusConflict, "no_console",
	"the server does not know the console's address: serve till_console on a site of its own, and set console_url in the global till block"}

// link is a SignInLink as the management API tells it, once.
type link struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// consoleLink makes a link that signs in as its caller, who is the operator:
// also while the store is closed.
func (a *api) consoleLink(w http.ResponseWriter, _ *http.Request) {
	if a.caller.Role != limiter.OperatorRole {
		a.fail(w, fmt.Errorf("%w: only the operator makes links that sign in", limiter.ErrForbidden))
		return
	}
	made, err := a.backend.SignInLink(a.caller)
	if err != nil {
		a.fail(w, err)
		return
	}
	a.write(w, http.StatusCreated, link{made.URL.Reveal(), made.ExpiresAt.UTC()})
}

func consoleCommand(f *common) *cobra.Command {
	return &cobra.Command{
		Use:   "console",
		Short: "Prints a link that signs in to the dashboard",
		Long: `Prints a link that opens the dashboard, signed in with your own rights. It works
once, for ten minutes. Who has no such rights signs in with an admin token.`,
		Example: "  caddy till console",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "POST", "/console/link", nil)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var made link
			if err := readable(raw, &made); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Open the dashboard, once, within ten minutes:\n\n  %s\n", made.URL)
			return err
		},
	}
}
