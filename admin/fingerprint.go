package admin

import (
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/limiter"
)

type fingerprintBody struct {
	UpstreamKey realKey `json:"upstream_key"`
}

type fingerprinted struct {
	CredentialFingerprint string `json:"credential_fingerprint"`
	// Upstreams are those whose held credential it is.
	Upstreams []string `json:"upstreams"`
}

// fingerprint names a real key, so that the keys that depend on it can be
// listed. The real key itself must not stand in a list's query.
func (a *api) fingerprint(l *limiter.Limiter, r *http.Request) (int, any, error) {
	var body fingerprintBody
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	if body.UpstreamKey.IsZero() {
		return 0, nil, invalid("upstream_key must be the real key that is asked about")
	}
	name, err := l.CredentialFingerprint(a.caller, body.UpstreamKey.Secret)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, fingerprinted{name, a.holders(l, name)}, nil
}

// holders are the upstreams whose held credential has the fingerprint.
func (a *api) holders(l *limiter.Limiter, fingerprint string) []string {
	names := []string{}
	named := a.backend.Fingerprints(l.Fingerprint)
	for _, upstream := range sorted(named) {
		if named[upstream] == fingerprint {
			names = append(names, upstream)
		}
	}
	return names
}

// dependsOn asks for the keys that depend on a real key.
func (c *client) dependsOn(cmd *cobra.Command, q url.Values, upstreamKey string) error {
	body := make(map[string]any)
	if err := upstreamKeyFlag(body, upstreamKey, cmd.InOrStdin(), "list"); err != nil {
		return err
	}
	var named fingerprinted
	if err := c.call(cmd.Context(), "POST", "/fingerprint", body, &named); err != nil {
		return err
	}
	q.Set("credential_fingerprint", named.CredentialFingerprint)
	return nil
}
