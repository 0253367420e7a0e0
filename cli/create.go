package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// limitFlags has the fields of a mint as flags.
type limitFlags struct {
	name, upstream, role, owner, purpose, charge               string
	upstreamKey                                                string
	maxActivations, expiresIn, expiresAt                       string
	maxTokens, maxSpend, maxRequestSpend, unknownPrice, renews string
	maxSpendCents                                              int64
	fit                                                        bool
	idleTimeout, firstUseWithin, rate                          string
	maxConcurrency                                             int
	models, paths, methods, ips                                []string
	labels, metadata                                           map[string]string
	pinIP, selfRevoke, unlimited, delegate                     bool

	given func(flag string) bool // reports whether the flag was given, even as 0
}

// add adds the flags for all fields except the upstream.
func (f *limitFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	f.given = s.Changed
	s.StringVar(&f.name, "name", "", "a name for people")
	s.StringVar(&f.upstreamKey, "upstream-key", "", "the upstream's own key, to be sealed into this one; - reads it\nfrom standard input, where other processes do not see it")
	s.StringVar(&f.maxActivations, "max-activations", "", "how many requests may be admitted: 500, 10k, 1M")
	s.StringVar(&f.maxTokens, "max-tokens", "", "tokens of input and output: 100k, 5M")
	s.StringVar(&f.maxSpend, "max-spend-usd", "", "dollars: 5, 0.25")
	s.Int64Var(&f.maxSpendCents, "max-spend-cents", 0, "the same in cents: 500")
	s.StringVar(&f.maxRequestSpend, "max-request-spend-usd", "", "dollars that one request may cost at most")
	s.StringVar(&f.renews, "renews", "", "day, week or month: activations, tokens and dollars renew, in UTC")
	s.BoolVar(&f.fit, "fit", true, "lower the output bound of requests to what is left")
	s.StringVar(&f.unknownPrice, "unknown-price", "", "refuse (default) or count_only")
	s.StringVar(&f.expiresIn, "expires-in", "", "lifetime: 90m, 24h, 7d")
	s.StringVar(&f.expiresAt, "expires-at", "", "end of life: 2026-12-31T18:00:00Z")
	s.StringVar(&f.idleTimeout, "idle-timeout", "", "the key ends when unused for this long")
	s.StringVar(&f.firstUseWithin, "first-use-within", "", "the key ends unless first used within this time")
	s.StringVar(&f.rate, "rate", "", "requests per time: 10/s, 60/m, 500/h")
	s.IntVar(&f.maxConcurrency, "max-concurrency", 0, "how many requests may run at a time")
	s.StringVar(&f.charge, "charge", "", "forwarded (default) or success: failures are given back")
	s.StringSliceVar(&f.models, "models", nil, "models the key may use; a * at the end stands for the rest:\ngpt-5-mini,claude-haiku-*")
	s.StringSliceVar(&f.paths, "paths", nil, "paths the key may use, such as /v1/chat/completions")
	s.StringSliceVar(&f.methods, "methods", nil, "methods the key may use, such as POST")
	s.StringSliceVar(&f.ips, "ips", nil, "addresses or networks the key may be used from")
	s.BoolVar(&f.pinIP, "pin-ip", false, "bind the key to the first address that uses it")
	s.StringVar(&f.role, "role", "", "the role whose budget the key shares")
	s.StringVar(&f.owner, "owner", "", "who is responsible for the key")
	s.StringVar(&f.purpose, "purpose", "", "what the key is for")
	s.StringToStringVar(&f.labels, "label", nil, "NAME=VALUE, repeatable")
	s.StringToStringVar(&f.metadata, "metadata", nil, "NAME=VALUE, repeatable")
	s.BoolVar(&f.selfRevoke, "self-revoke", true, "the holder may revoke the key")
	s.BoolVar(&f.delegate, "delegate", false, "the holder may mint child keys out of this one's limits")
	s.BoolVar(&f.unlimited, "unlimited", false, "allow a key that nothing ends by itself")
}

// body returns the body of a mint, with the fields that were set.
func (f *limitFlags) body(in io.Reader) (map[string]any, error) {
	if f.maxActivations == "" && f.maxTokens == "" && f.maxSpend == "" && !f.given("max-spend-cents") && f.expiresIn == "" && f.expiresAt == "" && !f.unlimited {
		return nil, usage("set at least one limit: --max-activations, --max-tokens, --max-spend-usd or --expires-in (or say --unlimited)")
	}
	return f.fields(in)
}

func (f *limitFlags) fields(in io.Reader) (map[string]any, error) {
	b := make(map[string]any)
	for field, value := range map[string]string{
		"name": f.name, "upstream": f.upstream, "role": f.role, "owner": f.owner, "purpose": f.purpose,
		"charge": f.charge, "expires_in": f.expiresIn, "expires_at": f.expiresAt, "idle_timeout": f.idleTimeout,
		"first_use_within": f.firstUseWithin, "rate": f.rate, "unknown_price": f.unknownPrice, "renews": f.renews,
		"max_spend_usd": f.maxSpend, "max_request_spend_usd": f.maxRequestSpend,
	} {
		if value != "" {
			b[field] = value
		}
	}
	for flag, text := range map[string]string{"max-activations": f.maxActivations, "max-tokens": f.maxTokens} {
		if text == "" {
			continue
		}
		n, err := record.ParseCount(text)
		if err != nil {
			return nil, usage("--%s: %v", flag, err)
		}
		b[strings.ReplaceAll(flag, "-", "_")] = n
	}
	for flag, text := range map[string]string{"max-spend-usd": f.maxSpend, "max-request-spend-usd": f.maxRequestSpend} {
		if _, err := record.ParseUSD(text); text != "" && err != nil {
			return nil, usage("--%s: %v", flag, err)
		}
	}
	if f.given("max-spend-cents") {
		b["max_spend_cents"] = f.maxSpendCents
	}
	if !f.fit {
		b["fit"] = false
	}
	if f.given("max-concurrency") {
		b["max_concurrency"] = f.maxConcurrency
	}
	for field, list := range map[string][]string{"models": f.models, "paths": f.paths, "methods": f.methods, "ips": f.ips} {
		if len(list) > 0 {
			b[field] = list
		}
	}
	for field, pairs := range map[string]map[string]string{"labels": f.labels, "metadata": f.metadata} {
		if len(pairs) > 0 {
			b[field] = pairs
		}
	}
	for field, on := range map[string]bool{"pin_ip": f.pinIP, "unlimited": f.unlimited, "delegate": f.delegate} {
		if on {
			b[field] = true
		}
	}
	if err := upstreamKeyFlag(b, f.upstreamKey, in, "create …"); err != nil {
		return nil, err
	}
	if !f.selfRevoke {
		b["self_revoke"] = false
	}
	return b, nil
}

// upstreamKeyFlag puts the value of --upstream-key into a body. If it is "-", the
// value is read from in.
func upstreamKeyFlag(body map[string]any, value string, in io.Reader, command string) error {
	if value == "-" {
		text, err := io.ReadAll(io.LimitReader(in, token.MaxCredential+2))
		if err != nil {
			return fmt.Errorf("--upstream-key: reading standard input: %w", err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			return usage("--upstream-key -: standard input is empty; write: caddy till %s --upstream-key - < FILE", command)
		}
		value = string(text)
	}
	if value != "" {
		body["upstream_key"] = value
	}
	return nil
}

func createCommand(f *globalFlags) *cobra.Command {
	limits := new(limitFlags)
	cmd := &cobra.Command{
		Use:     "create [limits]",
		Aliases: []string{"mint"},
		Short:   "Mints a scoped key",
		Long: `Mints a scoped key and prints it only this once: the server keeps only its hash.
At least one of --max-activations, --max-tokens, --max-spend-usd, --expires-in
and --expires-at must be set, or --unlimited. Counts are written 500, 10k or 1M,
durations 90s, 24h or 7d, and rates 10/s, 60/m, 500/h or 1000/d.`,
		Example: `  caddy till create --max-activations 500 --expires-in 24h
  caddy till create --name nightly --upstream openai --max-activations 10k \
      --rate 60/m --max-concurrency 4 --paths /v1/chat/completions
  caddy till create --max-spend-usd 5 --models gpt-5-mini,gpt-5-nano
  caddy till create --expires-in 8h --json | jq -r .scoped_key
  caddy till create --max-activations 50 --upstream-key - < key.txt`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := limits.body(cmd.InOrStdin())
			if err != nil {
				return err
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			return callAndPrint(cmd, c, "POST", "/keys", body, func(m *wire.Minted) error {
				// The key is printed even after an error, because it is shown only this
				// once.
				info, err := c.upstream(cmd.Context(), m.Upstream)
				return errors.Join(printMinted(cmd.OutOrStdout(), m, info), err)
			})
		},
	}
	cmd.Flags().StringVar(&limits.upstream, "upstream", "", "the upstream that the key is for (default: the only one)")
	limits.add(cmd)
	return cmd
}

// printMinted shows a new key and how to use it.
func printMinted(w io.Writer, m *wire.Minted, info wire.UpstreamInfo) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Key      %s\n", m.ScopedKey)
	fmt.Fprintf(&b, "Id       %s\n", m.ID)
	fmt.Fprintf(&b, "Limits   %s\n", strings.Join(wrap(limitsOf(m.KeyObject), ", ", tableWidth-9), "\n         "))
	fmt.Fprintf(&b, "\nThe key is shown this once. To use it:\n\n")
	for _, line := range clients.Environment(info, m.BaseURL, m.ScopedKey).Lines() {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	if m.BaseURL == "" {
		fmt.Fprintf(&b, "\nThe server has no public_url: put its address in place of\n%s.\n", clients.BlankURL)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
