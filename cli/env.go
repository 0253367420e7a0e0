package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

// configured holds the server's upstreams and its base URL.
type configured wire.UpstreamsAnswer

func (c *client) configured(ctx context.Context) (configured, error) {
	var all configured
	err := c.call(ctx, "GET", "/upstreams", nil, &all)
	return all, err
}

// named returns the upstream with that name. If it is no longer configured, only
// its name is set.
func (all configured) named(name string) (wire.UpstreamInfo, bool) {
	i := slices.IndexFunc(all.Upstreams, func(u wire.UpstreamInfo) bool { return u.Name == name })
	if i < 0 {
		return wire.UpstreamInfo{Name: name}, false
	}
	return all.Upstreams[i], true
}

func (all configured) names() string {
	var names []string
	for _, u := range all.Upstreams {
		names = append(names, u.Name)
	}
	return strings.Join(names, ", ")
}

func (c *client) upstream(ctx context.Context, name string) (wire.UpstreamInfo, error) {
	all, err := c.configured(ctx)
	info, _ := all.named(name)
	return info, err
}

func envCommand(f *globalFlags) *cobra.Command {
	var name, base string
	cmd := &cobra.Command{
		Use:   "env KEY",
		Short: "Prints the environment that points clients at this server",
		Long: `Prints shell lines that make the SDKs and tools of an upstream use a scoped key.
KEY is the key's string, or its id or name. With an id or name the lines have a
placeholder for the string, because the server does not have it.`,
		Example: `  eval "$(caddy till env till_sk_...)"
  caddy till env nightly --base-url https://agents.example.com`,
		Args: argCount(1, 1, "the key, by its string, id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key := clients.Blank
			if token.LooksLikeKey(args[0]) {
				if _, err := token.ParseKey(args[0]); err != nil {
					return usage("%v: check that all of it was copied", err)
				}
				key = args[0]
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			all, err := c.configured(cmd.Context())
			if err != nil {
				return err
			}
			base := strings.TrimSuffix(cmp.Or(base, all.BaseURL), "/")
			if base == "" {
				return usage("the server does not know its address: say --base-url, or set public_url in its configuration")
			}
			info, err := c.upstreamOf(cmd.Context(), all, base, key, args[0], name)
			if err != nil {
				return err
			}
			v := clients.Environment(info, base, key)
			if f.json {
				return printValue(cmd.OutOrStdout(), v)
			}
			if key == clients.Blank {
				fmt.Fprintf(cmd.ErrOrStderr(), "Put the key's string in place of %s: the server does not have it.\n", clients.Blank)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), strings.Join(v.Lines(), "\n")+"\n")
			return err
		},
	}
	cmd.Flags().StringVar(&name, "upstream", "", "the upstream that the key is for (default: the key's own)")
	cmd.Flags().StringVar(&base, "base-url", "", "the address that clients use (default: the server's public_url)")
	return cmd
}

// upstreamOf finds the upstream that a key is for, from the flag or from the key's
// record. For a key's string it asks at the address that holders use, because the
// management API finds no key by its string.
func (c *client) upstreamOf(ctx context.Context, all configured, base, key, arg, flag string) (wire.UpstreamInfo, error) {
	name := flag
	switch {
	case name != "":
	case key == clients.Blank:
		k, err := c.find(ctx, arg, byPrefix)
		if err != nil {
			return wire.UpstreamInfo{}, err
		}
		name = k.Upstream
	case len(all.Upstreams) == 1:
		name = all.Upstreams[0].Name
	default:
		k, _, err := asHolder(ctx, http.MethodGet, base, key)
		if err != nil {
			return wire.UpstreamInfo{}, usage("say which upstream the key is for with --upstream, one of: %s (asking %s: %v)", all.names(), base, err)
		}
		name = k.Upstream
	}
	info, ok := all.named(name)
	if !ok {
		return info, usage("upstream %q is not configured; the upstreams are: %s", name, all.names())
	}
	return info, nil
}

const (
	// holderTimeout bounds a request to the data plane.
	holderTimeout = 5 * time.Second
	// maxHolderAnswer bounds how much of its answer is read, in bytes.
	maxHolderAnswer = 1 << 20
)

// asHolder asks the server about a key, as its holder does. status is empty if there was
// no answer.
func asHolder(ctx context.Context, method, base, key string) (k *wire.KeyObject, status string, err error) {
	ctx, cancel := context.WithTimeout(ctx, holderTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, base+"/till/self", nil)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	h := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := h.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	if status = printable(res.Status); res.StatusCode != http.StatusOK {
		return nil, status, fmt.Errorf("it answered %s", status)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxHolderAnswer))
	if err != nil {
		return nil, status, err
	}
	k = new(wire.KeyObject)
	if err := decodePrintable(raw, k); err != nil || k.Upstream == "" {
		return nil, status, errors.New("the answer is not from till")
	}
	return k, status, nil
}
