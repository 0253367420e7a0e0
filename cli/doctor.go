package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

// clockSkew is how far two clocks may be apart before that is a finding.
const clockSkew = 30 * time.Second

func doctorCommand(f *globalFlags) *cobra.Command {
	var config, adapter string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Finds what is wrong, and says how to fix it",
		Long: `Finds what a careful operator would change: secrets that others can read, keys
without limits, an admin endpoint that agents can reach, a store in doubt and
more, each with a fix. With --config it examines a configuration file instead of
a running server.

It exits with 1 if it finds an error, and with 0 if there are only warnings.`,
		Example: `  caddy till doctor
  caddy till doctor --config /etc/caddy/Caddyfile
  caddy till doctor --json | jq -r '.findings[] | .check'`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var d wire.Diagnosis
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
	cmd.Flags().StringVar(&config, "config", "", "examine this configuration file")
	cmd.Flags().StringVar(&adapter, "adapter", "", "its format, if the name of the file does not say it")
	return cmd
}

// diagnoseServer asks the server, and adds the findings that only a client can have.
func (f *globalFlags) diagnoseServer(ctx context.Context) (wire.Diagnosis, error) {
	c, err := f.client()
	if err != nil {
		return wire.Diagnosis{}, err
	}
	var answer wire.DoctorAnswer
	before := time.Now()
	if err := c.call(ctx, "GET", "/doctor", nil, &answer); err != nil {
		return wire.Diagnosis{}, err
	}
	found := answer.Findings
	// The server read its clock at some time between the request and the answer.
	ahead, behind := time.Until(answer.Now), before.Sub(answer.Now)
	if off := max(ahead, behind); off > clockSkew {
		found = append(found, wire.Finding{Check: "clock", Level: wire.LevelWarning,
			What: fmt.Sprintf("the server's clock and the one here are %s apart", off.Round(time.Second)), Fix: "timedatectl set-ntp true, on the one that is wrong"})
	}
	if strings.HasPrefix(c.base, "http://") && c.token != "" && !loopbackURL(c.base) {
		found = append(found, wire.Finding{Check: "plain_http", Level: wire.LevelError,
			What: "TILL_TOKEN is sent to " + c.where + " unencrypted", Fix: "use https: TILL_ADDRESS=https://HOST/till/api, and revoke the token, which others may have read: caddy till token revoke NAME"})
	}
	d := wire.NewDiagnosis(found)
	d.Files = answer.Files
	return d, nil
}

// diagnoseFile examines a configuration as Caddy would load it. It starts nothing
// and opens no store.
func diagnoseFile(path, adapter string) (wire.Diagnosis, error) {
	raw, _, _, err := caddycmd.LoadConfig(path, adapter)
	if err != nil {
		return wire.Diagnosis{}, err
	}
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(raw, cfg); err != nil {
		return wire.Diagnosis{}, fmt.Errorf("%s: %w", path, err)
	}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return wire.Diagnosis{}, fmt.Errorf("%s: %w", path, err)
	}
	app, err := ctx.AppIfConfigured("till")
	backend, ok := app.(interface{ Diagnose() []wire.Finding })
	if err != nil || !ok {
		return wire.Diagnosis{}, fmt.Errorf("%s has no till app: add a till block to its global options", path)
	}
	return wire.NewDiagnosis(backend.Diagnose()), nil
}

// printDiagnosis prints findings in 80 columns, but breaks no word, because
// commands are to be pasted.
func printDiagnosis(w io.Writer, d wire.Diagnosis) error {
	var b strings.Builder
	for _, f := range d.Findings {
		head := strings.Fields(strings.ToUpper(string(f.Level)) + " " + f.Check + ": " + f.What)
		b.WriteString(strings.Join(wrap(head, " ", tableWidth-2), "\n  ") + "\n")
		if fix := wrap(strings.Fields(f.Fix), " ", tableWidth-7); len(fix) > 0 {
			b.WriteString("  fix: " + strings.Join(fix, "\n       ") + "\n")
		}
		b.WriteByte('\n')
	}
	for _, f := range d.Files {
		said := f.What + " (" + strings.Join(f.Paths, ", ") + "): last read " + clockTime(f.ReadAt) + ", "
		switch {
		case f.ReadAt.IsZero(): // the server has only just started
			said = strings.TrimSuffix(said, "last read never, ") + "not read yet"
		case f.Trouble != "":
			said += "and the present content is not in force"
		case f.ChangedAt == nil:
			said += "unchanged since the start"
		default:
			said += "changed " + clockTime(*f.ChangedAt)
		}
		b.WriteString(strings.Join(wrap(strings.Fields(said), " ", tableWidth-2), "\n  ") + "\n")
	}
	if len(d.Files) > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s, %s\n", prose.Counted(int64(d.Errors), "error"), prose.Counted(int64(d.Warnings), "warning"))
	_, err := io.WriteString(w, b.String())
	return err
}

// clockTime writes a time for people; the zero time is "never".
func clockTime(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return at.Local().Format("2006-01-02 15:04:05")
}

// loopbackURL reports whether the host of a URL is this machine.
func loopbackURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
