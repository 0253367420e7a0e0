package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

// These are the exit codes of `run` itself, in addition to those of its command.
// They are those of shells and env(1).
const (
	exitRun           = 125 // till itself failed
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the signal's number
)

const runName = "run"

// runLifetime is how long the key of a command lives at most, and by default.
const runLifetime = 24 * time.Hour

type runOptions struct {
	*globalFlags
	limits    limitFlags
	upstreams []string
	base      string
	pass      []string
}

func runCommand(f *globalFlags) *cobra.Command {
	o := &runOptions{globalFlags: f}
	cmd := &cobra.Command{
		Use:   runName + " [limits] -- CMD [ARG...]",
		Short: "Runs a command with a key of its own, which ends with it",
		Long: `Mints a key that lives 24 hours at most, and runs CMD with the variables that
point the upstream's SDKs and agent tools at this server: OPENAI_API_KEY,
ANTHROPIC_AUTH_TOKEN, GEMINI_API_KEY and so on, and always TILL_KEY and
TILL_BASE_URL. The real keys of every provider are removed from its environment,
as is TILL_TOKEN. When CMD ends, for whatever reason, the key is revoked, and
what it used is printed to standard error.

The key is revoked even if run itself is killed. If the entire machine stops,
the key ends by its time limit. Each --upstream gets its own key, with all of
these limits.

Signals are passed on to CMD, and run exits with its exit status: 128 plus the
signal if a signal ended it, 126 if it cannot be executed, 127 if it is not
found, and 125 if till itself failed.`,
		Example: `  caddy till run --max-activations 200 -- claude -p "fix the tests"
  caddy till run --max-spend-usd 5 --expires-in 2h -- node agent.mjs
  caddy till run --upstream openai --upstream anthropic \
      --max-tokens 1M -- python agent.py`,
		Args: argCount(1, 0, "the command to run: caddy till run --max-activations 200 -- CMD"),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	s := cmd.Flags()
	s.SetInterspersed(false) // the arguments after CMD belong to CMD
	s.StringSliceVar(&o.upstreams, "upstream", nil, "an upstream to mint a key for, repeatable (default: the only one)")
	alias(s, "upstream", "provider")
	o.limits.add(cmd)
	s.StringVar(&o.base, "base-url", "", "the address that CMD uses (default: the server's public_url)")
	s.StringSliceVar(&o.pass, "pass-env", nil, "a variable that CMD may see although it holds a credential")
	for _, name := range []string{"unlimited", "self-revoke"} {
		s.Lookup(name).Hidden = true // they make no sense for a key that ends with its command
	}
	return cmd
}

func (o *runOptions) run(cmd *cobra.Command, args []string) error {
	path, err := executable(args[0])
	if err != nil {
		return err
	}
	body, err := o.body(cmd, args[0])
	if err != nil {
		return err
	}
	if err := conceal(); err != nil {
		return fmt.Errorf("keeping the real keys from the command: %w", err)
	}
	c, err := o.client()
	if err != nil {
		return err
	}
	s := &session{cmd: cmd, client: c, signals: make(chan os.Signal, 16), began: time.Now()}
	signal.Notify(s.signals, relayed()...) // from here on, a signal must end in revocation
	defer signal.Stop(s.signals)

	// The watcher starts before a key is minted, so that no key is without a watcher.
	if s.watch, err = startWatcher(); err != nil {
		return fmt.Errorf("starting the process that revokes the key should this one be killed: %w", err)
	}
	status, err := 0, s.mint(o, body, args)
	if err == nil {
		status, err = s.execute(path)
	}
	err = errors.Join(err, s.finish(o.json, status))
	switch _, own := errors.AsType[*statusError](err); {
	case own:
		return err
	case err != nil && status != 0: // the command's status matters more
		fmt.Fprintln(cmd.ErrOrStderr(), "Error:", token.Scrub(errorText(err)))
		fallthrough
	case status != 0:
		return &statusError{code: status}
	}
	return err
}

// executable finds a command in the same way as a shell.
func executable(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot): // "." in PATH is intended
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", &statusError{exitNotFound, fmt.Errorf("%s: there is no such command", name)}
	}
	return "", &statusError{exitNotExecutable, fmt.Errorf("%s cannot be executed: %w", name, errors.Unwrap(err))}
}

// body returns the body with which all keys are minted.
func (o *runOptions) body(cmd *cobra.Command, command string) (map[string]any, error) {
	if len(o.upstreams) > 1 && o.limits.Changed("upstream-key") {
		return nil, usage("--upstream-key is the key of one upstream: name only one --upstream")
	}
	body, err := o.limits.fields(cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	switch at, in := body["expires_at"], body["expires_in"]; {
	case at != nil:
		end, err := time.Parse(time.RFC3339, at.(string))
		if err != nil {
			return nil, usage("--expires-at must be a time such as 2026-12-31T18:00:00Z, got %q", at)
		}
		if end.After(time.Now().Add(runLifetime)) {
			return nil, usage("--expires-at must be within %s, because the key of a command lives no longer", wire.Span(runLifetime))
		}
	case in != nil:
		if d, err := caddy.ParseDuration(in.(string)); err == nil && d > runLifetime {
			return nil, usage("--expires-in must be at most %s, because the key of a command lives no longer, got %s", wire.Span(runLifetime), in)
		}
	default:
		body["expires_in"] = wire.Span(runLifetime).String()
	}
	if body["name"] == nil {
		body["name"] = "run " + filepath.Base(command)
	}
	delete(body, "unlimited")
	return body, nil
}
