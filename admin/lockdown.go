package admin

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
)

// lockdownJSON is what callers see of a lockdown.
type lockdownJSON struct {
	LockedDown bool       `json:"locked_down"`
	Since      *time.Time `json:"since,omitempty"`
	By         string     `json:"by,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	// Durable is false while only memory knows of it, and a restart would end it.
	Durable    *bool `json:"durable,omitempty"`
	StreamsCut *int  `json:"streams_cut,omitempty"`
}

func lockdownOf(s *limiter.LockedDown) lockdownJSON {
	if s == nil {
		return lockdownJSON{}
	}
	o := lockdownJSON{LockedDown: true, By: s.By, Reason: s.Reason, Durable: &s.Durable}
	if !s.Since.IsZero() {
		o.Since = &s.Since
	}
	return o
}

// lockdown refuses every key at once. It needs no store.
func (a *api) lockdown(w http.ResponseWriter, r *http.Request) {
	var body revokeBody
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
func (a *api) lockdownSeen() lockdownJSON {
	o := lockdownOf(a.backend.Lockdown().State())
	if a.caller.Role == limiter.OperatorRole {
		return o
	}
	if l, err := a.backend.Limiter(); err != nil || !l.SeesReason(a.caller) {
		o.By, o.Reason = "", ""
	}
	return o
}

func lockdownCommand(f *common) *cobra.Command {
	var reason string
	var lift, status bool
	cmd := &cobra.Command{
		Use:   "lockdown",
		Short: "Refuses every key at once, until it is lifted",
		Long: `Refuses every key at once and cuts what runs. No key is changed: --lift lets
them all work again as before. It works while the store is closed, in doubt or
full, and survives a restart. Holders of keys are told the reason.`,
		Example: `  caddy till lockdown --reason "a key of ours is public"
  caddy till lockdown --status
  caddy till lockdown --lift`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lift && status || reason != "" && (lift || status) {
				return usage("--reason, --lift and --status exclude each other")
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			method, body := "POST", any(map[string]string{"reason": reason})
			switch {
			case lift:
				method, body = "DELETE", nil
			case status:
				method, body = "GET", nil
			}
			raw, err := c.raw(cmd.Context(), method, "/lockdown", body)
			if err != nil {
				return err
			}
			var s lockdownJSON
			if err := readable(raw, &s); err != nil {
				return err
			}
			if s.Durable != nil && !*s.Durable {
				fmt.Fprintln(cmd.ErrOrStderr(), "Warning: not yet durable, so a restart would end it; the server's log says why.")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), s.text())
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why: holders of keys are told, too")
	cmd.Flags().BoolVar(&lift, "lift", false, "let keys work again")
	cmd.Flags().BoolVar(&status, "status", false, "only say whether there is a lockdown")
	return cmd
}

func (s lockdownJSON) text() string {
	if !s.LockedDown {
		return "Keys work: there is no lockdown.\n"
	}
	text := "Every key is refused"
	if s.Since != nil {
		text += " since " + s.Since.Format("2006-01-02 15:04:05 MST")
	}
	if s.By != "" {
		text += ", by " + s.By
	}
	text += ".\n"
	if s.Reason != "" {
		text += "  Reason: " + s.Reason + "\n"
	}
	if s.StreamsCut != nil {
		text += "  Ended: " + counted(int64(*s.StreamsCut), "running request") + "\n"
	}
	return text + "Lift it with: caddy till lockdown --lift\n"
}
