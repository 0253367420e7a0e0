// Package cli is the command line, caddy till: the commands with which people
// manage keys, and the client of the management API that the commands use.
//
// It decides nothing about keys. It knows a server only by its answers, in the
// types of package wire. Only restore opens a store itself, while no server runs,
// and only audit verify checks an export without a server.
package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/till-proxy/till/token"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "till",
		Usage: "<command>",
		Short: "Turns one real API key into disposable ones with hard limits",
		Long: `
Mints and manages scoped keys: credentials that work like a real API key until
a limit is reached.

All commands except up call a running server: the one that "till up" started,
if it is running, otherwise the one at the socket /run/caddy/admin.sock, and
otherwise Caddy's admin endpoint (localhost:2019). Name another with --address
or TILL_ADDRESS. TILL_TOKEN is sent as a bearer token; it needs an address,
because those three ask for no token.
With --json, commands print JSON. They exit with 0 on success, 1 when refused or
failed, 2 when called wrongly.`,
		CobraFunc: build,
	})
}

// These are the exit codes of commands that fail.
const (
	exitFailed = 1 // refused or failed
	exitUsage  = 2 // called wrongly
)

// statusError ends a command with its own exit status.
type statusError struct {
	code int
	err  error // nil: nothing is printed
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// usageError is a mistake in the way a command was called.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

// listError is an error that is printed with a list below it. The lines of the list
// are safe to print.
type listError struct {
	error
	list string
}

func (e *listError) Error() string { return e.error.Error() + ":\n" + e.list }
func (e *listError) Unwrap() error { return e.error }

// errorText is an error as it is printed: on one line, and on several only if it
// joins several errors or has a list.
func errorText(err error) string {
	switch e := err.(type) {
	case *listError:
		return printable(e.error.Error()) + ":\n" + e.list
	case *statusError:
		if e.err != nil {
			return errorText(e.err)
		}
	case interface{ Unwrap() []error }:
		var texts, lines []string
		for _, one := range e.Unwrap() {
			texts, lines = append(texts, one.Error()), append(lines, errorText(one))
		}
		if err.Error() == strings.Join(texts, "\n") { // and nothing was wrapped around them
			return strings.Join(lines, "\n")
		}
	}
	if list, ok := errors.AsType[*listError](err); ok { // wrapped in an error that adds something, such as the flag
		if head, ok := strings.CutSuffix(err.Error(), list.Error()); ok {
			return printable(head) + errorText(list)
		}
	}
	return printable(err.Error())
}

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// globalFlags are the flags of every command that calls a server.
type globalFlags struct {
	address string
	json    bool

	notes     io.Writer // standard error of the running command
	noteGiven bool      // tokenUnused was printed
}

func (f *globalFlags) client() (*client, error) {
	c, err := newClient(f.address)
	if err != nil {
		return nil, err
	}
	if f.notes != nil {
		c.notes = f.notes
	}
	c.verbatim = f.json
	if c.tokenless() && !f.noteGiven {
		f.noteGiven = true
		fmt.Fprintf(c.notes, tokenUnused, c.where)
	}
	return c, nil
}

// calling is the body of a command that does nothing before it has a client.
func (f *globalFlags) calling(run func(*cobra.Command, *client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		return run(cmd, c, args)
	}
}

func build(root *cobra.Command) {
	f := new(globalFlags)
	root.Example = `  caddy till up
  caddy till create --max-activations 500 --expires-in 24h
  caddy till list
  caddy till revoke nightly --reason "the contractor left"`
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", tableWidth)))
	root.SuggestionsMinimumDistance = 2
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := ""
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return exit(cmd, usage("there is no such command%s", hint))
	}
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	// Subcommands inherit this function.
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return exit(cmd, usage("%v", err)) })
	root.PersistentFlags().StringVar(&f.address, "address", "",
		"address of the management API: host:port, unix//path or a URL")
	root.PersistentFlags().BoolVar(&f.json, "json", false, "print JSON")
	root.AddCommand(upCommand(f), createCommand(f), listCommand(f), showCommand(f), staleCommand(f), updateCommand(f),
		suspendCommand(f), resumeCommand(f), revokeCommand(f), rotateCommand(f), grantCommand(f), forgetCommand(f),
		envCommand(f), statsCommand(f), liveCommand(f), readyCommand(f), nodesCommand(f), pricesCommand(f), repairCommand(f), backupCommand(f), restoreCommand(f), migrateCommand(f), sealCommand(f),
		leakCommand(f), lockdownCommand(f), runCommand(f), watchCommand(), doctorCommand(f), topCommand(f),
		tokenCommand(f), auditCommand(f), consoleCommand(f))
	f.complete(root)
	refuseEmptyFlags(root)
	f.prepare(root)
}

// prepare makes all commands below parent end by way of exit.
func (f *globalFlags) prepare(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		f.prepare(c)
		run, args := c.RunE, c.Args
		c.SilenceUsage, c.SilenceErrors = true, true
		c.Args = func(cmd *cobra.Command, given []string) error {
			err := args(cmd, given)
			if i := slices.Index(given, ""); err == nil && (i == 0 || i > 0 && cmd.Name() != runName) { // the arguments after CMD belong to CMD
				err = errors.New("an argument must not be empty; is a variable not set?")
			}
			if err != nil {
				return exit(cmd, &usageError{err.Error()})
			}
			return nil
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			cmd.SetOut(&display{Writer: cmd.OutOrStdout()})
			cmd.SetErr(&display{Writer: cmd.ErrOrStderr()})
			f.notes = cmd.ErrOrStderr()
			return exit(cmd, run(cmd, args))
		}
	}
}

// argCount returns the rule for a command's arguments: at least least and at most
// most of them, or any number if most is 0. Its errors do not quote the arguments,
// because one may be a key that was pasted in the wrong place.
func argCount(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		switch {
		case least == 0 && most == 0 && len(given) > 0:
			return usage("takes no arguments, only flags")
		case len(given) < least:
			return usage("name %s", what)
		case most > 0 && len(given) > most:
			return usage("takes one argument: %s", what)
		}
		return nil
	}
}

// exit prints an error, and turns it into one from which Caddy's command runner
// takes the exit code. It is printed here because Caddy would print it twice.
func exit(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	own, isOwn := errors.AsType[*statusError](err)
	_, isUsage := errors.AsType[*usageError](err)
	code := exitFailed
	switch {
	case isOwn:
		code = own.code
	case cmd.Name() == runName: // other codes are those of the command that it runs
		code = exitRun
	case isUsage:
		code = exitUsage
	}
	if !isOwn || own.err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "Error:", token.Scrub(errorText(err)))
	}
	if isUsage {
		fmt.Fprintf(cmd.ErrOrStderr(), "See: %s --help\n", cmd.CommandPath())
	}
	if code == exitFailed {
		return err // Caddy exits with 1
	}
	// For other codes Caddy's runner has its own error type, which is not exported.
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
}

func printJSON(w io.Writer, raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	return printValue(w, v)
}

func printValue(w io.Writer, v any) error { return encode(w, v, "  ") }

// encode writes a value as JSON that is safe for a terminal.
func encode(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escapeJSON(b.Bytes()))
	return err
}

// nonEmptyFlag is a flag whose value must not be empty; neither may an entry of a list.
type nonEmptyFlag struct{ pflag.Value }

// Set implements pflag.Value.
func (f nonEmptyFlag) Set(text string) error {
	entries := []string{text}
	if f.Type() != "string" && text != "" {
		list, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			return f.Value.Set(text) // its error says what is wrong
		}
		entries = list
	}
	for _, entry := range entries {
		if f.Type() == "stringToString" {
			if name, value, ok := strings.Cut(entry, "="); ok && (strings.TrimSpace(name) == "" || strings.TrimSpace(value) == "") {
				return errors.New("neither name nor value may be empty, as in NAME=VALUE")
			}
		}
		if strings.TrimSpace(entry) == "" {
			return errors.New("it must not be empty: leave the flag out for none (is a variable not set?)")
		}
	}
	return f.Value.Set(text)
}

// refuseEmptyFlags makes every flag of a command and of its subcommands a nonEmptyFlag.
func refuseEmptyFlags(cmd *cobra.Command) {
	wrap := func(flag *pflag.Flag) {
		switch flag.Value.Type() {
		case "stringSlice", "stringToString":
			flag.DefValue = "" // the help recognises an empty default only in the types that it knows
			fallthrough
		case "string":
			flag.Value = nonEmptyFlag{flag.Value}
		}
	}
	cmd.PersistentFlags().VisitAll(wrap)
	cmd.LocalNonPersistentFlags().VisitAll(wrap)
	for _, sub := range cmd.Commands() {
		refuseEmptyFlags(sub)
	}
}
