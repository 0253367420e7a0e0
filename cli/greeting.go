package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

// greeting is what `up` prints once the server runs.
type greeting struct {
	BaseURL   string              `json:"base_url"`
	Address   string              `json:"address"` // of the management API
	Data      string              `json:"data"`
	Upstreams []wire.UpstreamInfo `json:"upstreams"`
	// Console is a one-time link that signs in to the dashboard.
	Console *wire.Link `json:"console,omitempty"`
	// Key is the first key. It is only minted if there is no live key.
	Key   *wire.Minted `json:"key,omitempty"`
	Notes []string     `json:"notes,omitempty"`
}

// greet mints the first key, if none of the upstreams has a live key, and makes a
// link to the dashboard, if there is one.
func greet(ctx context.Context, socket, dir string, console bool, upstreams []upUpstream) (*greeting, error) {
	c, err := newClient("unix/" + socket)
	if err != nil {
		return nil, err
	}
	all, err := c.configured(ctx)
	if err != nil {
		return nil, err
	}
	g := &greeting{BaseURL: all.BaseURL, Address: "unix/" + socket, Data: dir, Upstreams: all.Upstreams}
	if console {
		g.Console = new(wire.Link)
		if err := c.call(ctx, "POST", "/console/link", nil, g.Console); err != nil {
			return nil, err
		}
	}
	for _, u := range all.Upstreams {
		live, _, err := c.all(ctx, url.Values{"status": {"active"}, "upstream": {u.Name}}, 1)
		if err != nil {
			return nil, err
		}
		if len(live) > 0 {
			return g, nil
		}
	}
	name := all.Upstreams[0].Name
	if len(upstreams) > 0 {
		name = upstreams[0].Name // in the order of the presets
	}
	g.Key = new(wire.Minted)
	body := map[string]any{"name": "first", "upstream": name, "max_activations": 5}
	return g, c.call(ctx, "POST", "/keys", body, g.Key)
}

func (g *greeting) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printValue(w, g)
	}
	all := configured{Upstreams: g.Upstreams}
	var b strings.Builder
	fmt.Fprintf(&b, "till is up.\n\n  Serving keys on    %s\n", g.BaseURL)
	fmt.Fprintf(&b, "  Upstreams          %s\n", strings.Join(wrap(strings.Split(all.names(), ", "), ", ", tableWidth-21), "\n                     "))
	fmt.Fprintf(&b, "  Everything is in   %s\n", g.Data)
	if _, ok := all.named("echo"); ok {
		b.WriteString("\nNo provider's key is in the environment, so this is the offline upstream echo:\n" +
			"it echoes requests in the form of OpenAI's API. With OPENAI_API_KEY,\n" +
			"ANTHROPIC_API_KEY or another set, the real one is served.\n")
	}
	if g.Console != nil {
		fmt.Fprintf(&b, "\nThe dashboard; this link signs in once, within ten minutes:\n\n  %s\n", g.Console.URL)
	}
	for _, note := range g.Notes {
		fmt.Fprintf(&b, "\n%s\n", strings.Join(wrap(strings.Fields("Note: "+note), " ", tableWidth), "\n"))
	}
	if g.Key != nil {
		g.printKey(&b, all)
	} else {
		fmt.Fprintf(&b, "\nKeys that were minted before still work. To see them, from another terminal:\n\n  %s\n", g.command("list"))
	}
	fmt.Fprintf(&b, "\nMint more, from another terminal:\n\n  %s\n\nStop with Ctrl-C. Keys and counts stay.\n",
		g.command("create", "--max-activations 500", "--expires-in 24h"))
	_, err := io.WriteString(w, b.String())
	return err
}

func (g *greeting) printKey(b *strings.Builder, all configured) {
	info, _ := all.named(g.Key.Upstream)
	fmt.Fprintf(b, "\nYour first key, good for %s to %s, and shown this once:\n\n  %s\n\nTry it; the request after the last is refused and says why:\n\n",
		prose.Counted(*g.Key.MaxActivations, "request"), info.Name, g.Key.ScopedKey)
	for _, line := range clients.Curl(info, g.BaseURL, g.Key.ScopedKey) {
		fmt.Fprintf(b, "%s\n", line)
	}
	b.WriteString("\nOr point a client at it:\n\n")
	for _, line := range clients.Environment(info, g.BaseURL, g.Key.ScopedKey).Lines() {
		fmt.Fprintf(b, "  %s\n", line)
	}
}

// command returns a command line for this server, ready to paste.
func (g *greeting) command(name string, flags ...string) string {
	words := append([]string{program() + " till " + name}, flags...)
	if g.Data != filepath.Join(caddy.AppDataDir(), "till") {
		words = append([]string{"TILL_DATA=" + clients.Quote(g.Data)}, words...)
	}
	return strings.Join(wrap(words, " ", tableWidth-6), " \\\n    ")
}

func program() string {
	path, err := os.Executable()
	switch {
	case err != nil:
		return "caddy"
	case strings.Contains(path, "go-build"):
		return "go run ./cmd/caddy"
	case strings.ContainsRune(os.Args[0], filepath.Separator):
		return clients.Quote(os.Args[0])
	}
	return filepath.Base(os.Args[0])
}
