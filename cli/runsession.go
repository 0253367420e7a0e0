package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

// session is one command with its keys, from their mint to their revocation.
type session struct {
	cmd     *cobra.Command
	client  *client
	signals chan os.Signal
	began   time.Time

	keys  []runKey
	over  *handover
	base  string
	args  []string
	env   []string
	watch *watcher
}

// mint mints the keys, hands them to the watcher, and makes the arguments and the
// environment of the command. There may be keys even if it returns an error.
func (s *session) mint(o *runOptions, body map[string]any, args []string) (err error) {
	defer func() {
		if len(s.keys) > 0 {
			err = errors.Join(err, s.watch.order(s.client, s.base, s.keys))
		}
	}()
	// If a mint is interrupted, nobody knows its key, and the key ends with its
	// lifetime.
	ctx, stop := signal.NotifyContext(s.cmd.Context(), relayed()...)
	defer stop()
	all, err := s.client.configured(ctx)
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(cmp.Or(o.base, all.BaseURL), "/")
	if base == "" {
		return usage("the server does not know its address: say --base-url, or set public_url in its configuration")
	}
	s.base = base
	// If there are several upstreams and none is named, the caller's role decides
	// which one a key is for, and only the answer to the mint says which.
	chosen := len(o.upstreams) > 0 || len(all.Upstreams) <= 1
	if chosen {
		if err := s.handOver(all, o, args); err != nil {
			return err
		}
	}
	names := o.upstreams
	if len(names) == 0 {
		names = []string{""}
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return usage("upstream %s is named twice", name)
		}
		if name != "" {
			body["upstream"] = name
		}
		m := new(wire.Minted)
		if err := s.client.call(ctx, "POST", "/keys", body, m); err != nil {
			return err
		}
		info, _ := all.named(m.Upstream)
		s.keys = append(s.keys, runKey{m, info})
	}
	if !chosen {
		if err := s.handOver(all, o, args); err != nil {
			return err
		}
	}
	env, notes := runEnviron(s.over, s.keys, all.Upstreams, o.pass)
	for _, note := range notes {
		fmt.Fprintln(s.cmd.ErrOrStderr(), hanging(strings.Fields("till: "+note)))
	}
	s.args, s.env = slices.Concat(args[:1], s.over.before, args[1:]), env
	return nil
}

// handOver finds out how the command has to be pointed at this server.
func (s *session) handOver(all configured, o *runOptions, args []string) error {
	s.over = &handover{args: args, base: s.base, environ: os.Environ()}
	for _, name := range o.upstreams {
		info, _ := all.named(name)
		s.over.upstreams = append(s.over.upstreams, info)
	}
	switch {
	case len(o.upstreams) > 0:
	case len(all.Upstreams) == 1:
		s.over.upstreams = all.Upstreams
	case len(s.keys) > 0:
		s.over.upstreams = append(s.over.upstreams, s.keys[0].info)
	}
	configure, ok := runTools[tool(args[0])]
	if !ok {
		return nil
	}
	var err error
	if s.over.dir, err = os.MkdirTemp("", "till-run-"); err != nil {
		return err
	}
	return configure(s.over)
}

// execute runs the command and returns its status. The watcher runs at the same
// time, and revokes the keys if this process cannot.
func (s *session) execute(path string) (status int, err error) {
	select {
	case signal := <-s.signals: // it came while the keys were minted
		return exitSignal + signalNumber(signal), nil
	default:
	}
	child := exec.Command(path, s.args[1:]...)
	child.Args[0], child.Env = s.args[0], s.env
	child.Stdin, child.Stdout, child.Stderr = s.cmd.InOrStdin(), underlying(s.cmd.OutOrStdout()), underlying(s.cmd.ErrOrStderr())
	restore := keepTerminal()
	if err := child.Start(); err != nil {
		return 0, &statusError{exitNotExecutable, fmt.Errorf("%s cannot be executed: %w", s.args[0], err)}
	}
	ended, relaying := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(relaying)
		relay(s.signals, child.Process, ended)
	}()
	err = child.Wait()
	close(ended)
	<-relaying
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		return 0, fmt.Errorf("waiting for %s: %w", s.args[0], err)
	}
	if ws, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		restore()
		return exitSignal + signalNumber(ws.Signal()), nil
	}
	return child.ProcessState.ExitCode(), nil
}

func relay(signals <-chan os.Signal, to *os.Process, ended <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			if fromTerminal(s) {
				continue // the command has received it, too
			}
			_ = to.Signal(s) // an error means that it has ended
		case <-ended:
			return
		}
	}
}

func signalNumber(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return int(n)
	}
	return 0
}

const (
	// revokeWithin is how long `run` tries to revoke the keys. After that its
	// watcher goes on.
	revokeWithin = 10 * time.Second
	// settleWithin is how long it waits until running requests are counted.
	settleWithin = 2 * time.Second
)

func (s *session) finish(asJSON bool, status int) (err error) {
	if s.over != nil && s.over.dir != "" {
		defer func() { err = errors.Join(err, os.RemoveAll(s.over.dir)) }()
	}
	if len(s.keys) == 0 {
		s.watch.dismiss()
		return nil
	}
	took := time.Since(s.began)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.cmd.Context()), revokeWithin)
	defer cancel()
	p := showProgress(s.cmd.ErrOrStderr(), "Revoking", inKeys)
	var failed error
	report := make([]*wire.RevokedKey, 0, len(s.keys))
	for _, k := range s.keys {
		u, err := s.client.endRun(ctx, s.base, ending{k.ID, k.ScopedKey}, "its command has ended")
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("the key is not revoked: %w; until it ends, %s, this does it: caddy till revoke %s",
				err, prose.Relative(*k.ExpiresAt, time.Now()), printable(k.ID)))
			continue
		}
		report = append(report, u)
	}
	p.end()
	if failed == nil {
		s.watch.dismiss()
	} // otherwise the watcher goes on trying
	w := s.cmd.ErrOrStderr()
	if asJSON {
		return errors.Join(failed, encode(w, map[string]any{"status": status, "seconds": int64(took.Seconds()), "keys": report}, ""))
	}
	return errors.Join(failed, printUsed(w, report, took))
}

// ending is a key that must end with its command.
type ending struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// endRun revokes a key as the caller who minted it. If the caller's role may mint but
// not revoke, or the caller's token has ended since, it does so as the holder of the key.
func (c *client) endRun(ctx context.Context, base string, k ending, reason string) (*wire.RevokedKey, error) {
	u, err := c.revokeRun(ctx, k.ID, reason)
	if no, ok := errors.AsType[*apiError](err); !ok || no.status != http.StatusForbidden && no.status != http.StatusUnauthorized {
		return u, err
	}
	own, status, failed := asHolder(ctx, http.MethodDelete, base, k.Key)
	switch {
	case failed != nil && status == "":
		return nil, errors.Join(err, failed)
	case failed != nil || own.ID != k.ID:
		return nil, errors.Join(err, fmt.Errorf("and its holder may not either: %s", status))
	}
	return &wire.RevokedKey{KeyObject: own}, nil
}

// revokeRun revokes a key. It tries again while the server does not answer.
func (c *client) revokeRun(ctx context.Context, id, reason string) (*wire.RevokedKey, error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		u := &wire.RevokedKey{KeyObject: new(wire.KeyObject)}
		err := c.call(ctx, "POST", "/keys/"+url.PathEscape(id)+"/revoke", map[string]string{"reason": reason}, u)
		switch no, ok := errors.AsType[*apiError](err); {
		case err == nil:
			c.awaitSettled(ctx, u)
			return u, nil
		case ok && no.code == "not_found": // so nobody can use it
			u.ID = id
			return u, nil
		case ok && no.status < 500:
			return nil, err
		}
		if pause(ctx, wait) != nil {
			return nil, err
		}
	}
}

// awaitSettled polls a revoked key until it has no request in flight.
func (c *client) awaitSettled(ctx context.Context, u *wire.RevokedKey) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for u.HeldActivations > 0 {
		if pause(ctx, 50*time.Millisecond) != nil {
			return // it is counted at what its requests hold
		}
		k := new(wire.KeyObject)
		if err := c.call(ctx, "GET", "/keys/"+url.PathEscape(u.ID), nil, k); err != nil {
			return // the key is revoked, and only the figures are missing
		}
		u.KeyObject = k
	}
}

func printUsed(w io.Writer, report []*wire.RevokedKey, took time.Duration) error {
	for _, u := range report {
		words := []string{"till:"}
		if len(report) > 1 {
			words = append(words, u.Upstream+":")
		}
		parts := []string{spent(u.UsedActivations, u.MaxActivations, "activation")}
		if u.UsedTokens != nil {
			parts = append(parts, spent(*u.UsedTokens, u.MaxTokens, "token"))
		}
		if u.UsedSpendUSD != "" {
			money := "$" + u.UsedSpendUSD
			if u.MaxSpendUSD != "" {
				money += " of $" + u.MaxSpendUSD
			}
			parts = append(parts, money)
		}
		text := "used " + strings.Join(parts, ", ") + " in " + clock(took) + ";"
		if u.StreamsCut > 0 {
			text += " ended " + prose.Counted(int64(u.StreamsCut), "running request") + ";"
		}
		words = append(words, strings.Fields(text+" revoked "+u.ID)...)
		if _, err := fmt.Fprintln(w, hanging(words)); err != nil {
			return err
		}
	}
	return nil
}

// hanging wraps words of which the first is "till:".
func hanging(words []string) string { return strings.Join(wrap(words, " ", tableWidth-6), "\n      ") }

func spent(n int64, limit *int64, what string) string {
	if limit == nil {
		return prose.Counted(n, what)
	}
	return fmt.Sprintf("%d of %s", n, prose.Counted(*limit, what))
}
