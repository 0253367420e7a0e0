package till

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/till-proxy/till/admin/wire"
)

// Nodes that share a store must all judge and act by the same settings: otherwise a key
// could do on one node what another refuses. Each node tells the others a hash of each
// part of its settings, without any secret, so that doctor can name the parts that
// differ.

// commonConfiguration describes those settings of this configuration.
func (a *App) commonConfiguration() string {
	upstreams := make(map[string][]string, len(a.targets))
	for name, t := range a.targets {
		upstreams[name] = append([]string{t.presetName}, t.declared...)
	}
	hooks := make([]Webhook, 0, len(a.Webhooks))
	for _, h := range a.Webhooks {
		hooks = append(hooks, Webhook{URL: h.URL, Events: h.Events})
	}
	var sealKeys []string
	if ids, err := a.SealKeyIDs(); err == nil { // otherwise this node opens no box at all, which its own doctor says
		for _, id := range ids {
			sealKeys = append(sealKeys, id.String())
		}
		slices.Sort(sealKeys)
	}
	common := make(wire.CommonConfiguration)
	for name, value := range map[string]any{
		"roles": a.Roles, "upstreams": upstreams, "webhooks": hooks, "price": a.Prices, "unknown_price": a.UnknownPrice == "count_only",
		"stale_after": []any{a.StaleAfter, a.StaleRevoke}, "retain": a.Retain, "audit_retain": a.AuditRetain, "seal_keys": sealKeys,
	} {
		b, err := json.Marshal(value)
		if err != nil {
			continue // never: it came from JSON
		}
		sum := sha256.Sum256(b)
		common[name] = hex.EncodeToString(sum[:4])
	}
	return common.String()
}
