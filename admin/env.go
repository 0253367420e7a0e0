package admin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// blank stands where a key's string is to be filled in: the server does not
// have it.
const blank = "<the key>"

// sample is a request that works as pasted.
type sample struct {
	path    string
	slot    string
	headers []string
	body    string
}

// samples are the requests to try a preset with; any other is asked for its
// models.
var samples = map[string]sample{
	"openai": {path: "/v1/chat/completions", slot: "Authorization: Bearer ",
		body: `{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hi"}]}`},
	"anthropic": {path: "/v1/messages", slot: "x-api-key: ", headers: []string{"anthropic-version: 2023-06-01"},
		body: `{"model":"claude-haiku-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}`},
	"gemini": {path: "/v1beta/models/gemini-3.8-flash:generateContent", slot: "x-goog-api-key: ",
		body: `{"contents":[{"parts":[{"text":"Hi"}]}]}`},
}

// curlLines is a request for a shell.
func curlLines(info UpstreamInfo, base, key string) []string {
	s, ok := samples[info.Preset]
	if !ok {
		s = sample{path: "/", slot: "Authorization: Bearer "}
		if p, known := upstream.Lookup(info.Preset); known && len(p.Free) > 0 {
			s.path = p.Free[0].Pattern
		}
	}
	lines := []string{fmt.Sprintf("curl %s%s \\", base, s.path), fmt.Sprintf("  -H '%s%s'", s.slot, key)}
	for _, h := range s.headers {
		lines[len(lines)-1] += " \\"
		lines = append(lines, fmt.Sprintf("  -H '%s'", h))
	}
	if s.body != "" {
		lines[len(lines)-1] += " \\"
		lines = append(lines, "  -H 'Content-Type: application/json' \\", fmt.Sprintf("  -d '%s'", s.body))
	}
	return lines
}

// clientLines are the shell lines that point an upstream's clients here.
func clientLines(info UpstreamInfo, base, key string) []string {
	base = cmp.Or(base, "<this server's address>")
	p, ok := upstream.Lookup(info.Preset)
	if !ok {
		return curlLines(info, base, key)
	}
	var lines []string
	for _, v := range p.ClientEnv {
		value := base + v.Path
		if v.Key {
			value = key
		}
		lines = append(lines, fmt.Sprintf("export %s=%s", v.Name, quote(value)))
	}
	return lines
}

// quote makes a word for a POSIX shell.
func quote(s string) string {
	plain := !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:", r)
	})
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// configured are the upstreams of the server, and its base URL.
type configured struct {
	Upstreams []UpstreamInfo `json:"upstreams"`
	BaseURL   string         `json:"base_url"`
}

func (c *client) configured(ctx context.Context) (configured, error) {
	var all configured
	err := c.call(ctx, "GET", "/upstreams", nil, &all)
	return all, err
}

func (c *client) upstream(ctx context.Context, name string) (UpstreamInfo, error) {
	all, err := c.configured(ctx)
	if err != nil {
		return UpstreamInfo{}, err
	}
	i := slices.IndexFunc(all.Upstreams, func(u UpstreamInfo) bool { return u.Name == name })
	if i < 0 {
		return UpstreamInfo{Name: name}, nil // it has left the configuration
	}
	return all.Upstreams[i], nil
}

func envCommand(f *common) *cobra.Command {
	var name, base string
	cmd := &cobra.Command{
		Use:   "env KEY",
		Short: "Prints the environment that points clients at this server",
		Long: `Prints shell lines that make the SDKs and tools of an upstream use a scoped key.
KEY is the key's string, or its id: then the string is left as a blank to fill
in, because the server does not have it.`,
		Example: `  eval "$(caddy till env till_sk_...)"
  caddy till env key_01JD... --base-url https://agents.example.com`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			all, err := c.configured(cmd.Context())
			if err != nil {
				return err
			}
			key := blank
			if token.LooksLikeKey(args[0]) {
				if _, err := token.ParseKey(args[0]); err != nil {
					return usage("%v: check that it was copied whole", err)
				}
				key = args[0]
				if name == "" && len(all.Upstreams) != 1 {
					return usage("say which upstream the key is for: --upstream %s", strings.Join(upstreamNames(all), "|"))
				}
				if name == "" {
					name = all.Upstreams[0].Name
				}
			} else {
				k, err := c.find(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				name = k.Upstream
			}
			info, err := c.upstream(cmd.Context(), name)
			if err != nil {
				return err
			}
			if info.Origins == nil {
				return usage("upstream %q is not configured; there are %s", name, strings.Join(upstreamNames(all), ", "))
			}
			base = cmp.Or(base, all.BaseURL)
			lines := clientLines(info, base, key)
			if f.json {
				return printValue(cmd.OutOrStdout(), map[string]any{"upstream": info.Name, "base_url": base, "lines": lines})
			}
			_, err = io.WriteString(cmd.OutOrStdout(), strings.Join(lines, "\n")+"\n")
			return err
		},
	}
	cmd.Flags().StringVar(&name, "upstream", "", "the upstream that the key is for")
	cmd.Flags().StringVar(&base, "base-url", "", "the address that clients use (default: the server's public_url)")
	return cmd
}

func upstreamNames(all configured) []string {
	var names []string
	for _, u := range all.Upstreams {
		names = append(names, u.Name)
	}
	return names
}
