package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// watcher is a process that revokes the keys of a `run` that was killed. It reads
// from a connection whose other end closes when that process ends, for whatever
// reason. Every secret that it needs comes through the connection, because the command
// could read its environment and arguments.
type watcher struct {
	process *exec.Cmd
	conn    io.ReadWriteCloser
	ordered bool
}

type watchOrder struct {
	Address string   `json:"address"`
	Wary    bool     `json:"wary"`
	Token   string   `json:"token"`
	Base    string   `json:"base"`
	Keys    []ending `json:"keys"`
}

const (
	watchName = "run-watch"
	// concealed is what a watcher writes once other processes can no longer inspect it.
	concealed = "ready\n"
	// dismissed is what `run` writes after it has revoked its keys itself.
	dismissed = "done\n"
	// watchFor is how long a watcher tries to reach the server.
	watchFor = 10 * time.Minute
)

// startWatcher starts a watcher and waits until it has concealed itself. Until then,
// other processes of this user could read its memory.
func startWatcher() (*watcher, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return watchWith(exec.Command(self, "till", watchName))
}

// wayVariables are the variables that say how a server is reached, and by which
// certificates it is known. A watcher has no others.
var wayVariables = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"}

func watchWith(process *exec.Cmd) (_ *watcher, err error) {
	process.Env = []string{}
	for _, name := range wayVariables {
		if value, set := os.LookupEnv(name); set {
			process.Env = append(process.Env, name+"="+value)
		}
	}
	w := &watcher{process: process}
	if w.conn, err = startConnected(process); err != nil {
		return nil, err
	}
	line, err := io.ReadAll(io.LimitReader(w.conn, int64(len(concealed))))
	if err == nil && string(line) != concealed {
		err = fmt.Errorf("it ended, and said %q", line)
	}
	if err != nil {
		w.dismiss()
		return nil, err
	}
	return w, nil
}

// order sends the watcher the keys that it must revoke if `run` is killed.
func (w *watcher) order(c *client, base string, keys []runKey) error {
	order := watchOrder{Address: c.where, Wary: c.wary, Token: c.token, Base: base}
	for _, k := range keys {
		order.Keys = append(order.Keys, ending{k.ID, k.ScopedKey})
	}
	line, err := json.Marshal(order)
	if err != nil {
		return err
	}
	w.ordered = true
	_, err = w.conn.Write(append(line, '\n'))
	return err
}

// dismiss ends a watcher that is no longer needed.
func (w *watcher) dismiss() {
	// The watcher may have been killed. That does not matter, because the keys are
	// revoked.
	if w.ordered {
		_, _ = io.WriteString(w.conn, dismissed)
	}
	_ = w.conn.Close()
	_ = w.process.Wait()
}

func watchCommand() *cobra.Command {
	return &cobra.Command{
		Use: watchName, Hidden: true, Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := conceal(); err != nil {
				return err
			}
			quit := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
			signal.Ignore(quit...)
			if _, err := io.WriteString(cmd.OutOrStdout(), concealed); err != nil {
				return err
			}
			in := bufio.NewReader(cmd.InOrStdin())
			line, err := in.ReadBytes('\n')
			switch {
			case errors.Is(err, io.EOF) && len(line) == 0:
				return nil // there is nothing to watch
			case err != nil:
				return fmt.Errorf("reading which keys to watch: %w", err)
			}
			var order watchOrder
			if err := json.Unmarshal(line, &order); err != nil {
				return err
			}
			c, err := clientAt(order.Address, order.Wary)
			if err != nil {
				return err
			}
			c.token = order.Token
			last, err := io.ReadAll(io.LimitReader(in, int64(len(dismissed))))
			if err == nil && string(last) == dismissed {
				return nil
			}
			signal.Reset(quit...)
			ctx, cancel := context.WithTimeout(cmd.Context(), watchFor)
			defer cancel()
			var failed error
			for _, k := range order.Keys {
				_, err := c.endRun(ctx, order.Base, k, "run ended without revoking it")
				failed = errors.Join(failed, err)
			}
			return failed
		},
	}
}
