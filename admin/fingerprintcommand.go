package admin

import (
	"net/url"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
)

// dependsOn asks for the keys that depend on a real key.
func (c *client) dependsOn(cmd *cobra.Command, q url.Values, upstreamKey string) error {
	body := make(map[string]any)
	if err := upstreamKeyFlag(body, upstreamKey, cmd.InOrStdin(), "list"); err != nil {
		return err
	}
	var named wire.Fingerprinted
	if err := c.call(cmd.Context(), "POST", "/fingerprint", body, &named); err != nil {
		return err
	}
	q.Set("credential_fingerprint", named.CredentialFingerprint)
	return nil
}
