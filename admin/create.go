package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
)

// limitFlags are a mint's fields as flags.
type limitFlags struct {
	name, upstream, role, owner, purpose, charge string
	maxActivations, expiresIn, expiresAt         string
	idleTimeout, firstUseWithin, rate            string
	maxConcurrency                               int
	paths, methods, ips                          []string
	labels, metadata                             map[string]string
	pinIP, noSelfRevoke, unlimited               bool
}

func (f *limitFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.name, "name", "", "a name for people")
	s.StringVar(&f.upstream, "upstream", "", "the upstream that the key is for (default: the only one)")
	s.StringVar(&f.maxActivations, "max-activations", "", "requests that may be admitted: 500, 10k, 1M")
	s.StringVar(&f.expiresIn, "expires-in", "", "lifetime: 90m, 24h, 7d")
	s.StringVar(&f.expiresAt, "expires-at", "", "end of life: 2026-12-31T18:00:00Z")
	s.StringVar(&f.idleTimeout, "idle-timeout", "", "ends when unused for this long")
	s.StringVar(&f.firstUseWithin, "first-use-within", "", "ends unless first used within this time")
	s.StringVar(&f.rate, "rate", "", "requests per time: 10/s, 60/m, 500/h")
	s.IntVar(&f.maxConcurrency, "max-concurrency", 0, "requests at a time")
	s.StringVar(&f.charge, "charge", "", "forwarded (default) or success: failures are given back")
	s.StringSliceVar(&f.paths, "paths", nil, "paths the key may use, such as /v1/chat/completions")
	s.StringSliceVar(&f.methods, "methods", nil, "methods the key may use, such as POST")
	s.StringSliceVar(&f.ips, "ips", nil, "addresses or networks the key may be used from")
	s.BoolVar(&f.pinIP, "pin-ip", false, "bind the key to the first address that uses it")
	s.StringVar(&f.role, "role", "", "the role whose budget the key shares")
	s.StringVar(&f.owner, "owner", "", "who answers for the key")
	s.StringVar(&f.purpose, "purpose", "", "what the key is for")
	s.StringToStringVar(&f.labels, "label", nil, "NAME=VALUE, repeatable")
	s.StringToStringVar(&f.metadata, "metadata", nil, "NAME=VALUE, repeatable")
	s.BoolVar(&f.noSelfRevoke, "no-self-revoke", false, "the holder may not revoke the key")
	s.BoolVar(&f.unlimited, "unlimited", false, "allow a key that nothing ends by itself")
}

// body is the mint as JSON; only what was set.
func (f *limitFlags) body() (map[string]any, error) {
	if f.maxActivations == "" && f.expiresIn == "" && f.expiresAt == "" && !f.unlimited {
		return nil, usage("set at least one limit: --max-activations or --expires-in (or say --unlimited)")
	}
	b := make(map[string]any)
	for field, value := range map[string]string{
		"name": f.name, "upstream": f.upstream, "role": f.role, "owner": f.owner, "purpose": f.purpose,
		"charge": f.charge, "expires_in": f.expiresIn, "expires_at": f.expiresAt, "idle_timeout": f.idleTimeout,
		"first_use_within": f.firstUseWithin, "rate": f.rate,
	} {
		if value != "" {
			b[field] = value
		}
	}
	if f.maxActivations != "" {
		n, err := limiter.ParseCount(f.maxActivations)
		if err != nil {
			return nil, usage("--max-activations: %v", err)
		}
		b["max_activations"] = n
	}
	if f.maxConcurrency != 0 {
		b["max_concurrency"] = f.maxConcurrency
	}
	for field, list := range map[string][]string{"paths": f.paths, "methods": f.methods, "ips": f.ips} {
		if len(list) > 0 {
			b[field] = list
		}
	}
	for field, pairs := range map[string]map[string]string{"labels": f.labels, "metadata": f.metadata} {
		if len(pairs) > 0 {
			b[field] = pairs
		}
	}
	for field, on := range map[string]bool{"pin_ip": f.pinIP, "unlimited": f.unlimited} {
		if on {
			b[field] = true
		}
	}
	if f.noSelfRevoke {
		b["self_revoke"] = false
	}
	return b, nil
}

func createCommand(f *common) *cobra.Command {
	limits := new(limitFlags)
	cmd := &cobra.Command{
		Use:     "create [limits]",
		Aliases: []string{"mint"},
		Short:   "Mints a scoped key",
		Long: `Mints a scoped key and prints it, this once: the server keeps only its hash.
At least one limit must be set.`,
		Example: `  caddy till create --max-activations 500 --expires-in 24h
  caddy till create --name nightly --upstream openai --max-activations 10k \
      --rate 60/m --max-concurrency 4 --paths /v1/chat/completions
  caddy till create --expires-in 8h --json | jq -r .scoped_key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := limits.body()
			if err != nil {
				return err
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			raw, err := c.raw(cmd.Context(), "POST", "/keys", body)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var m minted
			if err := json.Unmarshal(raw, &m); err != nil {
				return err
			}
			info, err := c.upstream(cmd.Context(), m.Upstream)
			if err != nil {
				return err
			}
			return printMinted(cmd.OutOrStdout(), &m, info)
		},
	}
	limits.add(cmd)
	return cmd
}

// printMinted shows a new key and how to use it.
func printMinted(w io.Writer, m *minted, info UpstreamInfo) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Key      %s\n", m.ScopedKey)
	fmt.Fprintf(&b, "Id       %s\n", m.ID)
	fmt.Fprintf(&b, "Limits   %s\n", limitsOf(m.KeyObject))
	fmt.Fprintf(&b, "\nThe key is shown this once. To use it:\n\n")
	for _, line := range clientLines(info, m.BaseURL, m.ScopedKey) {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// limitsOf says in one line what limits a key.
func limitsOf(k *KeyObject) string {
	var parts []string
	if k.MaxActivations != nil {
		parts = append(parts, counted(*k.MaxActivations, "activation"))
	}
	if k.ExpiresAt != nil {
		parts = append(parts, "until "+k.ExpiresAt.Format("2006-01-02 15:04 MST"))
	}
	if k.Rate != "" {
		parts = append(parts, k.Rate)
	}
	if k.MaxConcurrency > 0 {
		parts = append(parts, fmt.Sprintf("%d at a time", k.MaxConcurrency))
	}
	if k.IdleTimeout != "" {
		parts = append(parts, "idle "+k.IdleTimeout)
	}
	if k.FirstUseWithin != "" {
		parts = append(parts, "first use within "+k.FirstUseWithin)
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
