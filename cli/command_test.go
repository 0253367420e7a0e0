package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

func TestCreateShowsTheKeyAndHowToUseIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	r := till(t, "create", "--address", at, "--name", "nightly", "--upstream", "openai", "--max-activations", "10k", "--rate", "60/m",
		"--max-concurrency", "4", "--idle-timeout", "24h", "--first-use-within", "7d", "--charge", "success",
		"--paths", "/v1/chat/completions,/v1/models", "--methods", "POST", "--ips", "10.0.0.0/8", "--pin-ip", "--self-revoke=false",
		"--role", "ci", "--owner", "ops", "--purpose", "tests", "--label", "team=search", "--metadata", "ticket=7")
	if r.code != 0 || r.err != "" {
		t.Fatalf("exit %d: %s", r.code, r.err)
	}
	fits(t, r.out)
	admintest.Equal(t, "the output", admintest.Steady(r.out), `Key      till_sk_STRING
Id       key_ID
Limits   10000 activations, 60/m, 4 at a time, idle 24h, first use within 168h

The key is shown this once. To use it:

  export OPENAI_BASE_URL=https://agents.example.com/v1
  export OPENAI_API_KEY=till_sk_STRING
`)
	k := admintest.Get[wire.Listed](t, w.Do("GET", "/keys", "")).Keys[0]
	if k.Name != "nightly" || k.Charge != record.ChargeSuccess || len(k.Paths) != 2 || k.Methods[0] != "POST" || k.IPs[0] != "10.0.0.0/8" ||
		!k.PinIP || k.SelfRevoke || k.Role != "ci" || k.Owner != "ops" || k.Purpose != "tests" || k.Labels["team"] != "search" || k.Metadata["ticket"] != "7" {
		t.Errorf("the key is %+v", k)
	}
}

func TestCreateForAnUpstreamWithoutAPreset(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Base = ""
	r := till(t, "create", "--address", w.Serve(), "--upstream", "github", "--expires-at", "2100-01-01T00:00:00Z")
	fits(t, r.out)
	admintest.Equal(t, "the output", admintest.Steady(r.out), `Key      till_sk_STRING
Id       key_ID
Limits   until 2100-01-01 00:00 UTC

The key is shown this once. To use it:

  export TILL_BASE_URL=https://YOUR-SERVER
  export TILL_KEY=till_sk_STRING

The server has no public_url: put its address in place of
https://YOUR-SERVER.
`)
}

func TestCreatePrintsTheKeyEvenIfNothingElseWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/upstreams") {
			http.Error(rw, "gone", http.StatusBadGateway)
			return
		}
		http.StripPrefix(wire.BasePath, w.Handler).ServeHTTP(rw, r)
	}))
	defer front.Close()
	r := till(t, "create", "--address", front.URL, "--upstream", "openai", "--max-activations", "1")
	if r.code != 1 || !admintest.StringPattern.MatchString(r.out) || !strings.Contains(r.err, "502") {
		t.Errorf("exit %d\n%s\n%s", r.code, r.out, r.err)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	key := w.NewKey(`{"name":"one","upstream":"openai","max_activations":5}`)
	w.NewKey(`{"name":"two","upstream":"openai","max_activations":5}`)
	w.NewKey(`{"name":"two","upstream":"openai","max_activations":5}`)
	garbled := key.ScopedKey[:len(key.ScopedKey)-1]
	for name, test := range map[string]struct {
		args    []string
		code    int
		message string
	}{
		"help":                          {nil, 0, ""},
		"help of a command":             {[]string{"create", "--help"}, 0, ""},
		"a command that is not there":   {[]string{"foo"}, 2, "there is no such command"},
		"a command that is nearly one":  {[]string{"lst"}, 2, "did you mean list"},
		"a flag of till":                {[]string{"--nope"}, 2, "unknown flag: --nope"},
		"a flag of a command":           {[]string{"list", "--nope"}, 2, "unknown flag: --nope"},
		"a limit below zero":            {[]string{"list", "--limit", "-1"}, 2, "--limit must be a count"},
		"an argument too many":          {[]string{"list", "x"}, 2, "takes no arguments"},
		"an argument too few":           {[]string{"revoke"}, 2, "name the keys"},
		"create without a limit":        {[]string{"create", "--name", "x"}, 2, "set at least one limit"},
		"a count that is none":          {[]string{"create", "--max-activations", "many"}, 2, "500, 10k or 1M"},
		"a limit in dollars":            {[]string{"create", "--upstream", "openai", "--max-spend-usd", "$5", "--max-tokens", "1M"}, 0, ""},
		"dollars that are none":         {[]string{"create", "--upstream", "openai", "--max-spend-usd", "five"}, 2, "--max-spend-usd: an amount is written"},
		"a real key to be sealed":       {[]string{"create", "--max-activations", "5", "--upstream", "spare", "--upstream-key", "sk-real"}, 0, ""},
		"no real key to be sealed":      {[]string{"create", "--max-activations", "5", "--upstream", "spare", "--upstream-key", "-"}, 2, "standard input is empty"},
		"a real key of two lines":       {[]string{"create", "--max-activations", "5", "--upstream", "spare", "--upstream-key", "sk-real\nx"}, 1, "upstream_key: must be one line"},
		"a scoped key to be sealed":     {[]string{"create", "--max-activations", "5", "--upstream", "spare", "--upstream-key", key.ScopedKey}, 1, "not a scoped key"},
		"a key with child keys":         {[]string{"create", "--max-activations", "5", "--upstream", "openai", "--delegate"}, 0, ""},
		"what the server refuses":       {[]string{"create", "--expires-in", "soon", "--upstream", "openai"}, 1, "expires_in: a duration"},
		"a grant of nothing":            {[]string{"grant", "one"}, 2, "say what to add"},
		"a grant of a wrong count":      {[]string{"grant", "one", "--activations", "x"}, 2, "--activations"},
		"a grant of money":              {[]string{"grant", "one", "--spend-usd", "5"}, 1, "the key has no such limit"},
		"a key that is not there":       {[]string{"show", "three"}, 1, `no key has the id or name "three"`},
		"an id that is not there":       {[]string{"show", "key_01M86CZR4HQ80C5C66DDK59VMG"}, 1, "no key has the id"},
		"a name of two":                 {[]string{"show", "two"}, 1, "several keys have the name"},
		"a beginning of two":            {[]string{"show", "t"}, 2, "is the beginning of several keys"},
		"a beginning, for good":         {[]string{"revoke", "on"}, 2, "this cannot be undone"},
		"nothing for a name":            {[]string{"show", ""}, 2, "must not be empty"},
		"a live key to forget":          {[]string{"forget", "one"}, 1, "revoke it first"},
		"a string for an id":            {[]string{"show", key.ScopedKey}, 2, "belongs in no argument"},
		"an admin token for an id":      {[]string{"show", "till_admin_x"}, 2, "belongs in no argument"},
		"a string for a filter":         {[]string{"list", "--q", key.ScopedKey}, 2, "belongs in no argument"},
		"a string for an upstream":      {[]string{"create", "--max-activations", "1", "--upstream", key.ScopedKey}, 1, "is not configured"},
		"a string for a number":         {[]string{"create", "--max-concurrency", key.ScopedKey}, 2, "--max-concurrency"},
		"a garbled string for env":      {[]string{"env", garbled}, 2, "all of it was copied"},
		"an upstream that is not there": {[]string{"env", key.ScopedKey, "--upstream", "nope"}, 2, "the upstreams are: github, openai, spare"},
		"an address for up":             {[]string{"up"}, 2, "--address names a running server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := till(t, append(test.args, "--address", at)...)
			if r.code != test.code || !strings.Contains(r.err, test.message) {
				t.Errorf("exit %d, want %d with %q: %s", r.code, test.code, test.message, r.err)
			}
			if test.code == 0 && r.out == "" || test.code != 0 && r.out != "" {
				t.Errorf("printed %q", r.out)
			}
			fits(t, r.out)
			for _, secret := range []string{key.ScopedKey, garbled, "till_admin_x", "sk-real"} {
				if strings.Contains(r.err, secret) {
					t.Errorf("the error repeats a secret: %s", r.err)
				}
			}
		})
	}
}

var now = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

func at(d time.Duration) *time.Time {
	t := now.Add(d)
	return &t
}

func count(n int64) *int64 { return &n }

func TestTheTableFitsWhateverIsInIt(t *testing.T) {
	t.Parallel()
	const id = "key_01M86CZR4HQ80C5C66DDK59VMG"
	keys := []*wire.KeyObject{
		{ID: id, Name: "nightly", Upstream: "openai", Status: record.Active, UsedActivations: 12, MaxActivations: count(500), ExpiresAt: at(5 * time.Hour)},
		{ID: id, Upstream: "gh", Status: record.Revoked, UsedActivations: 0, EndedAt: at(-3 * 24 * time.Hour), ExpiresAt: at(time.Hour)},
	}
	var b strings.Builder
	if err := printTable(&b, keys, now); err != nil {
		t.Fatal(err)
	}
	admintest.Equal(t, "a narrow table", b.String(), `ID                             NAME    FOR    STATUS  USED   ENDS
key_01M86CZR4HQ80C5C66DDK59VMG nightly openai active  12/500 in 5h
key_01M86CZR4HQ80C5C66DDK59VMG -       gh     revoked 0      3d ago
`)
	keys = append(keys, &wire.KeyObject{ID: id, Name: "a name that somebody found clear enough", Upstream: "an-upstream-of-63-letters", Status: record.Suspended,
		UsedActivations: 999_999, MaxActivations: count(123_456_789), EndedAt: at(-400 * 24 * time.Hour)})
	b.Reset()
	if err := printTable(&b, keys, now); err != nil {
		t.Fatal(err)
	}
	fits(t, b.String())
	admintest.Equal(t, "a wide table", b.String(), `ID                             NAME       FOR       STATUS    USED      ENDS
key_01M86CZR4HQ80C5C66DDK59VMG nightly    openai    active    12/500    in 5h
key_01M86CZR4HQ80C5C66DDK59VMG -          gh        revoked   0         3d ago
key_01M86CZR4HQ80C5C66DDK59VMG a name th… an-upstr… suspended 999k/123M 400d ago
`)
	b.Reset()
	if err := printTable(&b, nil, now); err != nil {
		t.Fatal(err)
	}
	admintest.Equal(t, "no keys", b.String(), "No keys. Mint one with: caddy till create --max-activations 500\n")
}

func TestTheSheetShowsWhatIsLeft(t *testing.T) {
	t.Parallel()
	k := &wire.KeyObject{
		ID: "key_01M86CZR4HQ80C5C66DDK59VMG", Name: "nightly", Upstream: "openai", Custody: "held", Status: record.Active,
		MaxActivations: count(500), RemainingActivations: count(287), UsedActivations: 211, HeldActivations: 2,
		ExpiresAt: at(5 * time.Hour), Rate: "60/m", MaxConcurrency: 4, IdleTimeout: "24h", FirstUseWithin: "1h", Charge: record.ChargeSuccess,
		Paths:   []string{"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/models"},
		Methods: []string{"GET", "POST"}, IPs: []string{"10.0.0.0/8"}, PinIP: true, SelfRevoke: true, Role: "ci", Owner: "ops", Purpose: "the nightly tests",
		Labels: map[string]string{"team": "search", "env": "ci"}, Metadata: map[string]string{"ticket": "7"},
		CreatedAt: *at(-time.Hour), CreatedBy: "operator", FirstUsedAt: at(-50 * time.Minute), LastUsedAt: at(-4 * time.Second), LastIP: "10.1.2.3",
	}
	var b strings.Builder
	if err := printSheet(&b, k, now); err != nil {
		t.Fatal(err)
	}
	fits(t, b.String())
	admintest.Equal(t, "the sheet", b.String(), `Id          key_01M86CZR4HQ80C5C66DDK59VMG
Name        nightly
Status      active
Upstream    openai (held)
Limits      500 activations, until 2026-11-24 14:00 UTC, 60/m, 4 at a time,
            idle 24h, first use within 1h
Used        211 activations
In flight   2 activations
Left        [#############...........] 287 of 500
Expires     2026-11-24 14:00:00 UTC (in 5h)
Charged     successes only, within twice the attempts
Paths       /v1/chat/completions /v1/responses /v1/embeddings /v1/models
Methods     GET POST
Addresses   10.0.0.0/8
Pinned      to the first address that uses it
Role        ci
Owner       ops
Purpose     the nightly tests
Label       env=ci
Label       team=search
Metadata    ticket=7
Minted      2026-11-24 08:00:00 UTC (1h ago) by operator
First used  2026-11-24 08:10:00 UTC (50m ago)
Last used   2026-11-24 08:59:56 UTC (4s ago)
From        10.1.2.3
`)
}

func TestTheBarIsFullOrEmptyOnlyWhenTheKeyIs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		left, limit int64
		want        string
	}{
		{5, 5, "[########################] 5 of 5"},
		{999_999, 1_000_000, "[#######################.] 999999 of 1000000"},
		{1, 1_000_000, "[#.......................] 1 of 1000000"},
		{0, 1_000_000, "[........................] 0 of 1000000"},
	} {
		admintest.Equal(t, "the bar", bar(test.left, test.limit), test.want)
	}
}

func TestWrapBreaksNoWords(t *testing.T) {
	t.Parallel()
	got := strings.Join(wrap([]string{"one", "", "two", "a-word-that-is-longer-than-the-line", "three"}, ", ", 10), "\n")
	admintest.Equal(t, "the lines", got, "one, two,\na-word-that-is-longer-than-the-line,\nthree")
}

func TestListFollowsPagesAndSaysWhenThereIsMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	for i := range 12 {
		w.NewKey(fmt.Sprintf(`{"name":"k%02d","upstream":"openai","max_activations":5}`, i))
	}
	r := till(t, "list", "--address", at, "--limit", "5")
	if lines := strings.Count(r.out, "\n"); lines != 6 || r.err != "There are more; these are 5. Show all with: --limit 0\n" {
		t.Errorf("%d lines, and %q", lines, r.err)
	}
	r = till(t, "list", "--address", at, "--limit", "0", "--status", "active", "--sort", "created", "--json")
	var all wire.Listed
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || len(all.Keys) != 12 || all.Keys[0].Name != "k00" || all.Next != "" {
		t.Errorf("%v: %d keys, %s", err, len(all.Keys), r.err)
	}
	r = till(t, "list", "--address", at, "--label", "team=none")
	if r.code != 0 || r.out != "No key matches; list all with: caddy till list\n" {
		t.Errorf("exit %d: %s", r.code, r.out)
	}
}

func TestKeysAreNamedByIDOrName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	one := w.NewKey(`{"name":"ci","upstream":"openai","max_activations":5}`)
	two := w.NewKey(`{"name":"ci-nightly","upstream":"openai","max_activations":5}`)
	for arg, want := range map[string]string{one.ID: one.ID, "ci": one.ID, "ci-": two.ID, "CI-N": two.ID, two.ID: two.ID} {
		r := till(t, "show", arg, "--address", at, "--json")
		var k wire.KeyObject
		if err := json.Unmarshal([]byte(r.out), &k); err != nil || k.ID != want {
			t.Errorf("%s is %s, want %s: %v: %s", arg, k.ID, want, err, r.err)
		}
	}
}

func TestActsPrintTheResultForEachKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	m := w.NewKey(`{"name":"ci","upstream":"openai","max_activations":5}`)
	other := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	for _, test := range []struct{ args, want string }{
		{"suspend ci", "Suspended key_ID (ci)\n  suspended, 5 of 5 activations left\n"},
		{"resume ci", "Resumed key_ID (ci)\n  active, 5 of 5 activations left\n"},
		{"grant ci --activations 1k", "Granted more to key_ID (ci)\n  active, 1005 of 1005 activations left\n"},
		{"revoke ci " + other.ID + " --reason done", "Revoked key_ID (ci)\nRevoked key_ID\n"},
		{"forget " + other.ID, "Forgot key_ID\n"},
		{"forget ci --json", "{\n  \"forgotten\": true,\n  \"id\": \"key_ID\"\n}\n"},
	} {
		r := till(t, append(strings.Fields(test.args), "--address", at)...)
		if r.code != 0 || r.err != "" {
			t.Errorf("%s: exit %d: %s", test.args, r.code, r.err)
		}
		admintest.Equal(t, test.args, admintest.Steady(r.out), test.want)
	}
	if a := w.Do("GET", "/keys/"+m.ID, ""); a.Status != 404 {
		t.Errorf("the forgotten key answered %d", a.Status)
	}
}

func TestOneKeyThatFailsDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"name":"ci","upstream":"openai","max_activations":5}`)
	r := till(t, "revoke", "nope", "ci", "--json", "--address", w.Serve())
	var k wire.KeyObject
	if err := json.Unmarshal([]byte(r.out), &k); err != nil || k.ID != m.ID || k.Status != record.Revoked {
		t.Errorf("%v: %s", err, r.out)
	}
	if r.code != 1 || !strings.Contains(r.err, `"nope"`) {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	admintest.Equal(t, "stats", till(t, "stats", "--address", w.Serve()).out, `Keys active                         1
Activations used, by all keys ever  0
Tokens                              0
Spend                               $0.00
Requests in flight                  0
Forfeited by crashes, at most       0
Store                               in order
`)
}
