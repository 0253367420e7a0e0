package admin

import (
	"net/http"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// operations describes every route, for openapi.json.
var operations = map[string]operation{
	"POST /keys": {summary: "Mint a key", permission: record.KeysCreate, replays: true,
		body: wire.MintBody{}, status: http.StatusCreated, answer: wire.Minted{}},
	"GET /keys": {summary: "List keys", permission: record.KeysRead,
		query: filterNames(), status: http.StatusOK, answer: wire.Listed{}},
	"GET /keys/{id}": {summary: "Show a key", permission: record.KeysRead, status: http.StatusOK, answer: wire.KeyObject{}},
	"PATCH /keys/{id}": {summary: "Change a living key; if it has ended, only name and labels can change", permission: record.KeysUpdate,
		headers: []string{"If-Match"}, body: wire.ChangeBody{}, status: http.StatusOK, answer: wire.KeyObject{}},
	"DELETE /keys/{id}":     {summary: "Forget a key that has ended", permission: record.KeysUpdate, status: http.StatusNoContent},
	"GET /keys/{id}/usage":  {summary: "Show what a key did, by hour and by day", permission: record.KeysRead, status: http.StatusOK, answer: wire.UsageAnswer{}},
	"POST /keys/{id}/grant": {summary: "Add to a key's limits, and revive it", permission: record.KeysUpdate, replays: true, body: wire.GrantBody{}, status: http.StatusOK, answer: wire.KeyObject{}},
	"POST /keys/{id}/suspend": {summary: "Stop a key until it is resumed", permission: record.KeysRevoke, replays: true,
		status: http.StatusOK, answer: wire.KeyObject{}},
	"POST /keys/{id}/resume": {summary: "End a suspension", permission: record.KeysRevoke, replays: true, status: http.StatusOK, answer: wire.KeyObject{}},
	"POST /keys/{id}/revoke": {summary: "End a key for ever, and its running requests", permission: record.KeysRevoke, replays: true,
		body: wire.RevokeBody{}, optional: true, status: http.StatusOK, answer: wire.RevokedKey{}},
	"POST /keys/{id}/rotate": {summary: "Give a key another string", permission: record.KeysRotate, replays: true,
		body: wire.RotateBody{}, optional: true, status: http.StatusOK, answer: wire.Rotated{}},
	"POST /keys/revoke": {summary: "End all keys that match a filter", permission: record.KeysRevoke, replays: true,
		body: wire.RevokeManyBody{}, status: http.StatusOK, answer: wire.BulkJSON{}},
	"GET /jobs":      {summary: "List the jobs that end many keys", permission: record.KeysRevoke, status: http.StatusOK, answer: wire.JobsAnswer{}},
	"GET /jobs/{id}": {summary: "Show a job", permission: record.KeysRevoke, status: http.StatusOK, answer: wire.BulkJSON{}},

	"GET /stale": {summary: "List keys that somebody should look at, each with a command that fixes it", permission: record.KeysRead,
		query: []string{"reason", "limit", "cursor"}, status: http.StatusOK, answer: wire.StaleAnswer{}},
	"POST /leaks": {summary: "Find keys and tokens in up to 8 MB of text, and revoke them", permission: record.KeysRevoke,
		body: wire.LeaksBody{}, status: http.StatusOK, answer: wire.LeaksAnswer{}},
	"POST /fingerprint": {summary: "Name a real key, to list the keys that depend on it", permission: record.KeysRead,
		body: wire.FingerprintBody{}, status: http.StatusOK, answer: wire.Fingerprinted{}},
	"GET /spend": {summary: "Add up what keys have used, part by part", permission: record.KeysRead, query: []string{"cursor"}, status: http.StatusOK, answer: wire.Spending{}},

	"POST /tokens": {summary: "Make an admin token", permission: record.TokensManage, replays: true,
		body: wire.TokenBody{}, status: http.StatusCreated, answer: wire.TokenObject{}},
	"GET /tokens": {summary: "List admin tokens", permission: record.TokensManage, query: []string{"limit", "cursor"}, status: http.StatusOK, answer: wire.ListedTokens{}},
	"POST /tokens/{id}/revoke": {summary: "End an admin token for ever", permission: record.TokensManage, replays: true,
		status: http.StatusOK, answer: wire.TokenObject{}},

	"GET /audit": {summary: "Read the audit log", permission: record.AuditRead,
		query: []string{"since", "actor", "action", "key", "sort", "limit", "cursor"}, status: http.StatusOK, answer: wire.ListedEntries{}},
	"GET /audit/verify": {summary: "Verify the audit log's chain", permission: record.AuditRead, status: http.StatusOK, answer: wire.Verdict{}},
	"GET /audit/export": {summary: "Export the audit log, an entry a line", permission: record.AuditRead, status: http.StatusOK, content: "application/jsonl"},

	"GET /roles":                    {summary: "List the configured roles", status: http.StatusOK, answer: wire.RolesAnswer{}},
	"GET /upstreams":                {summary: "List the configured upstreams", status: http.StatusOK, answer: wire.UpstreamsAnswer{}},
	"GET /upstreams/{name}/clients": {summary: "Show how an upstream's clients are pointed here", status: http.StatusOK, answer: wire.ClientsAnswer{}},
	"GET /prices":                   {summary: "List the prices that limits count with", query: []string{"model"}, status: http.StatusOK, answer: wire.ListedPrices{}},
	"GET /live":                     {summary: "Say that the process serves; on a console's site also at /till/live, without a token", status: http.StatusOK, content: "text/plain", closed: true},
	"GET /ready":                    {summary: "Say whether keys are admitted now: 200, or 503 with a line that says why not; on a console's site also at /till/ready, without a token", status: http.StatusOK, content: "text/plain", closed: true},
	"GET /stats":                    {summary: "Show the sums over all keys, and the store's state", status: http.StatusOK, answer: wire.StatsAnswer{}, closed: true},
	"GET /doctor":                   {summary: "Show what a careful operator would change", status: http.StatusOK, answer: wire.DoctorAnswer{}, closed: true},
	"GET /openapi.json":             {summary: "Show this document", status: http.StatusOK, answer: map[string]string{}, closed: true},

	"GET /events":   {summary: "Read what happens from now on to keys, as server-sent events", permission: record.KeysRead, status: http.StatusOK, content: "text/event-stream"},
	"GET /webhooks": {summary: "List the webhooks, and how deliveries to them go", permission: record.Everything, status: http.StatusOK, answer: wire.WebhooksAnswer{}},

	"GET /lockdown": {summary: "Show whether every key is refused", status: http.StatusOK, answer: wire.LockdownJSON{}, closed: true},
	"POST /lockdown": {summary: "Refuse every key at once", permission: record.Everything,
		body: wire.RevokeBody{}, optional: true, status: http.StatusOK, answer: wire.LockdownJSON{}, closed: true},
	"DELETE /lockdown": {summary: "Let keys work again", permission: record.Everything, status: http.StatusOK, answer: wire.LockdownJSON{}, closed: true},

	"GET /seal": {summary: "List the seal keys, and how many keys need each", permission: record.Everything, status: http.StatusOK, answer: wire.SealKeysAnswer{}},
	"POST /seal/rotate": {summary: "Make a new seal key; those before it still open", permission: record.Everything, replays: true,
		status: http.StatusOK, answer: wire.SealKeysAnswer{}},
	"GET /backup": {summary: "Take a backup", permission: record.Everything, query: []string{"seal"}, status: http.StatusOK, content: "application/octet-stream"},
	"POST /store/repair": {summary: "Open a store in doubt, or believe the clock again", permission: record.Everything,
		body: wire.RepairBody{}, status: http.StatusOK, answer: wire.RepairedAnswer{}, closed: true},
	"POST /console/link": {summary: "Make a link that signs in to the console once", permission: record.Everything, status: http.StatusCreated, answer: wire.Link{}, closed: true},
}
