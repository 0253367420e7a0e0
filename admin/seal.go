package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// ErrSealKeyNamed says that the configuration names the seal keys, so they are
// the operator's.
var ErrSealKeyNamed = errors.New("the configuration names the seal keys, so the server makes none: make one (openssl rand -base64 32 > FILE, mode 0600), put `seal_key {file.FILE}` before the others, and reload")

// sealKeyObject is a seal key as the management API shows it: never the key.
type sealKeyObject struct {
	ID string `json:"id"`
	// Seals says that new sealed keys are sealed with it.
	Seals bool `json:"seals"`
	// Opens says that the server has it.
	Opens bool `json:"opens"`
	// LiveKeys count the keys that need it, EndedKeys the exhausted and expired
	// ones that would need it again after a grant.
	LiveKeys  int64 `json:"live_keys"`
	EndedKeys int64 `json:"ended_keys"`
}

type sealKeysAnswer struct {
	SealKeys []sealKeyObject `json:"seal_keys"`
}

func (a *api) sealKeys(l *limiter.Limiter, r *http.Request) (int, any, error) {
	uses, err := l.SealUses(r.Context(), a.caller)
	if err != nil {
		return 0, nil, err
	}
	ids, err := a.backend.SealKeyIDs()
	if err != nil {
		return 0, nil, err
	}
	answer := sealKeysAnswer{SealKeys: []sealKeyObject{}}
	add := func(id token.SealKeyID, seals, opens bool) {
		use := uses[id]
		answer.SealKeys = append(answer.SealKeys, sealKeyObject{id.String(), seals, opens, use.Live, use.Ended})
		delete(uses, id)
	}
	for i, id := range ids {
		add(id, i == 0, true)
	}
	missing := make(map[string]token.SealKeyID, len(uses))
	for id := range uses {
		missing[id.String()] = id
	}
	for _, id := range sorted(missing) {
		add(missing[id], false, false)
	}
	return http.StatusOK, answer, nil
}

func (a *api) rotateSeal(l *limiter.Limiter, r *http.Request) (int, any, error) {
	if err := readOptionalBody(r, &struct{}{}); err != nil {
		return 0, nil, err
	}
	if err := l.Authorise(a.caller, limiter.Everything); err != nil {
		return 0, nil, err
	}
	switch err := a.backend.RotateSeal(a.caller); {
	case errors.Is(err, ErrSealKeyNamed):
		return 0, nil, &apiError{http.StatusConflict, "seal_key_configured", err.Error()}
	case err != nil:
		return 0, nil, err
	}
	return a.sealKeys(l, r)
}

func sealCommand(f *common) *cobra.Command {
	run := func(method, path string) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), method, path, nil)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var answer sealKeysAnswer
			if err := readable(raw, &answer); err != nil {
				return err
			}
			return printSealKeys(cmd, answer.SealKeys)
		}
	}
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Shows the server's seal keys, and which are still needed",
		Long: `Sealed keys carry the real key in their string, encrypted under the server's
seal key. This lists the seal keys, and how many keys need each: one that no key
needs any more can go.`,
		Example: "  caddy till seal\n  caddy till seal rotate",
		Args:    takes(0, 0, ""),
		RunE:    run("GET", "/seal"),
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Makes a new seal key; those before it still open",
		Long: `Makes a new seal key, which seals from now on. Those before it still open what
they sealed. Keys change over when they are rotated or minted anew; when a seal
key is needed by no key, remove its lines from the server's seal_key_file (by
default till/seal.key in Caddy's data directory): that takes effect by itself.

Where the configuration names the seal keys, make the new one by hand: see
docs/runbooks.md.`,
		Example: "  caddy till seal rotate",
		Args:    takes(0, 0, ""),
		RunE:    run("POST", "/seal/rotate"),
	})
	return cmd
}

func printSealKeys(cmd *cobra.Command, keys []sealKeyObject) error {
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SEAL KEY\tIT\tLIVE KEYS\tENDED KEYS")
	var idle, lost []string
	for _, k := range keys {
		does := "opens"
		switch {
		case k.Seals:
			does = "seals"
		case !k.Opens:
			does = "is missing"
			lost = append(lost, k.ID)
		case k.LiveKeys == 0 && k.EndedKeys == 0:
			idle = append(idle, k.ID)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\n", k.ID, does, k.LiveKeys, k.EndedKeys)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(lost) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Missing, so their keys do not open: %s\n", strings.Join(lost, " "))
	}
	if len(idle) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Not needed any more: %s\n", strings.Join(idle, " "))
	}
	return nil
}
