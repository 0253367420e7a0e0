package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

type upOptions struct {
	*globalFlags
	listen    string
	console   string
	data      string
	publicURL string
	print     bool
	verbose   bool
}

// echoVariable holds the credential of the built-in echo upstream. `up` sets it for
// its own process; it gives access to nothing.
const echoVariable = "TILL_ECHO_CREDENTIAL"

// defaultConsole is the address of the dashboard, unless that is taken.
const defaultConsole = "127.0.0.1:8081"

func upCommand(f *globalFlags) *cobra.Command {
	o := &upOptions{globalFlags: f}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Starts a server with everything it needs",
		Long: `Starts Caddy with till: a store and a seal key in the data directory, an
upstream for every provider whose key is in the environment, the proxy on
127.0.0.1:8080, the dashboard on 127.0.0.1:8081 and the management API on a unix
socket in the data directory. It prints a link that signs in to the dashboard
once. If there is no live key, it mints one with 5 activations, to try it out.

If no provider's key is in the environment, it serves an offline upstream that
echoes the requests.

It runs until it is interrupted. Keys and counts stay in the data directory.`,
		Example: `  OPENAI_API_KEY=sk-... caddy till up
  caddy till up --listen 127.0.0.1:9000 --data ~/.till
  caddy till up --print-config > Caddyfile`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	cmd.Flags().StringVar(&o.listen, "listen", "127.0.0.1:8080", "address to serve keys on")
	cmd.Flags().StringVar(&o.console, "console", defaultConsole, "address of the dashboard, on loopback; off: none")
	cmd.Flags().StringVar(&o.data, "data", "", "data directory (default: $TILL_DATA, or till in Caddy's)")
	cmd.Flags().StringVar(&o.publicURL, "public-url", "", "address that clients use (default: that of --listen)")
	cmd.Flags().BoolVar(&o.print, "print-config", false, "print the Caddyfile and exit")
	cmd.Flags().BoolVar(&o.verbose, "verbose", false, "log what Caddy does, not only errors")
	return cmd
}

func (o *upOptions) run(cmd *cobra.Command) error {
	if o.address != "" {
		return usage("--address names a running server, but up starts one; see --listen and --data")
	}
	dir, err := dataDir(o.data)
	if err != nil {
		return err
	}
	upstreams, notes := foundUpstreams(os.Getenv)
	if o.console == "off" {
		o.console = ""
	}
	config, err := o.config(dir, o.listen, o.console, upstreams)
	if err != nil {
		return err
	}
	if o.print {
		_, err := io.WriteString(cmd.OutOrStdout(), config)
		return err
	}
	socket := filepath.Join(dir, socketName)
	if listening(socket) {
		return upAlready(cmd.Context(), socket)
	}
	listen, err := freeAddress("listen", o.listen)
	if err != nil {
		return err
	}
	if o.console != "" {
		console, err := freeAddress("console", o.console)
		if err != nil && !cmd.Flags().Changed("console") {
			// If no address was asked for, another port will do.
			notes = append(notes, defaultConsole+" is taken, so the dashboard has another port.")
			console, err = freeAddress("console", "127.0.0.1:0")
		}
		if err != nil {
			return err
		}
		o.console = console
	}
	if config, err = o.config(dir, listen, o.console, upstreams); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if _, err := token.LoadOrCreateSealKeys(filepath.Join(dir, "seal.key")); err != nil {
		return err
	}
	if len(upstreams) == 0 {
		if err := os.Setenv(echoVariable, rand.Text()); err != nil {
			return err
		}
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return fmt.Errorf("building the configuration: %w", err)
	}
	stop, ignore := interrupted(cmd.Context())
	defer ignore()
	if err := caddy.Load(adapted, true); err != nil {
		// Caddy keeps only the text of an app's error, not the error itself.
		if strings.Contains(err.Error(), store.ErrLocked.Error()) {
			return fmt.Errorf("another process has the store in %s open: stop it, or start this one with --data and another directory", dir)
		}
		return fmt.Errorf("starting: %w", err)
	}
	g, err := greet(cmd.Context(), socket, dir, o.console != "", upstreams)
	if err == nil {
		g.Notes = append(g.Notes, notes...)
		err = g.print(cmd.OutOrStdout(), o.json)
	}
	if err == nil {
		<-stop.Done()
		ignore() // a second signal ends the process at once
		fmt.Fprintf(cmd.ErrOrStderr(), "Stopping. Running requests get %s; interrupt again to end them at once.\n", gracePeriod)
		fmt.Fprintf(cmd.ErrOrStderr(), "They end now: %s\n", endProcess(socket))
	}
	return errors.Join(err, caddy.Stop(), removeSocket(socket))
}

// endProcess has Caddy end the process as `caddy stop` does: only then does it wait for
// requests that still run. It returns only if that fails.
func endProcess(socket string) error {
	// Caddy keeps its admin endpoint open until the process ends.
	caddy.OnExit(func(context.Context) {
		if err := removeSocket(socket); err != nil {
			caddy.Log().Error("removing the socket", zap.Error(err))
		}
	})
	c, err := clientAt("unix/"+socket, false)
	if err != nil {
		return err
	}
	res, err := c.patient().http.Post(strings.TrimSuffix(c.base, wire.BasePath)+"/stop", "", nil)
	if err != nil {
		return c.unreachable(err)
	}
	if _, err := c.read(res); err != nil {
		return err
	}
	select {} // Caddy ends the process
}

func removeSocket(socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// interrupted returns a context that ends with ctx, or when a signal asks the
// process to stop. A closing terminal counts as one, unless nohup makes the process
// ignore it.
func interrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signal.NotifyContext(ctx, signals...)
}

func upAlready(ctx context.Context, socket string) error {
	where := ""
	if c, err := newClient("unix/" + socket); err == nil {
		if all, err := c.configured(ctx); err == nil && all.BaseURL != "" {
			where = " and serves " + all.BaseURL
		}
	}
	return fmt.Errorf("till is up already%s (its management socket is %s): use it, stop it, or start another with --data and --listen", where, socket)
}

// freeAddress checks that an address can be listened on, and finds a port if its
// port is 0. Caddy itself would share a port that another process listens on.
func freeAddress(flag, address string) (string, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("%s cannot be served (%w); name another address with --%s", address, err, flag)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", errors.Join(err, l.Close())
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port), errors.Join(err, l.Close())
}
