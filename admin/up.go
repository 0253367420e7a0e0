package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"

	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// upOptions is how `up` was asked to run.
type upOptions struct {
	listen  string
	data    string
	print   bool
	verbose bool
}

// echoVariable holds what the built-in echo upstream takes for a credential.
// `up` sets it for its own process; it opens nothing.
const echoVariable = "TILL_ECHO_CREDENTIAL"

// maxSocketPath is what a socket's address holds on Linux (sun_path, less its
// closing zero); other systems hold a little less.
const maxSocketPath = 103

func upCommand() *cobra.Command {
	o := new(upOptions)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Starts a server with everything it needs",
		Long: `Starts Caddy with till: a store and a seal key in the data directory, an
upstream for every provider whose key is in the environment, the proxy on
127.0.0.1:8080 and the management API on a unix socket in the data directory.
The first time it mints a key with 5 activations, to be tried at once.

When no provider's key is in the environment it serves an offline upstream
that echoes what it is told.`,
		Example: `  OPENAI_API_KEY=sk-... caddy till up
  caddy till up --listen 127.0.0.1:9000
  caddy till up --print-config > Caddyfile`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	cmd.Flags().StringVar(&o.listen, "listen", "127.0.0.1:8080", "address to serve keys on")
	cmd.Flags().StringVar(&o.data, "data", "", "data directory (default: till in Caddy's, or $TILL_DATA)")
	cmd.Flags().BoolVar(&o.print, "print-config", false, "print the Caddyfile and exit")
	cmd.Flags().BoolVar(&o.verbose, "verbose", false, "log requests to the management API, warnings and more")
	return cmd
}

// upConfig is the Caddyfile that `up` runs. %q quotes for the Caddyfile, too.
var upConfig = template.Must(template.New("Caddyfile").Parse(`{
	admin {{.Socket}}
	persist_config off
	auto_https off
	log default {
		level {{.Level}}
	}
	till {
		store badger {{.Data}}
		seal_key {file.{{.SealKey}}}
		public_url http://{{.Public}}
{{- range .Upstreams}}
		upstream {{.Name}} {{.Preset}} {
{{- if .To}}
			to {{.To}}
{{- end}}
			credential {env.{{.Variable}}}
		}
{{- end}}
	}
}

http://:{{.Port}} {
	bind {{.Host}}
	till
}
{{- if .Echo}}

http://localhost {
	bind {{.Echo}}
	till_echo
}
{{- end}}
`))

type upUpstream struct{ Name, Preset, To, Variable string }

// found lists the presets whose key is in the environment.
func found(getenv func(string) string) []upUpstream {
	var list []upUpstream
	for _, p := range upstream.All() {
		for _, name := range p.KeyEnv {
			if strings.TrimSpace(getenv(name)) != "" {
				list = append(list, upUpstream{Name: p.Name, Variable: name})
				break
			}
		}
	}
	return list
}

// config is the Caddyfile for these options.
func (o *upOptions) config(dir string, upstreams []upUpstream) (string, error) {
	host, port, err := net.SplitHostPort(o.listen)
	if err != nil {
		return "", usage("--listen must be host:port, got %q", o.listen)
	}
	if strings.ContainsAny(dir, " \t\"`{}#\\") {
		return "", usage("the data directory %q holds characters that a Caddyfile gives a meaning; name another with --data", dir)
	}
	socket := filepath.Join(dir, socketName)
	if len(socket) > maxSocketPath {
		return "", usage("the path of the management socket is too long (%d bytes, at most %d): %s; name a shorter directory with --data", len(socket), maxSocketPath, socket)
	}
	public := host
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		public = "localhost"
	}
	data := struct {
		Socket, Level, Data, SealKey, Public, Port, Host, Echo string
		Upstreams                                              []upUpstream
	}{
		Socket: "unix/" + socket + "|0600", Level: "ERROR", Data: dir, SealKey: filepath.Join(dir, "seal.key"),
		Public: net.JoinHostPort(public, port), Port: port, Host: cmp.Or(host, "0.0.0.0"), Upstreams: upstreams,
	}
	if o.verbose {
		data.Level = "INFO"
	}
	if len(upstreams) == 0 {
		echo := filepath.Join(dir, "echo.sock")
		data.Echo = "unix/" + echo + "|0600"
		data.Upstreams = []upUpstream{{Name: "echo", Preset: "openai", To: "unix/" + echo, Variable: echoVariable}}
	}
	var b strings.Builder
	err = upConfig.Execute(&b, data)
	return b.String(), err
}

func (o *upOptions) run(cmd *cobra.Command) error {
	dir, err := dataDir(o.data)
	if err != nil {
		return err
	}
	upstreams := found(os.Getenv)
	text, err := o.config(dir, upstreams)
	if err != nil {
		return err
	}
	if o.print {
		_, err := io.WriteString(cmd.OutOrStdout(), text)
		return err
	}
	socket := filepath.Join(dir, socketName)
	if answers("unix", socket) {
		return fmt.Errorf("till is up already: its management socket is %s; stop it first, or start another with --data and --listen", socket)
	}
	if err := free(o.listen); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if _, err := token.LoadOrCreateSealKey(filepath.Join(dir, "seal.key")); err != nil {
		return err
	}
	if len(upstreams) == 0 {
		if err := os.Setenv(echoVariable, rand.Text()); err != nil {
			return err
		}
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return fmt.Errorf("building the configuration: %w", err)
	}
	caddy.TrapSignals()
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("starting: %w", err)
	}
	c, err := newClient("unix/" + socket)
	if err != nil {
		return err
	}
	if err := o.welcome(cmd.Context(), cmd.OutOrStdout(), c, dir); err != nil {
		return errors.Join(err, caddy.Stop())
	}
	select {} // until a signal ends the process
}

// free reports whether the address can be listened on.
func free(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s cannot be served (%w); name another address with --listen", address, err)
	}
	return l.Close()
}

// welcome mints the first key, when there is no live one, and says how to go
// on.
func (o *upOptions) welcome(ctx context.Context, w io.Writer, c *client, dir string) error {
	all, err := c.configured(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "till is up.\n\n  Serving keys on  %s\n  Upstreams        %s\n  Everything is in %s\n",
		all.BaseURL, strings.Join(upstreamNames(all), " "), dir)
	var live listed
	if err := c.call(ctx, "GET", "/keys?status=active&limit=1", nil, &live); err != nil {
		return err
	}
	if len(live.Keys) == 0 {
		if err := first(ctx, &b, c, all); err != nil {
			return err
		}
	} else {
		b.WriteString("\nKeys that were minted before still work; list them with: caddy till list\n")
	}
	b.WriteString("\nMint more, from another terminal:\n\n")
	prefix := ""
	if o.data != "" {
		prefix = "TILL_DATA=" + quote(dir) + " "
	}
	fmt.Fprintf(&b, "  %s%s till create --max-activations 500 --expires-in 24h\n\nStop with Ctrl-C. Keys and counts stay.\n", prefix, program())
	_, err = io.WriteString(w, b.String())
	return err
}

// program is how this process was started, for lines to paste.
func program() string {
	path, err := os.Executable()
	if err != nil || strings.Contains(path, "go-build") {
		return "go run ./cmd/caddy"
	}
	return "caddy"
}

func first(ctx context.Context, b *strings.Builder, c *client, all configured) error {
	info := all.Upstreams[0]
	var m minted
	body := map[string]any{"name": "first", "upstream": info.Name, "max_activations": 5}
	if err := c.call(ctx, "POST", "/keys", body, &m); err != nil {
		return err
	}
	fmt.Fprintf(b, "\nYour first key, good for 5 requests to %s:\n\n  %s\n\nTry it:\n\n", info.Name, m.ScopedKey)
	for _, line := range curlLines(info, all.BaseURL, m.ScopedKey) {
		fmt.Fprintf(b, "%s\n", line)
	}
	b.WriteString("\nOr point a client at it:\n\n")
	for _, line := range clientLines(info, all.BaseURL, m.ScopedKey) {
		fmt.Fprintf(b, "  %s\n", line)
	}
	return nil
}
