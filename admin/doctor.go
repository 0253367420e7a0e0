package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
)

// doctor answers with what is amiss, also while the store is closed. Everybody
// with a token may ask: the operator is told about the server, others about the
// keys and tokens that they see.
func (a *api) doctor(w http.ResponseWriter, r *http.Request) {
	var findings []Finding
	var files []File
	l, err := a.backend.Limiter()
	if a.caller.Role == limiter.OperatorRole {
		findings = append(findings, a.backend.Diagnose()...)
		findings = append(findings, a.storeFindings(r.Context())...)
		files = a.backend.Files()
		if s := a.backend.Lockdown().State(); s != nil {
			findings = append(findings, Finding{"lockdown", LevelWarning, "a lockdown is in force: every key is refused", "caddy till lockdown --lift"})
		}
	}
	if err == nil && l.Failed() == nil {
		for permission, look := range map[limiter.Permission]func(context.Context, *limiter.Limiter, limiter.Caller) ([]Finding, error){
			limiter.KeysRead: keyFindings, limiter.TokensManage: tokenFindings,
		} {
			if !l.Allows(a.caller, permission) {
				continue
			}
			more, err := look(r.Context(), l, a.caller)
			if err != nil {
				a.fail(w, err)
				return
			}
			findings = append(findings, more...)
		}
	}
	answer := doctorAnswer{newDiagnosis(findings), time.Now().UTC()}
	answer.Files = files
	a.write(w, http.StatusOK, answer)
}

// storeFindings are about the store as it runs.
func (a *api) storeFindings(ctx context.Context) []Finding {
	l, err := a.backend.Limiter()
	var off time.Duration
	if err == nil {
		err, off = l.Trouble(ctx), l.Stats().ClockOff
	}
	return stateFindings(err, off)
}

func stateFindings(failed error, clockOff time.Duration) []Finding {
	switch {
	case errors.Is(failed, limiter.ErrDoubt):
		return []Finding{{"store", LevelError, "the store is in doubt, and every key is refused: " + withoutKeys(failed.Error()),
			"put the newest store and its anchor in place and restart; or count every budget as spent: caddy till repair --forfeit"}}
	case failed != nil:
		return []Finding{{"store", LevelError, "the store does not work, and keys are refused: " + withoutKeys(failed.Error()),
			"mend the cause (space, permissions, the disk, another process); it goes on by itself"}}
	case clockOff != 0:
		return []Finding{{"clock", LevelError, fmt.Sprintf("the machine's clock was set by %s, and is not followed", clockOff.Round(time.Second)),
			"timedatectl set-ntp true; when the clock is right: caddy till repair --clock"}}
	}
	return nil
}

// clockSkew is how far two clocks may be apart before somebody is told.
const clockSkew = 30 * time.Second

func doctorCommand(f *common) *cobra.Command {
	var config, adapter string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Looks for what is amiss, and says how to mend it",
		Long: `Looks for what a careful operator would change: secrets that others can read,
keys without limits, an admin endpoint that agents can reach, a store in doubt
and more, each with what mends it. With --config it looks at a configuration
file instead of a running server.

It exits with 1 when it finds an error, and with 0 when there are only warnings.`,
		Example: `  caddy till doctor
  caddy till doctor --config /etc/caddy/Caddyfile
  caddy till doctor --json | jq -r '.findings[] | .check'`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var d diagnosis
			var err error
			if config != "" {
				d, err = diagnoseFile(config, adapter)
			} else {
				d, err = f.diagnoseServer(cmd.Context())
			}
			if err != nil {
				return err
			}
			if f.json {
				err = printValue(cmd.OutOrStdout(), d)
			} else {
				err = printDiagnosis(cmd.OutOrStdout(), d)
			}
			if err == nil && d.Errors > 0 {
				err = &statusError{code: exitFailed}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "look at this configuration file")
	cmd.Flags().StringVar(&adapter, "adapter", "", "its format, where the file's name does not say it")
	return cmd
}

// diagnoseServer asks the server, and adds what only its client can see.
func (f *common) diagnoseServer(ctx context.Context) (diagnosis, error) {
	c, err := f.client()
	if err != nil {
		return diagnosis{}, err
	}
	var answer doctorAnswer
	before := time.Now()
	if err := c.call(ctx, "GET", "/doctor", nil, &answer); err != nil {
		return diagnosis{}, err
	}
	found := answer.Findings
	// The server read its clock somewhere between question and answer.
	ahead, behind := time.Until(answer.Now), before.Sub(answer.Now)
	if off := max(ahead, behind); off > clockSkew {
		found = append(found, Finding{"clock", LevelWarning,
			fmt.Sprintf("the server's clock and the one here are %s apart", off.Round(time.Second)), "timedatectl set-ntp true, on the one that is wrong"})
	}
	if strings.HasPrefix(c.base, "http://") && c.token != "" && !loopbackURL(c.base) {
		found = append(found, Finding{"plain_http", LevelError,
			"TILL_TOKEN goes to " + c.where + " unencrypted", "reach it by https: TILL_ADDRESS=https://HOST/till/api, and give whoever could listen no working token: caddy till token revoke NAME"})
	}
	d := newDiagnosis(found)
	d.Files = answer.Files
	return d, nil
}

// diagnoseFile looks at a configuration as Caddy would load it. Nothing is
// started and no store is opened.
func diagnoseFile(path, adapter string) (diagnosis, error) {
	raw, _, _, err := caddycmd.LoadConfig(path, adapter)
	if err != nil {
		return diagnosis{}, err
	}
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(raw, cfg); err != nil {
		return diagnosis{}, fmt.Errorf("%s: %w", path, err)
	}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return diagnosis{}, fmt.Errorf("%s: %w", path, err)
	}
	app, err := ctx.AppIfConfigured("till")
	backend, ok := app.(Backend)
	if err != nil || !ok {
		return diagnosis{}, fmt.Errorf("%s has no till app: add a till block to its global options", path)
	}
	return newDiagnosis(backend.Diagnose()), nil
}

// printDiagnosis shows findings in 80 columns; what is to be pasted stays whole.
func printDiagnosis(w io.Writer, d diagnosis) error {
	var b strings.Builder
	for _, f := range d.Findings {
		head := strings.ToUpper(string(f.Level))
		for i, line := range wrap(strings.Fields(head+" "+f.Check+": "+f.What), " ", tableWidth-2) {
			if i > 0 {
				line = "  " + line
			}
			b.WriteString(line + "\n")
		}
		for i, line := range wrap(strings.Fields(f.Fix), " ", tableWidth-7) {
			prefix := "  fix: "
			if i > 0 {
				prefix = "       "
			}
			b.WriteString(prefix + line + "\n")
		}
		b.WriteByte('\n')
	}
	for _, f := range d.Files {
		said := f.What + " (" + strings.Join(f.Paths, ", ") + "): looked at " + clockTime(f.ReadAt) + ", "
		switch {
		case f.ReadAt.IsZero(): // the server has just started
			said = strings.TrimSuffix(said, "looked at never, ") + "not looked at yet"
		case f.Trouble != "":
			said += "and what it holds now is not in force"
		case f.ChangedAt == nil:
			said += "as it was at the start"
		default:
			said += "changed " + clockTime(*f.ChangedAt)
		}
		b.WriteString(strings.Join(wrap(strings.Fields(said), " ", tableWidth-2), "\n  ") + "\n")
	}
	if len(d.Files) > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s, %s\n", counted(int64(d.Errors), "error"), counted(int64(d.Warnings), "warning"))
	_, err := io.WriteString(w, b.String())
	return err
}

// clockTime is a time as people read it; the zero one has not come yet.
func clockTime(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return at.Local().Format("2006-01-02 15:04:05")
}

// loopbackURL reports whether a URL is on this machine.
func loopbackURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
