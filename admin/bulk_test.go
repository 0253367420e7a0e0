package admin

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

func TestRevokingManyCountsDryAndRevokesWhatMatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ann []*wire.Minted
	for i := range 30 {
		ann = append(ann, w.NewKey(fmt.Sprintf(`{"upstream":"openai","max_activations":5,"owner":"ann","labels":{"team":"t%d"}}`, i%2)))
	}
	bob := w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"bob"}`)
	w.Do("POST", "/keys/"+ann[0].ID+"/revoke", "")
	found := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", `{"filter":{"owner":"ann"},"dry_run":true}`))
	if found.Matched != 30 || found.Revoked != 0 || found.AlreadyRevoked != 1 || !found.DryRun {
		t.Errorf("dry: %+v", found)
	}
	if some := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", `{"filter":{"owner":"ann"},"except":["`+ann[3].ID+`","`+bob.ID+`"],"dry_run":true}`)); some.Matched != 29 {
		t.Errorf("but for one of them: %+v", some)
	}
	w.Use(ann[1], 1)
	done := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", `{"filter":{"owner":"ann","label.team":"t1"},"reason":"over"}`))
	if done.Matched != 15 || done.Revoked != 15 || done.Done == nil || !*done.Done || done.Reason != "over" {
		t.Errorf("revoked: %+v", done)
	}
	for i, m := range ann {
		want := i%2 == 1 || i == 0
		if k := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+m.ID, "")); (k.Status == "revoked") != want {
			t.Errorf("key %d is %s", i, k.Status)
		}
	}
	w.Use(bob, 1)
	if j := admintest.Get[wire.BulkJSON](t, w.Do("GET", "/jobs/"+done.Job, "")); j.Revoked != 15 || !*j.Done {
		t.Errorf("job: %+v", j)
	}
	if jobs := admintest.Get[struct{ Jobs []wire.BulkJSON }](t, w.Do("GET", "/jobs", "")); len(jobs.Jobs) != 1 {
		t.Errorf("jobs: %+v", jobs)
	}
	if a := w.Do("GET", "/jobs/99", ""); a.Status != http.StatusNotFound || !strings.Contains(a.Body, "no such job") {
		t.Errorf("a job that is not: %d", a.Status)
	}
	for _, body := range []string{
		`{}`, `{"filter":{}}`, `{"filter":{"owner":""}}`, `{"filter":{"colour":"red"}}`, `{"filter":{"limit":"5"}}`,
		`{"filter":{"status":"odd"}}`, `{"all":true,"filter":{"owner":"bob"}}`, `{"filter":{"q":"key_"}}`, `{"except":["` + ann[2].ID + `"]}`, `{"all":true,"except":["key_nosuch"]}`, `{"filters":{"owner":"bob"}}`,
	} {
		if a := w.Do("POST", "/keys/revoke", body); a.Status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	w.Use(bob, 1)
	if all := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", `{"all":true,"except":["`+ann[2].ID+`"]}`)); all.Revoked != 14 || all.Matched != 30 || all.AlreadyRevoked != 16 {
		t.Errorf("all: %+v", all)
	}
}

// statuses lists every key with its status.
func (w *world) statuses(query string) map[string]record.Status {
	w.T.Helper()
	found := make(map[string]record.Status)
	for _, k := range admintest.Get[wire.Listed](w.T, w.Do("GET", "/keys?"+query, "")).Keys {
		found[k.ID] = k.Status
	}
	return found
}

// TestTheListTheDryRunAndTheRevocationPickTheSameKeys: what the list shows for a
// filter is what people expect a revocation by that filter to end.
func TestTheListTheDryRunAndTheRevocationPickTheSameKeys(t *testing.T) {
	t.Parallel()
	values := map[string][]string{
		"status":   {"active", "exhausted", "expired", "revoked", "suspended"},
		"upstream": {"openai", "github", "spare"}, "role": {"member"}, "owner": {"ann"}, "created_by": {"robot"},
		"parent": {"ID of parent"}, "name": {"nightly"}, "label.NAME": {"a"}, "unused_for": {"1h"}, "created_before": {"1h"},
		"credential_fingerprint": {"of openai", "of github"}, "q": {"night", "ID of nightly"},
	}
	for _, field := range limiter.FilterFields {
		if field.Orders {
			continue
		}
		if values[field.Name] == nil {
			t.Errorf("no value is tried for %s", field.Name)
		}
		for _, value := range values[field.Name] {
			t.Run(field.Name+" "+value, func(t *testing.T) {
				t.Parallel()
				clock := newAhead()
				w := newWorldAt(t, clock)
				if err := w.SetRoles(admintest.Team()); err != nil {
					t.Fatal(err)
				}
				ids := make(map[string]string)
				mint := func(w *world, name, rest string) *wire.Minted {
					m := w.NewKey(fmt.Sprintf(`{"name":%q,%s}`, name, rest))
					ids["ID of "+name] = m.ID
					return m
				}
				mint(w, "nightly", `"upstream":"openai","max_activations":5,"owner":"ann","labels":{"NAME":"a"}`)
				mint(w, "elsewhere", `"upstream":"github","max_activations":5,"owner":"ann"`)
				mint(w, "sealed", `"upstream":"spare","max_activations":5,"upstream_key":"sk-real-of-openai"`)
				mint(w, "other", `"upstream":"spare","max_activations":5,"upstream_key":"sk-real-other"`)
				mint(w.as(w.newToken("robot", "member").Token), "of a role", `"upstream":"openai","max_activations":5,"models":["gpt-5"]`)
				w.Use(mint(w, "exhausted", `"upstream":"openai","max_activations":1`), 1)
				for _, name := range []string{"parent", "expire", "revoke", "suspend"} {
					rest := `"upstream":"openai","max_activations":5,"delegate":true`
					if name == "expire" {
						rest += `,"expires_in":"1h"`
					}
					parent := w.Live(mint(w, name, rest))
					child := parent.Key().Child()
					child.Limit[record.Activations] = 1
					_, lookup, err := token.MintKey()
					if err != nil {
						t.Fatal(err)
					}
					if _, err := w.Delegate(t.Context(), parent, &limiter.Ask{Own: true}, child, limiter.Birth{Lookup: lookup}); err != nil {
						t.Fatal(err)
					}
				}
				for _, act := range []string{"revoke", "suspend"} {
					w.Do("POST", "/keys/"+ids["ID of "+act]+"/"+act, "")
				}
				clock.advance(2 * time.Hour)
				mint(w, "late", `"upstream":"spare","max_activations":5,"upstream_key":"sk-real-late"`)
				clock.advance(time.Minute) // it counts although something else is being written

				if id := ids[value]; id != "" {
					value = id
				} else if upstream, ok := strings.CutPrefix(value, "of "); ok {
					value = w.Fingerprint(token.NewSecret("sk-real-of-" + upstream))
				}
				before, picked := w.statuses(""), w.statuses(url.Values{field.Name: {value}}.Encode())
				if len(picked) == 0 || len(picked) == len(before) {
					t.Fatalf("the list shows %d of %d keys", len(picked), len(before))
				}
				already := 0
				for _, status := range picked {
					if status == record.Revoked {
						already++
					}
				}
				ask := func(rest string) wire.BulkJSON {
					return admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", fmt.Sprintf(`{"filter":{%q:%q}%s}`, field.Name, value, rest)))
				}
				if dry := ask(`,"dry_run":true`); dry.Matched != int64(len(picked)) || dry.AlreadyRevoked != int64(already) {
					t.Errorf("the list shows %d keys, %d of them revoked; the dry run has %+v", len(picked), already, dry)
				}
				if done := ask(""); done.Matched != int64(len(picked)) || done.Revoked != int64(len(picked)-already) || done.AlreadyRevoked != int64(already) {
					t.Errorf("the list shows %d keys, %d of them revoked; the revocation has %+v", len(picked), already, done)
				}
				maps.DeleteFunc(before, func(id string, status record.Status) bool { return status != record.Revoked && picked[id] == "" })
				want := slices.Sorted(maps.Keys(before))
				if got := slices.Sorted(maps.Keys(w.statuses("status=revoked"))); !slices.Equal(got, want) {
					t.Errorf("revoked are %s, want %s", got, want)
				}
			})
		}
	}
}

// TestWhatWasCountedIsWhatEnds: somebody confirms a number of keys, and meanwhile
// another one that matches is minted.
func TestWhatWasCountedIsWhatEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	counted := w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"ann"}`)
	dry := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", `{"filter":{"owner":"ann"},"dry_run":true}`))
	if dry.Matched != 1 || dry.At == nil {
		t.Fatalf("the count says %+v, and has to say up to when keys count", dry)
	}
	later := w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"ann"}`)
	act := mustJSON(t, object{"filter": object{"owner": "ann", "created_before": dry.At}})
	if done := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", act)); done.Matched != dry.Matched || done.Revoked != 1 {
		t.Errorf("%+v", done)
	}
	if w.Live(counted).View().Status != record.Revoked {
		t.Error("the key that was counted goes on")
	}
	w.Use(later, 1)
	alone := mustJSON(t, object{"filter": object{"created_before": dry.At}, "dry_run": true})
	if again := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", alone)); again.Matched != 1 || again.AlreadyRevoked != 1 || !again.At.Equal(*dry.At) {
		t.Errorf("by the time alone: %+v", again)
	}
	if a := w.Do("POST", "/keys/revoke", `{"filter":{"created_before":"yesterday"}}`); a.Status != http.StatusBadRequest {
		t.Errorf("a time that is none: %d %s", a.Status, a.Body)
	}
}

// TestTheKeysThatAreLeftOutAreNotWithoutNumber: each key of the store is compared with
// them, under its lock.
func TestTheKeysThatAreLeftOutAreNotWithoutNumber(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	left, ends := w.NewKey(`{"upstream":"openai","max_activations":5}`), w.NewKey(`{"upstream":"openai","max_activations":5}`)
	except := func(n int) string {
		return mustJSON(t, object{"all": true, "except": slices.Repeat([]string{left.ID}, n)})
	}
	a := w.Do("POST", "/keys/revoke", except(limiter.MaxExcept+1))
	if code, message := a.Fault(t); a.Status != http.StatusBadRequest || code != "invalid_request" || !strings.Contains(message, "except") || !strings.Contains(message, "1000") {
		t.Errorf("one too many: %d %s", a.Status, a.Body)
	}
	if _, err := w.CountMatches(t.Context(), limiter.Operator, limiter.Filter{Except: make([]string, limiter.MaxExcept+1)}); err == nil {
		t.Error("the limiter takes them")
	}
	if all := admintest.Get[wire.BulkJSON](t, w.Do("POST", "/keys/revoke", except(limiter.MaxExcept))); all.Revoked != 1 {
		t.Errorf("as many as may be: %+v", all)
	}
	if w.Live(left).View().Status != record.Active || w.Live(ends).View().Status != record.Revoked {
		t.Error("another key ended")
	}
}
