package admin

import (
	"net/http"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// operations are all calls of the API, by their patterns. POST /leaks and POST /fingerprint
// can safely be made twice, so they ignore an Idempotency-Key.
var operations map[string]operation

func init() {
	operations = map[string]operation{
		"POST /keys": {call: (*api).mint, summary: "Mint a key", permission: record.KeysCreate, replay: wire.KeyObject{},
			body: wire.MintBody{}, status: http.StatusCreated, answer: wire.Minted{}},
		"GET /keys":      {call: (*api).list, summary: "List keys", permission: record.KeysRead, query: filterNames(), answer: wire.Listed{}},
		"GET /keys/{id}": {call: (*api).show, summary: "Show a key", permission: record.KeysRead, answer: wire.KeyObject{}},
		"PATCH /keys/{id}": {call: (*api).change, summary: "Change a living key; if it has ended, only name and labels can change", permission: record.KeysUpdate,
			headers: []string{"If-Match"}, body: wire.ChangeBody{}, answer: wire.KeyObject{}},
		"DELETE /keys/{id}":       {call: (*api).forget, summary: "Forget a key that has ended", permission: record.KeysUpdate, status: http.StatusNoContent},
		"GET /keys/{id}/usage":    {call: (*api).usage, summary: "Show what a key did, by hour and by day", permission: record.KeysRead, answer: wire.UsageAnswer{}},
		"POST /keys/{id}/grant":   {call: (*api).grant, summary: "Add to a key's limits, and revive it", permission: record.KeysUpdate, replay: wire.KeyObject{}, body: wire.GrantBody{}, answer: wire.KeyObject{}},
		"POST /keys/{id}/suspend": {call: (*api).suspend, summary: "Stop a key until it is resumed", permission: record.KeysRevoke, replay: wire.KeyObject{}, answer: wire.KeyObject{}},
		"POST /keys/{id}/resume":  {call: (*api).resume, summary: "End a suspension", permission: record.KeysRevoke, replay: wire.KeyObject{}, answer: wire.KeyObject{}},
		"POST /keys/{id}/revoke": {call: (*api).revoke, summary: "End a key for ever, and its running requests", permission: record.KeysRevoke, replay: wire.KeyObject{},
			body: wire.RevokeBody{}, optional: true, answer: wire.RevokedKey{}},
		"POST /keys/{id}/rotate": {call: (*api).rotate, summary: "Give a key another string", permission: record.KeysRotate, replay: wire.KeyObject{},
			body: wire.RotateBody{}, optional: true, answer: wire.Rotated{}},
		"POST /keys/revoke": {call: (*api).revokeMany, summary: "End all keys that match a filter", permission: record.KeysRevoke, replay: wire.BulkJSON{},
			body: wire.RevokeManyBody{}, answer: wire.BulkJSON{},
			others: []otherAnswer{{http.StatusAccepted, `"wait" is false: the job goes on`, wire.BulkJSON{}, ""}}},
		"GET /jobs":      {call: (*api).jobs, summary: "List the jobs that end many keys", permission: record.KeysRevoke, answer: wire.JobsAnswer{}},
		"GET /jobs/{id}": {call: (*api).job, summary: "Show a job", permission: record.KeysRevoke, answer: wire.BulkJSON{}},

		"GET /stale": {call: (*api).stale, summary: "List keys that somebody should look at, each with a command that fixes it", permission: record.KeysRead,
			query: []string{"reason", "limit", "cursor"}, answer: wire.StaleAnswer{}},
		"POST /leaks": {call: (*api).leaks, summary: "Find keys and tokens in up to 8 MB of text, and revoke them", permission: record.KeysRevoke,
			body: wire.LeaksBody{}, answer: wire.LeaksAnswer{}, partly: true},
		"POST /fingerprint": {call: (*api).fingerprint, summary: "Name a real key, to list the keys that depend on it", permission: record.KeysRead,
			body: wire.FingerprintBody{}, answer: wire.Fingerprinted{}},
		"GET /spend": {call: (*api).spend, summary: "Add up what keys have used, part by part", permission: record.KeysRead, query: []string{"cursor"}, answer: wire.Spending{}},

		"POST /tokens": {call: (*api).createToken, summary: "Make an admin token", permission: record.TokensManage, replay: wire.TokenObject{},
			body: wire.TokenBody{}, status: http.StatusCreated, answer: wire.TokenObject{}},
		"GET /tokens": {call: (*api).listTokens, summary: "List admin tokens", permission: record.TokensManage, query: []string{"limit", "cursor"}, answer: wire.ListedTokens{}},
		"POST /tokens/{id}/revoke": {call: (*api).revokeToken, summary: "End an admin token for ever", permission: record.TokensManage, replay: wire.TokenObject{},
			answer: wire.TokenObject{}},

		"GET /audit": {call: (*api).audit, summary: "Read the audit log", permission: record.AuditRead,
			query: []string{"since", "actor", "action", "key", "sort", "limit", "cursor"}, answer: wire.ListedEntries{}},
		"GET /audit/verify": {call: (*api).verifyAudit, summary: "Verify the audit log's chain", permission: record.AuditRead, answer: wire.Verdict{}},
		"GET /audit/export": {stream: (*api).exportAudit, summary: "Export the audit log, an entry a line", permission: record.AuditRead, content: "application/jsonl"},

		"GET /roles":                    {call: (*api).roles, summary: "List the configured roles", answer: wire.RolesAnswer{}},
		"GET /upstreams":                {call: (*api).upstreams, summary: "List the configured upstreams", answer: wire.UpstreamsAnswer{}},
		"GET /upstreams/{name}/clients": {call: (*api).clients, summary: "Show how an upstream's clients are pointed here", answer: wire.ClientsAnswer{}},
		"GET /prices":                   {call: (*api).prices, summary: "List the prices that limits count with", query: []string{"model"}, answer: wire.ListedPrices{}},
		"GET /live":                     {stream: (*api).live, summary: "Say that the process serves; on a console's site also at /till/live, without a token", content: "text/plain", closed: true},
		"GET /ready": {stream: (*api).ready, summary: "Say whether keys are admitted now: 200, or 503 with a line that says why not; on a console's site also at /till/ready, without a token", content: "text/plain", closed: true,
			others: []otherAnswer{{http.StatusServiceUnavailable, "no key is admitted: a line that says why", nil, "text/plain"}}},
		"GET /stats": {call: (*api).stats, summary: "Show the sums over all keys, and the store's state", answer: wire.StatsAnswer{}, closed: true,
			others: []otherAnswer{{http.StatusServiceUnavailable, "the store is closed", wire.StatsClosed{}, ""}}},
		"GET /doctor":       {call: (*api).doctor, summary: "Show what a careful operator would change", answer: wire.DoctorAnswer{}, closed: true},
		"GET /openapi.json": {call: (*api).openapi, summary: "Show this document", content: "application/json", closed: true},

		"GET /events":   {stream: (*api).events, summary: "Read what happens from now on to keys, as server-sent events", permission: record.KeysRead, content: "text/event-stream"},
		"GET /webhooks": {call: (*api).webhooks, summary: "List the webhooks, and how deliveries to them go", permission: record.Everything, answer: wire.WebhooksAnswer{}},

		"GET /lockdown": {call: (*api).showLockdown, summary: "Show whether every key is refused", answer: wire.LockdownJSON{}, closed: true},
		"POST /lockdown": {call: (*api).lockdown, summary: "Refuse every key at once", permission: record.Everything,
			body: wire.RevokeBody{}, optional: true, answer: wire.LockdownJSON{}, closed: true},
		"DELETE /lockdown": {call: (*api).liftLockdown, summary: "Let keys work again", permission: record.Everything, answer: wire.LockdownJSON{}, closed: true},

		"GET /seal": {call: (*api).sealKeys, summary: "List the seal keys, and how many keys need each", permission: record.Everything, answer: wire.SealKeysAnswer{}},
		"POST /seal/rotate": {call: (*api).rotateSeal, summary: "Make a new seal key; those before it still open", permission: record.Everything, replay: wire.Replayed{},
			answer: wire.SealKeysAnswer{}},
		"GET /nodes": {call: (*api).nodes, summary: "List the servers that share the store", permission: record.Everything, answer: wire.NodesAnswer{}},
		"DELETE /nodes/{name}": {call: (*api).removeNode, summary: "Remove a server that is gone for good; what it had reserved counts as used", permission: record.Everything,
			answer: wire.RemovedNode{}},
		"GET /backup": {stream: (*api).backup, summary: "Take a backup", permission: record.Everything, query: []string{"seal"}, content: "application/octet-stream"},
		"POST /store/repair": {call: (*api).repair, summary: "Open a store in doubt, or believe the clock again", permission: record.Everything,
			body: wire.RepairBody{}, answer: wire.RepairedAnswer{}, closed: true},
		"POST /console/link": {call: (*api).consoleLink, summary: "Make a link that signs in to the console once", permission: record.Everything, status: http.StatusCreated, answer: wire.Link{}, closed: true},
	}
}
