package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "till",
		Usage: "<command>",
		Short: "Turns one real API key into disposable ones with hard limits",
		Long: `
Mints and manages scoped keys: credentials that work like a real API key until
a limit is reached.

All commands but up talk to a running server: to the one that "till up"
started, if it lives, else to Caddy's admin endpoint (localhost:2019). Name
another with --address or TILL_ADDRESS. Commands print JSON with --json. They
exit with 0 when done, 1 when refused or failed, 2 when called wrongly.`,
		CobraFunc: build,
	})
}

// exitUsage is the exit code of a command that was called wrongly.
const exitUsage = 2

// usageError is a mistake in how a command was called.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// common are the flags of every command that talks to a server.
type common struct {
	address string
	json    bool
}

func (f *common) client() (*client, error) { return newClient(f.address) }

// build adds the subcommands.
func build(root *cobra.Command) {
	f := new(common)
	root.Args = cobra.NoArgs
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.PersistentFlags().StringVar(&f.address, "address", "",
		"address of the management API: host:port or unix//path")
	root.PersistentFlags().BoolVar(&f.json, "json", false, "print JSON")
	root.AddCommand(upCommand(), createCommand(f), listCommand(f), showCommand(f),
		suspendCommand(f), resumeCommand(f), revokeCommand(f), grantCommand(f),
		forgetCommand(f), envCommand(f), statsCommand(f))
	for _, c := range root.Commands() {
		run := c.RunE
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit(c, usage("%v", err)) })
		args := c.Args
		c.Args = func(cmd *cobra.Command, given []string) error {
			if args == nil {
				return nil
			}
			if err := args(cmd, given); err != nil {
				return exit(cmd, usage("%v", err))
			}
			return nil
		}
		c.RunE = func(cmd *cobra.Command, args []string) error { return exit(cmd, run(cmd, args)) }
	}
}

// exit turns an error into what Caddy's command runner exits with, after it
// was printed here: Caddy's own form repeats it.
func exit(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "Error:", err)
	var wrong *usageError
	if !errors.As(err, &wrong) {
		return err // Caddy exits with 1
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "See: %s --help\n", cmd.CommandPath())
	// Caddy's runner has an error type of its own for other codes.
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitUsage, nil })(cmd, nil)
}

func printJSON(w io.Writer, raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
