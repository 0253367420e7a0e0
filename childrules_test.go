package till

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// offspring mints a child as its parent's holder does: of each kind that the parent
// limits, half of what is left.
func (s *site) offspring(t *testing.T, parent minted) minted {
	t.Helper()
	body := map[string]any{"delegate": true, "unlimited": true}
	left := s.view(parent).Remaining
	for kind, field := range map[record.Kind]string{record.Activations: "max_activations", record.Tokens: "max_tokens", record.Nanodollars: "max_spend_usd"} {
		if n := left[kind] / 2; left[kind] != record.NoLimit {
			body[field] = n
			if kind == record.Nanodollars {
				body[field] = record.FormatUSD(n)
			}
		}
	}
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	status, _, answer := s.serve(parent, asks{method: "POST", path: "/till/self/keys", body: string(b)})
	var child struct {
		ID  string `json:"id"`
		Key string `json:"scoped_key"`
	}
	if err := json.Unmarshal([]byte(answer), &child); err != nil || status != http.StatusCreated {
		t.Fatalf("minting a child with %s: %d %s", b, status, answer)
	}
	return minted{child.ID, child.Key}
}

// TestAParentWithAnyOneRuleHasChildrenThatWork gives the topmost key one rule and the
// right to delegate. Its children and theirs are minted with no more than the page on
// child keys says they need; what the rule allows passes with each of them, in every
// form, and what it forbids is refused with the rule's own code.
func TestAParentWithAnyOneRuleHasChildrenThatWork(t *testing.T) {
	t.Parallel()
	plain, streamed := chat("gpt-5-mini"), chat("gpt-5-mini")
	streamed.body = `{"stream":true,` + streamed.body[1:]
	form := asks{method: "POST", path: "/v1/audio/transcriptions", header: http.Header{"Content-Type": {"multipart/form-data; boundary=b"}},
		body: "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-5-mini\r\n--b--\r\n"}
	list := asks{method: "GET", path: "/v1/models"}
	socket := asks{method: "GET", path: "/v1/realtime", header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}}
	from := func(a asks, addr string) asks {
		a.from = addr
		return a
	}
	long := func(n int) asks {
		a := plain
		a.body = fmt.Sprintf(`{"model":"gpt-5-mini","messages":[],"max_tokens":%d}`, n)
		return a
	}
	everything := []asks{plain, streamed, form, list, socket}
	read := []asks{plain, streamed, list} // where the body has to be metered
	type rule struct {
		field  string // of a key, which the rule is about
		set    func(*record.Key)
		passes []asks
		no     *asks
		code   record.Code
		spent  bool // only when its budget is used up
	}
	no := func(a asks) *asks { return &a }
	rules := map[string]rule{
		"nothing":     {set: func(*record.Key) {}, passes: everything},
		"activations": {field: "max_activations", set: limit(record.Activations, 48), passes: everything, no: no(plain), code: record.CodeActivationsExhausted, spent: true},
		"tokens":      {field: "max_tokens", set: limit(record.Tokens, 80_000), passes: read, no: no(asks{method: "POST", path: "/v1/images/generations", body: `{"model":"x","prompt":"y"}`}), code: record.CodeNotMeterable},
		"dollars":     {field: "max_spend_usd", set: limit(record.Nanodollars, 5_000_000_000), passes: read, no: no(chat("made-up")), code: record.CodePriceUnknown},
		"no activations but an end": {field: "expires_at", set: func(k *record.Key) {
			k.Limit[record.Activations], k.ExpiresAt = record.NoLimit, time.Now().Add(time.Hour)
		}, passes: everything},
		"unlimited": {set: limit(record.Activations, record.NoLimit), passes: everything},
		"charge":    {field: "charge", set: func(k *record.Key) { k.Charge = record.ChargeSuccess }, passes: everything},
		"charge, at its end": {field: "charge", set: func(k *record.Key) { k.Charge, k.Limit[record.Activations] = record.ChargeSuccess, 48 }, passes: []asks{plain},
			no: no(plain), code: record.CodeActivationsExhausted, spent: true},
		"renewal": {field: "renews", set: func(k *record.Key) { k.Renews = record.Daily }, passes: everything},
		"dollars a request": {field: "max_request_spend_usd", set: func(k *record.Key) { k.Limit[record.Nanodollars], k.MaxRequestSpend = 5_000_000_000, 1_000_000 },
			passes: read, no: no(chat("gpt-5")), code: record.CodeBudgetTooSmall},
		"no fit": {field: "fit", set: func(k *record.Key) { k.Limit[record.Tokens], k.KeepBound = 80_000, true },
			passes: read, no: no(long(100_000)), code: record.CodeBudgetTooSmall},
		"fit":            {set: limit(record.Tokens, 80_000), passes: []asks{long(100_000)}},
		"unknown prices": {field: "unknown_price", set: func(k *record.Key) { k.Limit[record.Nanodollars], k.CountOnly = 5_000_000_000, true }, passes: append(read, chat("made-up"))},
		"idle":           {field: "idle_timeout", set: func(k *record.Key) { k.IdleTimeout = time.Hour }, passes: everything},
		"first use":      {field: "first_use_within", set: func(k *record.Key) { k.FirstUseWithin = time.Hour }, passes: everything},
		"rate": {field: "rate", set: func(k *record.Key) { k.Rate = record.Rate{N: 20, Per: time.Hour} }, passes: everything,
			no: no(plain), code: record.CodeRateLimited, spent: true},
		"concurrency": {field: "max_concurrency", set: func(k *record.Key) { k.MaxConcurrency = 1 }, passes: everything},
		"not its own to revoke": {field: "self_revoke", set: func(k *record.Key) { k.SelfRevoke = false }, passes: everything,
			no: no(asks{method: "DELETE", path: "/till/self"}), code: record.CodeMethodNotAllowed},
		"models": {field: "models", set: models("gpt-5-mini"), passes: []asks{plain, streamed, form, list}, no: no(chat("gpt-5")), code: record.CodeModelNotAllowed},
		"models, and none named": {field: "models", set: models("gpt-5-mini"), passes: []asks{plain},
			no: no(asks{method: "POST", path: "/v1/chat/completions", body: `{"messages":[]}`}), code: record.CodeModelNotAllowed},
		"models, over a socket": {field: "models", set: models("gpt-5-mini"), passes: []asks{plain}, no: no(socket), code: record.CodeModelNotAllowed},
		"models and dollars": {field: "models", set: func(k *record.Key) {
			k.Scope.Models, k.Limit[record.Nanodollars] = []string{"gpt-5-mini"}, 5_000_000_000
		},
			passes: read, no: no(chat("made-up")), code: record.CodeModelNotAllowed},
		"paths":   {field: "paths", set: func(k *record.Key) { k.Scope.Paths = []string{"/v1/chat/*", "/v1/models"} }, passes: []asks{plain, streamed, list}, no: no(form), code: record.CodePathNotAllowed},
		"methods": {field: "methods", set: func(k *record.Key) { k.Scope.Methods = []string{"GET"} }, passes: []asks{list, socket}, no: no(plain), code: record.CodeMethodNotAllowed},
		"networks": {field: "ips", set: func(k *record.Key) { k.Scope.IPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, passes: everything,
			no: no(from(plain, "10.0.0.1")), code: record.CodeIPNotAllowed},
		"pin":              {field: "pin_ip", set: func(k *record.Key) { k.Scope.PinIP = true }, passes: everything, no: no(from(plain, "10.0.0.1")), code: record.CodeIPNotAllowed},
		"a role":           {field: "role", set: func(k *record.Key) { k.Role = "plain" }, passes: everything},
		"a role's models":  {field: "role", set: func(k *record.Key) { k.Role = "models" }, passes: []asks{plain, streamed, form, list}, no: no(chat("gpt-5")), code: record.CodeModelNotAllowed},
		"a role's paths":   {field: "role", set: func(k *record.Key) { k.Role = "paths" }, passes: []asks{plain, streamed, list}, no: no(form), code: record.CodePathNotAllowed},
		"a role's most":    {field: "role", set: func(k *record.Key) { k.Role = "most" }, passes: read, no: no(chat("made-up")), code: record.CodePriceUnknown},
		"a role's budget":  {field: "role", set: func(k *record.Key) { k.Role = "budget" }, passes: read, no: no(chat("made-up")), code: record.CodePriceUnknown},
		"another upstream": {field: "upstream", set: func(k *record.Key) { k.Upstream = "raw" }, passes: []asks{{method: "POST", path: "/any", body: "x"}, {method: "GET", path: "/any"}}},
	}
	covered := []string{"custody", "delegate", "name", "owner", "purpose", "labels", "metadata"} // sealed ones: in e2e; the rest is for people
	for _, r := range rules {
		covered = append(covered, r.field)
	}
	coversEveryField(t, covered)

	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			roles := map[string]record.Role{}
			for _, name := range []string{"plain", "models", "paths", "most", "budget"} {
				role := record.NewRole()
				switch name {
				case "models":
					role.Scope.Models = []string{"gpt-5-mini"}
				case "paths":
					role.Scope.Paths = []string{"/v1/chat/*", "/v1/models"}
				case "most":
					role.Max[record.Activations], role.Max[record.Nanodollars] = 1000, 5_000_000_000
				case "budget":
					role.Budget.Limit[record.Activations], role.Budget.Limit[record.Nanodollars] = 1000, 5_000_000_000
				}
				roles[name] = role
			}
			s := newSite(t, roles)
			keys := []minted{s.mint(rule.set)}
			for range 3 {
				keys = append(keys, s.offspring(t, keys[len(keys)-1]))
			}
			for i := len(keys) - 1; i >= 0; i-- { // the lowest descendants have the least
				for _, a := range rule.passes {
					if status, code, says := s.serve(keys[i], a); code != "" {
						t.Errorf("%d below the top, %s %s %.60s: %d %s", i, a.method, a.path, a.body, status, says)
					}
				}
				if rule.no == nil {
					continue
				}
				for tries := 0; ; tries++ {
					_, code, says := s.serve(keys[i], *rule.no)
					if code == "" && rule.spent && tries < 100 {
						continue
					}
					if code != rule.code {
						t.Errorf("%d below the top, what is forbidden: %s, want %s: %s", i, code, rule.code, says)
					}
					break
				}
				if rule.code == record.CodeRateLimited {
					break // of all of them together
				}
			}
			for i, k := range keys {
				if v := s.view(k); v.Held != (record.Amounts{}) {
					t.Errorf("%d below the top: %v are held", i, v.Held)
				}
			}
		})
	}
}

// coversEveryField compares a test's cases with the fields of keys that clients may
// set.
func coversEveryField(t *testing.T, covered []string) {
	t.Helper()
	for _, f := range record.KeyFields {
		if f.Choice != record.Noted && !slices.Contains(covered, f.Name) {
			t.Errorf("field %s of keys is in no rule of this test", f.Name)
		}
	}
}
