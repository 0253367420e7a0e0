package admin

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

// wideKey is a key that the operator minted, limited in everything.
const wideKey = `{"upstream":"openai","role":"ci","max_activations":20,"max_tokens":20000,"max_spend_usd":"20","max_request_spend_usd":"1",
	"expires_in":"20h","idle_timeout":"10h","first_use_within":"10h","rate":"60/m","max_concurrency":2,"models":["gpt-5-mini"],
	"paths":["/v1/chat/completions"],"methods":["POST"],"ips":["10.0.0.0/8"],"pin_ip":true,"self_revoke":false}`

// bareKey is a key without any limit.
const bareKey = `{"upstream":"openai","role":"ci","unlimited":true}`

// yields lists the calls that give their caller a working key, or let a key do more
// than before, with bodies for the two keys above. Without a body for a key, the
// call cannot be made on that key.
var yields = map[string]struct{ wide, bare []string }{
	"POST /keys":             {wide: []string{strings.Replace(wideKey, `"role":"ci",`, "", 1)}},
	"POST /keys/{id}/rotate": {wide: []string{`{}`, `{"grace":"720h"}`}, bare: []string{`{}`, `{"grace":"720h"}`}},
	"POST /keys/{id}/grant": {wide: []string{`{"activations":1}`, `{"tokens":1}`, `{"spend_usd":"0.01"}`, `{"expires_in":"1h"}`},
		bare: nil},
	"POST /keys/{id}/resume": {wide: []string{``}, bare: []string{``}},
	"PATCH /keys/{id}":       {wide: slices.Concat(slices.Collect(maps.Values(widening)), taking), bare: []string{`{"rate":"90/m","pin_ip":true,"self_revoke":true,"charge":"success","max_activations":1}`}},
}

// widening has, for each field that can widen a key, a change that does so. taking
// lists the changes that remove a rule.
var (
	widening = map[string]string{
		"max_activations": `{"max_activations":21}`, "max_tokens": `{"max_tokens":20001}`,
		"max_spend_usd": `{"max_spend_usd":"20.01"}`, "max_spend_cents": `{"max_spend_cents":2001}`,
		"max_request_spend_usd": `{"max_request_spend_usd":"2"}`, "renews": `{"renews":"day"}`, "unknown_price": `{"unknown_price":"count_only"}`,
		"expires_in": `{"expires_in":"30h"}`, "expires_at": fmt.Sprintf(`{"expires_at":%q}`, time.Now().Add(30*time.Hour).Format(time.RFC3339)),
		"idle_timeout": `{"idle_timeout":"11h"}`, "first_use_within": `{"first_use_within":"11h"}`,
		"rate": `{"rate":"90/m"}`, "max_concurrency": `{"max_concurrency":3}`,
		"models": `{"models":["gpt-5-mini","o3"]}`, "paths": `{"paths":["/v1/*"]}`, "methods": `{"methods":["POST","GET"]}`, "ips": `{"ips":["0.0.0.0/0"]}`,
		"pin_ip": `{"pin_ip":false}`, "self_revoke": `{"self_revoke":true}`, "charge": `{"charge":"success"}`,
	}
	taking = []string{
		`{"max_request_spend_usd":null}`, `{"idle_timeout":null}`, `{"first_use_within":null}`, `{"rate":null}`, `{"max_concurrency":null}`,
		`{"models":null}`, `{"paths":null}`, `{"methods":null}`, `{"ips":null}`, `{"pin_ip":null}`,
	}
	// neutral lists the fields that do not change what a key may do.
	neutral = []string{"name", "owner", "purpose", "labels", "metadata", "fit"}
)

// harmlessCalls lists the calls that change something but give nobody a key, with
// the reason.
var harmlessCalls = map[string]string{
	"DELETE /keys/{id}":        "it forgets a dead one",
	"POST /keys/{id}/suspend":  "it stops",
	"POST /keys/{id}/revoke":   "it ends",
	"POST /keys/revoke":        "it ends",
	"POST /leaks":              "it ends",
	"POST /tokens/{id}/revoke": "it ends",
	"POST /fingerprint":        "it changes nothing",
	"POST /tokens":             "a role is given by those who have it: see TestNobodyGivesMoreThanTheyHave",
	"POST /lockdown":           "the operator's alone",
	"DELETE /lockdown":         "the operator's alone",
	"POST /store/repair":       "the operator's alone",
	"DELETE /nodes/{name}":     "the operator's alone",
	"POST /seal/rotate":        "the operator's alone",
	"POST /console/link":       "the operator's alone",
}

// narrower returns roles that may do everything and see all keys, each with one
// ceiling that the keys above exceed.
func narrower() map[string]record.Role {
	at := func(set func(*record.Role)) record.Role {
		r := record.NewRole()
		r.Permissions, r.Sees = record.Permissions, record.SeesAll
		set(&r)
		return r
	}
	return map[string]record.Role{
		"upstream":        at(func(r *record.Role) { r.Upstreams = []string{"github"} }),
		"max_activations": at(func(r *record.Role) { r.Max[record.Activations] = 10 }),
		"max_tokens":      at(func(r *record.Role) { r.Max[record.Tokens] = 10_000 }),
		"max_spend_usd":   at(func(r *record.Role) { r.Max[record.Nanodollars] = 10e9 }),
		"expires_at":      at(func(r *record.Role) { r.MaxLifetime = time.Hour }),
		"models":          at(func(r *record.Role) { r.Scope.Models = []string{"gpt-5-nano"} }),
		"paths":           at(func(r *record.Role) { r.Scope.Paths = []string{"/v1/messages"} }),
		"methods":         at(func(r *record.Role) { r.Scope.Methods = []string{"PUT"} }),
		"ips":             at(func(r *record.Role) { r.Scope.IPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }),
		"budget":          at(func(r *record.Role) { r.Budget.Limit[record.Activations] = 1000 }),
	}
}

func TestEveryCallThatChangesSomethingIsJudgedOrGivesNothing(t *testing.T) {
	t.Parallel()
	for pattern := range operations {
		_, judged := yields[pattern]
		if _, harmless := harmlessCalls[pattern]; judged == harmless && !strings.HasPrefix(pattern, "GET ") {
			t.Errorf("%s must be in one of yields and harmlessCalls: does it give its caller a working key?", pattern)
		}
		if harmless, ok := harmlessCalls[pattern]; ok && harmless == "the operator's alone" && calls[pattern].permission != record.Everything {
			t.Errorf("%s takes %s", pattern, calls[pattern].permission)
		}
	}
	fields := reflect.TypeFor[wire.Settable]()
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		if _, wide := widening[name]; wide == slices.Contains(neutral, name) {
			t.Errorf("%s must be in one of widening and neutral: does a change of it let a key do more?", name)
		}
	}
}

// TestNobodyIsGivenAKeyThatTheyCouldNotMint has callers, whose role permits the
// call but has a lower ceiling, try to obtain or widen a key of another caller.
func TestNobodyIsGivenAKeyThatTheyCouldNotMint(t *testing.T) {
	t.Parallel()
	for field, role := range narrower() {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			w := newYieldWorld(t, map[string]record.Role{"narrow": role})
			by := w.as(w.newToken("narrow one", "narrow").Token)
			for pattern, bodies := range yields {
				for mint, bodies := range map[string][]string{wideKey: bodies.wide, bareKey: bodies.bare} {
					if pattern == "POST /keys" && field == "budget" {
						continue // the budget counts what they mint
					}
					for _, body := range bodies {
						if strings.Contains(body, `"`+field+`":null`) || field == "max_activations" && mint == bareKey && strings.Contains(body, field) {
							continue // a removed limit becomes the ceiling
						}
						w.tryYield(by, pattern, mint, body, http.StatusForbidden, strings.Fields(field)[0])
					}
				}
			}
		})
	}
}

// TestACallerWhoCouldMintAKeyIsGivenIt is the opposite: with ceilings that the keys do not
// exceed, every call succeeds.
func TestACallerWhoCouldMintAKeyIsGivenIt(t *testing.T) {
	t.Parallel()
	exact, open := record.NewRole(), record.NewRole()
	open.Permissions, open.Sees = record.Permissions, record.SeesAll
	exact.Permissions, exact.Sees = record.Permissions, record.SeesAll
	exact.Upstreams, exact.MaxLifetime = []string{"openai"}, 20*time.Hour
	exact.Max = record.Amounts{record.Activations: 20, record.Tokens: 20_000, record.Nanodollars: 20e9}
	exact.Scope = scope.Scope{
		Models: []string{"gpt-5-*"}, Paths: []string{"/v1/*"}, Methods: []string{"POST"}, IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}
	w := newYieldWorld(t, map[string]record.Role{"open": open, "exact": exact})
	as := w.as(w.newToken("open one", "open").Token)
	for pattern, bodies := range yields {
		for mint, bodies := range map[string][]string{wideKey: bodies.wide, bareKey: bodies.bare} {
			for _, body := range bodies {
				w.tryYield(as, pattern, mint, body, http.StatusOK, "")
			}
		}
	}
	as = w.as(w.newToken("exact one", "exact").Token)
	w.tryYield(as, "POST /keys/{id}/rotate", wideKey, `{"grace":"1h"}`, http.StatusOK, "")
	w.tryYield(as, "POST /keys/{id}/resume", wideKey, ``, http.StatusOK, "")
	w.tryYield(as, "PATCH /keys/{id}", wideKey, `{"rate":"90/m"}`, http.StatusOK, "")
	// A call that only takes away gives nobody anything, whatever the key is.
	as = w.as(w.newToken("exact two", "exact").Token)
	w.tryYield(as, "PATCH /keys/{id}", bareKey, `{"name":"renamed","rate":"1/h","max_concurrency":1}`, http.StatusOK, "")
	w.tryYield(as, "POST /keys/{id}/suspend", bareKey, ``, http.StatusOK, "")
}

// TestCallersRotateTheirOwnKeysWithinTheirCeilings is about a caller who sees only his
// own keys, even after a ceiling was lowered.
func TestCallersRotateTheirOwnKeysWithinTheirCeilings(t *testing.T) {
	t.Parallel()
	role := record.NewRole()
	role.Permissions = record.Permissions
	role.Max[record.Activations], role.MaxLifetime = 50, time.Hour
	role.Budget.Limit[record.Activations] = 1000
	w := newYieldWorld(t, map[string]record.Role{"maker": role})
	as := w.as(w.newToken("anna", "maker").Token)
	id := as.NewKey(`{"upstream":"openai"}`).ID
	rotate := func() admintest.Answer { return as.Do("POST", "/keys/"+id+"/rotate", `{"grace":"1m"}`) }
	if a := rotate(); a.Status != http.StatusOK {
		t.Errorf("within the ceilings: %d %s", a.Status, a.Body)
	}
	role.Max[record.Activations] = 49
	if err := w.SetRoles(map[string]record.Role{"maker": role}); err != nil {
		t.Fatal(err)
	}
	if a := rotate(); a.Status != http.StatusForbidden || !strings.Contains(a.Body, "max_activations may be 49 in all, got 50") {
		t.Errorf("above a ceiling that was lowered: %d %s", a.Status, a.Body)
	}
	admintest.Get[wire.KeyObject](t, as.Do("PATCH", "/keys/"+id, `{"max_activations":49}`))
	if a := rotate(); a.Status != http.StatusOK {
		t.Errorf("brought within it: %d %s", a.Status, a.Body)
	}
}

func newYieldWorld(t *testing.T, roles map[string]record.Role) *world {
	t.Helper()
	w := newWorld(t)
	ci := record.NewRole()
	ci.Permissions, ci.Sees = []record.Permission{record.KeysRevoke}, record.SeesRole
	roles["ci"] = ci
	if err := w.SetRoles(roles); err != nil {
		t.Fatal(err)
	}
	w.newToken("watch", "ci")
	return w
}

// tryYield makes a key and a call on it. If the call is refused, the key must be
// unchanged and the answer must name the rule.
func (w *world) tryYield(by *world, pattern, mint, body string, status int, names string) {
	w.T.Helper()
	id := w.NewKey(mint).ID
	if strings.HasSuffix(pattern, "/resume") { // suspended by somebody who sees less than the caller
		admintest.Get[wire.KeyObject](w.T, w.as(w.newToken("watch of "+id, "ci").Token).Do("POST", "/keys/"+id+"/suspend", ""))
	}
	before := w.Do("GET", "/keys/"+id, "").Body
	method, path, _ := strings.Cut(strings.ReplaceAll(pattern, "{id}", id), " ")
	a := by.Do(method, path, body)
	if a.Status != status && !(status == http.StatusOK && a.Status/100 == 2) {
		w.T.Errorf("%s %s on %.60s: %d %s", pattern, body, mint, a.Status, a.Body)
		return
	}
	if a.Status/100 == 2 {
		return
	}
	if code, message := a.Fault(w.T); code != "above_ceiling" || !strings.Contains(message, names) &&
		!strings.Contains(message, "renews") && !strings.Contains(message, "unknown_price") { // a ceiling refuses these fields by themselves
		w.T.Errorf("%s %s: %s %s", pattern, body, code, message)
	}
	if after := w.Do("GET", "/keys/"+id, "").Body; after != before {
		w.T.Errorf("%s %s: the key was %s and is %s", pattern, body, before, after)
	}
	if strings.Contains(a.Body, "scoped_key") {
		w.T.Errorf("%s %s: the refusal has a string", pattern, body)
	}
}
