package admin

import (
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
)

// stats answers also while the store is closed, and then says why.
func (a *api) stats(w http.ResponseWriter, r *http.Request) {
	lockdown := a.lockdownSeen()
	l, err := a.backend.Limiter()
	if err != nil {
		why := withoutKeys(err.Error())
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
		trouble = withoutKeys(err.Error())
	}
	a.write(w, http.StatusOK, map[string]any{
		"keys": s.Keys, "holds": s.Holds, "forfeited_activations": s.Forfeited,
		"used_activations": s.Used[limiter.Activations], "used_tokens": s.Used[limiter.Tokens],
		"used_spend_usd":        limiter.FormatUSD(s.Used[limiter.Nanodollars]),
		"forgotten_activations": s.Forgotten[limiter.Activations], "store_failure": trouble,
		"clock_off_seconds": int64(s.ClockOff.Seconds()), "lockdown": lockdown,
	})
}

func statsCommand(f *common) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Shows the sums over all keys and the state of the store",
		Long: `Shows how many keys there are by status, how many requests run now, and whether
the store is in order.`,
		Example: "  caddy till stats --json | jq .holds",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "GET", "/stats", nil)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var s struct {
				Keys      map[string]int64
				Holds     int64
				Forfeited int64  `json:"forfeited_activations"`
				Used      int64  `json:"used_activations"`
				Tokens    int64  `json:"used_tokens"`
				Spend     string `json:"used_spend_usd"`
				Failure   string `json:"store_failure"`
				ClockOff  int64  `json:"clock_off_seconds"`
				Lockdown  lockdownJSON
			}
			if err := readable(raw, &s); err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, status := range sorted(s.Keys) {
				fmt.Fprintf(t, "Keys %s\t%d\n", status, s.Keys[status])
			}
			fmt.Fprintf(t, "Activations used, by all keys ever\t%d\nTokens\t%d\nSpend\t$%s\n", s.Used, s.Tokens, s.Spend)
			fmt.Fprintf(t, "Requests in flight\t%d\nForfeited by crashes, at most\t%d\n", s.Holds, s.Forfeited)
			store := "in order"
			if s.Failure != "" {
				store = "failed: " + s.Failure
			}
			fmt.Fprintf(t, "Store\t%s\n", store)
			if s.Lockdown.LockedDown {
				fmt.Fprintf(t, "Lockdown\tevery key is refused; lift it with: caddy till lockdown --lift\n")
			}
			if s.ClockOff != 0 {
				fmt.Fprintf(t, "Clock\tset by %s; if it is right now: caddy till repair --clock\n", time.Duration(s.ClockOff)*time.Second)
			}
			return t.Flush()
		},
	}
}
