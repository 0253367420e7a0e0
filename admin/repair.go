package admin

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

// repair mends a store that does not agree with its anchor.
func (a *api) repair(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Forfeit bool `json:"forfeit"`
	}
	if err := readBody(r, &ask); err != nil {
		a.fail(w, err)
		return
	}
	if !ask.Forfeit {
		a.fail(w, invalid(`a repair spends every remaining budget: say {"forfeit": true}`))
		return
	}
	done, err := a.backend.Forfeit()
	if err != nil {
		a.fail(w, &apiError{http.StatusConflict, "not_repaired", err.Error()})
		return
	}
	a.log.Warn("the store was repaired", "by", a.caller.Name, "keys", done.Keys, "forfeited", done.Forfeited, "suspended", done.Suspended)
	a.write(w, http.StatusOK, map[string]any{"keys": done.Keys, "forfeited": done.Forfeited, "suspended": done.Suspended})
}

func repairCommand(f *common) *cobra.Command {
	var forfeit bool
	cmd := &cobra.Command{
		Use:   "repair --forfeit",
		Short: "Opens a store in doubt by spending what is left of budgets",
		Long: `A store that is older than what it had acknowledged (a restored backup, a
damaged disk, a lost anchor) stays closed, and every key is refused. First look
whether the newest store and its anchor can be put in place. If not, this counts
the remaining budget of every key as spent, suspends keys that only time limits
or whose budget renews, and opens the store. Then grant what you want to allow
again: caddy till grant KEY --activations 100, caddy till resume KEY.`,
		Example: "  caddy till stats\n  caddy till repair --forfeit",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !forfeit {
				return usage("a repair spends every remaining budget: say --forfeit")
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "POST", "/store/repair", map[string]bool{"forfeit": true})
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var done struct{ Keys, Forfeited, Suspended int64 }
			if err := json.Unmarshal(raw, &done); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "The store is open. Of %d keys, %d budgets count as spent and %d keys are suspended.\n", done.Keys, done.Forfeited, done.Suspended)
			return err
		},
	}
	cmd.Flags().BoolVar(&forfeit, "forfeit", false, "count every remaining budget as spent")
	return cmd
}
