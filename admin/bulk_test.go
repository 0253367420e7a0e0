package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
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
