package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func TestListPicksAndPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ids []string
	for i := range 7 {
		m := w.NewKey(fmt.Sprintf(`{"name":"batch-%d","upstream":"openai","max_activations":3,"labels":{"n":"%d"}}`, i, i))
		ids = append(ids, m.ID)
	}
	between := w.Time().UTC().Format(time.RFC3339Nano)
	other := w.NewKey(`{"name":"Other","upstream":"github","max_activations":1,"owner":"ops","role":"ci"}`)
	w.Use(other, 1)
	if a := w.Do("POST", "/keys/"+ids[0]+"/suspend", ""); a.Status != 200 {
		t.Fatal(a.Body)
	}
	listing := func(query string) (found []string, next string) {
		t.Helper()
		page := admintest.Get[wire.Listed](t, w.Do("GET", "/keys?"+query, ""))
		for _, k := range page.Keys {
			found = append(found, k.ID)
		}
		return found, page.Next
	}
	backwards := slices.Clone(ids)
	slices.Reverse(backwards)
	for query, want := range map[string][]string{
		"":                                 append([]string{other.ID}, backwards...),
		"sort=created":                     append(slices.Clone(ids), other.ID),
		"status=suspended":                 ids[:1],
		"status=exhausted":                 {other.ID},
		"upstream=github":                  {other.ID},
		"role=ci":                          {other.ID},
		"owner=ops":                        {other.ID},
		"owner=nobody":                     nil,
		"created_by=operator&q=OTH":        {other.ID},
		"label.n=3":                        ids[3:4],
		"label.n=3&label.m=1":              nil,
		"q=" + ids[5]:                      ids[5:6],
		"q=batch-&sort=created":            ids,
		"unused_for=1h":                    nil,
		"unused_for=1ns&upstream=github":   {other.ID},
		"created_before=" + between:        backwards,
		"created_before=1h":                nil,
		"limit=500&status=active&q=batch-": backwards[:6],
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			if found, next := listing(query); !slices.Equal(found, want) || next != "" {
				t.Errorf("found %v next %q, want %v", found, next, want)
			}
		})
	}
	var paged []string
	query := "limit=3&sort=created"
	for pages := 1; ; pages++ {
		found, next := listing(query)
		paged = append(paged, found...)
		if next == "" {
			if pages != 3 {
				t.Errorf("8 keys came in %d pages of 3", pages)
			}
			break
		}
		query = "limit=3&sort=created&cursor=" + next
	}
	if want := append(slices.Clone(ids), other.ID); !slices.Equal(paged, want) {
		t.Errorf("the pages hold %v, want %v", paged, want)
	}
}

func TestListRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for query, message := range map[string]string{
		"state=active":        `unknown filter "state"`,
		"label.=x":            `unknown filter "label."`,
		"status=live":         "status must be",
		"sort=name":           "sort must be",
		"limit=0":             `limit must be from 1 to 500, got "0"`,
		"limit=501":           `limit must be from 1 to 500, got "501"`,
		"limit=many":          `limit must be from 1 to 500, got "many"`,
		"unused_for=x":        `unused_for must be a duration above 0, such as 90s, 24h or 7d, got "x"`,
		"unused_for=-1h":      `unused_for must be a duration above 0, such as 90s, 24h or 7d, got "-1h"`,
		"created_before=x":    "created_before must be a time such as",
		"created_before=-1h":  "created_before must be a time such as",
		"cursor=zz":           "cursor must be",
		"owner=a&owner=b":     "owner may be given once",
		"q=a&limit=1&limit=2": "limit may be given once",
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			a := w.Do("GET", "/keys?"+query, "")
			if code, got := a.Fault(t); a.Status != 400 || code != "invalid_request" || !strings.Contains(got, message) {
				t.Errorf("answered %d %s %q, want %q", a.Status, code, got, message)
			}
		})
	}
}

func TestPatchChangesWhatItNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mint := `{"name":"a","upstream":"openai","max_activations":5,"expires_in":"1h","rate":"60/m","idle_timeout":"1h","max_concurrency":2,` +
		`"paths":["/v1/models"],"ips":["192.0.2.1"],"pin_ip":true,"owner":"ops","labels":{"a":"1"},"charge":"success"}`
	for name, test := range map[string]struct {
		patch string
		want  func(before, after *wire.KeyObject) bool
	}{
		"a name":             {`{"name":"b"}`, func(_, k *wire.KeyObject) bool { return k.Name == "b" && k.Owner == "ops" && k.Version == 2 }},
		"all labels at once": {`{"labels":{"b":"2"}}`, func(_, k *wire.KeyObject) bool { return len(k.Labels) == 1 && k.Labels["b"] == "2" }},
		"a higher limit":     {`{"max_activations":50}`, func(_, k *wire.KeyObject) bool { return *k.MaxActivations == 50 && *k.RemainingActivations == 50 }},
		"a later end":        {`{"expires_in":"2h"}`, func(b, k *wire.KeyObject) bool { return k.ExpiresAt.After(b.ExpiresAt.Add(50 * time.Minute)) }},
		"scope":              {`{"paths":["/v1/*"],"methods":["GET"],"ips":null}`, func(_, k *wire.KeyObject) bool { return k.Paths[0] == "/v1/*" && k.Methods[0] == "GET" && k.IPs == nil }},
		"null takes an end":  {`{"expires_at":null}`, func(_, k *wire.KeyObject) bool { return k.ExpiresAt == nil && *k.MaxActivations == 5 }},
		"null takes a limit": {`{"max_activations":null,"charge":null}`, func(_, k *wire.KeyObject) bool { return k.MaxActivations == nil && k.ExpiresAt != nil }},
		"null takes the rest": {`{"name":null,"rate":null,"idle_timeout":null,"max_concurrency":null,"paths":null,"ips":null,"pin_ip":null,"owner":null,"labels":null,"max_tokens":null}`, func(_, k *wire.KeyObject) bool {
			return k.Name+k.Rate+k.IdleTimeout+k.Owner == "" && k.MaxConcurrency == 0 && len(k.Paths)+len(k.IPs)+len(k.Labels) == 0 && !k.PinIP
		}},
		"an endless key": {`{"max_activations":null,"charge":"forwarded","expires_in":null,"unlimited":true}`, func(_, k *wire.KeyObject) bool { return k.MaxActivations == nil && k.ExpiresAt == nil }},
		"nothing":        {`{}`, func(b, k *wire.KeyObject) bool { return k.Version == b.Version }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := w.NewKey(mint).KeyObject
			after := admintest.Get[wire.KeyObject](t, w.Do("PATCH", "/keys/"+before.ID, test.patch))
			if !test.want(before, &after) {
				t.Errorf("after %s the key is %+v", test.patch, after)
			}
			shown := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+before.ID, ""))
			if a, b := mustJSON(t, after), mustJSON(t, shown); a != b {
				t.Errorf("the answer and the key differ:\n%s\n%s", a, b)
			}
		})
	}
}

func TestPatchRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	live := w.NewKey(`{"name":"live","upstream":"openai","max_activations":5}`)
	dead := w.NewKey(`{"name":"dead","upstream":"openai","max_activations":5}`)
	if a := w.Do("POST", "/keys/"+dead.ID+"/revoke", ""); a.Status != 200 {
		t.Fatal(a.Body)
	}
	for name, test := range map[string]struct {
		id, patch, match string
		status           int
		code, message    string
	}{
		"another version":            {live.ID, `{"name":"x"}`, `"7"`, 412, "version_mismatch", "at version 1, not 7"},
		"no version":                 {live.ID, `{"name":"x"}`, `now`, 400, "invalid_request", "If-Match"},
		"an upstream":                {live.ID, `{"upstream":"github"}`, "", 400, "invalid_request", `unknown field "upstream"`},
		"what is said at mint":       {live.ID, `{"delegate":true}`, "", 400, "invalid_request", `unknown field "delegate"`},
		"a field that has no null":   {live.ID, `{"self_revoke":null}`, "", 400, "invalid_request", "self_revoke cannot be null"},
		"the last limit taken":       {live.ID, `{"max_activations":null}`, "", 400, "invalid_request", "nothing ends by itself"},
		"an end in the past":         {live.ID, `{"expires_at":"2020-01-01T00:00:00Z"}`, "", 400, "invalid_request", "revoke it"},
		"no body":                    {live.ID, ``, "", 400, "invalid_request", "JSON object"},
		"a limit of a dead key":      {dead.ID, `{"max_activations":9}`, "", 409, "key_ended", "only its name and labels"},
		"a key that is not there":    {"key_01M86CZR4HQ80C5C66DDK59VMG", `{"name":"x"}`, "", 404, "not_found", "no such key"},
		"something that is no id":    {"nonsense", `{"name":"x"}`, "", 404, "not_found", "no such key"},
		"an empty version of itself": {live.ID, `{"name":"x"}`, `"0"`, 400, "invalid_request", "If-Match"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var header []string
			if test.match != "" {
				header = []string{"If-Match", test.match}
			}
			a := w.Do("PATCH", "/keys/"+test.id, test.patch, header...)
			if code, message := a.Fault(t); a.Status != test.status || code != test.code || !strings.Contains(message, test.message) {
				t.Errorf("answered %d %s %q, want %d %s %q", a.Status, code, message, test.status, test.code, test.message)
			}
		})
	}
	t.Cleanup(func() {
		if k := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+live.ID, "")); k.Version != 1 {
			t.Errorf("a refused change left version %d", k.Version)
		}
	})
	renamed := admintest.Get[wire.KeyObject](t, w.Do("PATCH", "/keys/"+dead.ID, `{"name":"late","labels":{"a":"b"}}`, "If-Match", `"2"`))
	if renamed.Name != "late" || renamed.Labels["a"] != "b" {
		t.Errorf("a dead key's name and labels did not change: %+v", renamed)
	}
}

func TestGrantRevivesWhatRanOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":2}`)
	w.Use(m, 2)
	if k := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+m.ID, "")); k.Status != record.Exhausted {
		t.Fatalf("after 2 of 2 the key is %s", k.Status)
	}
	k := admintest.Get[wire.KeyObject](t, w.Do("POST", "/keys/"+m.ID+"/grant", `{"activations":3}`))
	if k.Status != record.Active || *k.MaxActivations != 5 || *k.RemainingActivations != 3 || k.UsedActivations != 2 {
		t.Errorf("after the grant: %+v", k)
	}
	w.Use(m, 3)
	for body, message := range map[string]string{
		`{}`:                     "set at least one of activations",
		`{"activations":-1}`:     "activations must be",
		`{"tokens":5}`:           "tokens cannot be added: the key has no such limit",
		`{"spend_usd":"1.00"}`:   "spend_usd cannot be added: the key has no such limit",
		`{"spend_usd":"lots"}`:   "spend_usd: an amount is written",
		`{"expires_in":"1h"}`:    "does not expire",
		`{"expires_in":"later"}`: "expires_in: a duration",
		`{"more":1}`:             `unknown field "more"`,
	} {
		a := w.Do("POST", "/keys/"+m.ID+"/grant", body)
		if code, got := a.Fault(t); a.Status != 400 || code != "invalid_request" || !strings.Contains(got, message) {
			t.Errorf("%s answered %d %s %q, want %q", body, a.Status, code, got, message)
		}
	}
}

func TestRevokeIsForEverAndEndsWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	cutBy := make(chan *record.Refusal, 1)
	g := new(limiter.Grant)
	ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x",
		OnCut: func(r *record.Refusal) { cutBy <- r }}
	if refusal := w.Live(m).Reserve(t.Context(), ask, g); refusal != nil {
		t.Fatal(refusal)
	}
	conflict := func(method, path, code string) {
		t.Helper()
		a := w.Do(method, "/keys/"+m.ID+path, `{"activations":1}`)
		if got, _ := a.Fault(t); a.Status != http.StatusConflict || got != code {
			t.Errorf("%s %s answered %d %s, want 409 %s", method, path, a.Status, got, code)
		}
	}
	conflict("DELETE", "", "key_alive")
	k := admintest.Get[struct {
		wire.KeyObject
		StreamsCut *int `json:"streams_cut"`
	}](t, w.Do("POST", "/keys/"+m.ID+"/revoke", `{"reason":"the laptop was lost"}`))
	if k.Status != record.Revoked || k.EndedAt == nil || k.EndedReason != "the laptop was lost" || k.StreamsCut == nil || *k.StreamsCut != 1 {
		t.Errorf("after the revocation: %+v", k)
	}
	if r := <-cutBy; r.Code != record.CodeKeyRevoked {
		t.Errorf("the running request was cut with %s", r.Code)
	}
	g.Settle(record.Amounts{record.Activations: 1})
	for _, path := range []string{"/grant", "/suspend", "/resume"} {
		conflict("POST", path, "key_revoked")
	}
	again := admintest.Get[wire.KeyObject](t, w.Do("POST", "/keys/"+m.ID+"/revoke", ""))
	if again.EndedReason != "the laptop was lost" {
		t.Errorf("a second revocation changed the reason to %q", again.EndedReason)
	}
	if a := w.Do("DELETE", "/keys/"+m.ID, ""); a.Status != http.StatusNoContent || a.Body != "" {
		t.Errorf("forgetting answered %d %s", a.Status, a.Body)
	}
	if a := w.Do("GET", "/keys/"+m.ID, ""); a.Status != 404 {
		t.Errorf("the forgotten key answered %d", a.Status)
	}
	if a := w.Do("POST", "/keys/"+m.ID+"/revoke", `{"why":"x"}`); a.Status != 400 {
		t.Errorf("an unknown field in a revocation answered %d", a.Status)
	}
}

func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	if k := admintest.Get[wire.KeyObject](t, w.Do("POST", "/keys/"+m.ID+"/suspend", "")); k.Status != record.Suspended || k.SuspendedBy != "operator" {
		t.Errorf("suspended: %s by %q", k.Status, k.SuspendedBy)
	}
	if k := admintest.Get[wire.KeyObject](t, w.Do("POST", "/keys/"+m.ID+"/resume", "")); k.Status != record.Active || k.SuspendedBy != "" {
		t.Errorf("resumed: %s by %q", k.Status, k.SuspendedBy)
	}
	w.Use(m, 1)
}

func TestUsageCountsByHourAndDay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	w.Use(m, 3)
	w.Live(m).Count(record.CodePathNotAllowed)
	h := admintest.Get[limiter.History](t, w.Do("GET", "/keys/"+m.ID+"/usage", ""))
	var admitted, refused int64
	for _, b := range h.Hours {
		admitted += b.Activations
		refused += b.Refusals[record.CodePathNotAllowed]
	}
	if admitted != 3 || refused != 1 || len(h.Days) == 0 {
		t.Errorf("the history is %+v", h)
	}
	paid := w.NewKey(`{"upstream":"openai","max_spend_usd":"5.00"}`)
	used := record.Amounts{record.Activations: 1, record.Nanodollars: 1_250_000_000}
	g := new(limiter.Grant)
	if refusal := w.Live(paid).Reserve(t.Context(), &limiter.Ask{Bound: used, Method: "POST", Path: "/v1/chat/completions"}, g); refusal != nil {
		t.Fatal(refusal)
	}
	g.Settle(used)
	a := w.Do("GET", "/keys/"+paid.ID+"/usage", "")
	if h := admintest.Get[wire.UsageAnswer](t, a); len(h.Hours) != 1 || h.Hours[0].SpendUSD != "1.25" || len(h.Days) != 1 || h.Days[0].SpendUSD != "1.25" {
		t.Errorf("what was spent is not written as amounts are elsewhere: %s", a.Body)
	}
	if a := w.Do("GET", "/keys/key_01M86CZR4HQ80C5C66DDK59VMG/usage", ""); a.Status != 404 {
		t.Errorf("an unknown key's usage answered %d", a.Status)
	}
}

func TestHoldersSeeOnlyWhatConcernsThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"name":"n","upstream":"openai","max_activations":5,"owner":"SECRET-owner","purpose":"SECRET-purpose","role":"ci",
		"labels":{"SECRET-label":"x"},"metadata":{"SECRET-meta":"x"},"rate":"5/s"}`)
	w.Use(m, 1)
	view, err := w.Get(limiter.Operator, m.ID)
	if err != nil {
		t.Fatal(err)
	}
	holder := mustJSON(t, HolderJSON(view))
	for _, hidden := range []string{"SECRET", `"role"`, `"created_by"`, `"last_ip"`, `"version"`, `"custody"`, view.Lookup.String()} {
		if strings.Contains(holder, hidden) {
			t.Errorf("a holder is shown %s: %s", hidden, holder)
		}
	}
	for _, shown := range []string{`"used_activations":1`, `"remaining_activations":4`, `"rate":"5/s"`, `"status":"active"`} {
		if !strings.Contains(holder, shown) {
			t.Errorf("a holder is not shown %s: %s", shown, holder)
		}
	}
	if full := mustJSON(t, keyJSON(view)); strings.Contains(full, view.Lookup.String()) {
		t.Errorf("the lookup hash is shown: %s", full)
	}
}
