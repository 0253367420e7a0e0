package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// limitFlags are the fields of a mint, a change or a grant as flags, by their names; --labels
// is also --label.
type limitFlags struct{ pflag.FlagSet }

// add adds the flags for all fields except the upstream.
func (f *limitFlags) add(cmd *cobra.Command) {
	f.String("name", "", "a name for people")
	f.String("upstream-key", "", "the upstream's own key, to be sealed into this one; - reads it\nfrom standard input, where other processes do not see it")
	f.String("max-activations", "", "how many requests may be admitted: 500, 10k, 1M")
	f.String("max-tokens", "", "tokens of input and output: 100k, 5M")
	f.String("max-spend-usd", "", "dollars: 5, 0.25")
	f.Int64("max-spend-cents", 0, "the same in cents: 500")
	f.String("max-request-spend-usd", "", "dollars that one request may cost at most")
	f.String("renews", "", record.Either(record.Renewals[:])+": activations, tokens and dollars renew, in UTC")
	f.Bool("fit", true, "lower the output bound of requests to what is left")
	f.String("unknown-price", "", "refuse (default) or count_only")
	f.String("expires-in", "", "lifetime: 90m, 24h, 7d")
	f.String("expires-at", "", "end of life: 2026-12-31T18:00:00Z")
	f.String("idle-timeout", "", "the key ends when unused for this long")
	f.String("first-use-within", "", "the key ends unless first used within this time")
	f.String("rate", "", "requests per time: 10/s, 60/m, 500/h")
	f.Int("max-concurrency", 0, "how many requests may run at a time")
	f.String("charge", "", "forwarded (default) or success: failures are given back")
	f.StringSlice("models", nil, "models the key may use; a * at the end stands for the rest:\ngpt-5-mini,claude-haiku-*")
	f.StringSlice("paths", nil, "paths the key may use, such as /v1/chat/completions")
	f.StringSlice("methods", nil, "methods the key may use, such as POST")
	f.StringSlice("ips", nil, "addresses or networks the key may be used from")
	f.Bool("pin-ip", false, "bind the key to the first address that uses it")
	f.String("role", "", "the role whose budget the key shares")
	f.String("owner", "", "who is responsible for the key")
	f.String("purpose", "", "what the key is for")
	f.StringToString("label", nil, "NAME=VALUE, repeatable")
	alias(&f.FlagSet, "label", "labels")
	f.StringToString("metadata", nil, "NAME=VALUE, repeatable")
	f.Bool("self-revoke", true, "the holder may revoke the key")
	f.Bool("delegate", false, "the holder may mint child keys out of this one's limits")
	f.Bool("unlimited", false, "allow a key that nothing ends by itself")
	cmd.Flags().AddFlagSet(&f.FlagSet)
}

// addUpstream adds the flags for the upstream of one key. The server refuses two different
// upstreams.
func (f *limitFlags) addUpstream() {
	f.String("upstream", "", "the upstream that the key is for (default: the only one)")
	f.String("provider", "", "the same as --upstream")
	f.Lookup("provider").Hidden = true
}

// alias lets a flag be given by another name, too, which the help does not list.
func alias(f *pflag.FlagSet, name, other string) {
	f.VarPF(f.Lookup(name).Value, other, "", "the same as --"+name).Hidden = true
}

// body returns the body of a mint, with the fields that were set.
func (f *limitFlags) body(in io.Reader) (map[string]any, error) {
	for _, name := range []string{"max-activations", "max-tokens", "max-spend-usd", "max-spend-cents", "expires-in", "expires-at", "unlimited"} {
		if flag := f.Lookup(name); flag.Changed && flag.Value.String() != "" && flag.Value.String() != "false" {
			return f.fields(in)
		}
	}
	return nil, usage("set at least one limit: --max-activations, --max-tokens, --max-spend-usd or --expires-in (or say --unlimited)")
}

func (f *limitFlags) fields(in io.Reader) (map[string]any, error) {
	b := make(map[string]any)
	var wrong error
	f.VisitAll(func(flag *pflag.Flag) {
		empty := strings.HasPrefix(flag.Value.Type(), "string") && flag.Value.String() == flag.DefValue // text or list
		if !flag.Changed || empty || wrong != nil {
			return
		}
		value, err := f.value(flag)
		if err != nil {
			wrong = usage("--%s: %v", flag.Name, err)
		}
		field := strings.ReplaceAll(flag.Name, "-", "_")
		if field == "label" { // the flag sets one label
			field = "labels"
		}
		b[field] = value
	})
	if wrong != nil {
		return nil, wrong
	}
	key, _ := b["upstream_key"].(string)
	return b, upstreamKeyFlag(b, key, in, "create …")
}

// value returns the value of a flag in the type that a body has.
func (f *limitFlags) value(flag *pflag.Flag) (any, error) {
	switch text := flag.Value.String(); flag.Name {
	case "max-activations", "max-tokens", "activations", "tokens":
		return record.ParseCount(text)
	case "max-spend-usd", "max-request-spend-usd", "spend-usd":
		_, err := record.ParseUSD(text)
		return text, err
	}
	switch flag.Value.Type() {
	case "bool":
		return f.GetBool(flag.Name)
	case "int", "int64":
		return strconv.ParseInt(flag.Value.String(), 10, 64)
	case "stringSlice":
		return f.GetStringSlice(flag.Name)
	case "stringToString":
		return f.GetStringToString(flag.Name)
	}
	return flag.Value.String(), nil
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
	limits.addUpstream()
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
