package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
)

func TestRevokingManyCountsDryAndRevokesWhatMatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ann []*wire.Minted
	for i := range 30 {
		ann = append(ann, w.mint(fmt.Sprintf(`{"upstream":"openai","max_activations":5,"owner":"ann","labels":{"team":"t%d"}}`, i%2)))
	}
	bob := w.mint(`{"upstream":"openai","max_activations":5,"owner":"bob"}`)
	w.do("POST", "/keys/"+ann[0].ID+"/revoke", "")
	found := get[wire.BulkJSON](t, w.do("POST", "/keys/revoke", `{"filter":{"owner":"ann"},"dry_run":true}`))
	if found.Matched != 30 || found.Revoked != 0 || found.AlreadyRevoked != 1 || !found.DryRun {
		t.Errorf("dry: %+v", found)
	}
	if some := get[wire.BulkJSON](t, w.do("POST", "/keys/revoke", `{"filter":{"owner":"ann"},"except":["`+ann[3].ID+`","`+bob.ID+`"],"dry_run":true}`)); some.Matched != 29 {
		t.Errorf("but for one of them: %+v", some)
	}
	w.use(ann[1], 1)
	done := get[wire.BulkJSON](t, w.do("POST", "/keys/revoke", `{"filter":{"owner":"ann","label.team":"t1"},"reason":"over"}`))
	if done.Matched != 15 || done.Revoked != 15 || done.Done == nil || !*done.Done || done.Reason != "over" {
		t.Errorf("revoked: %+v", done)
	}
	for i, m := range ann {
		want := i%2 == 1 || i == 0
		if k := get[wire.KeyObject](t, w.do("GET", "/keys/"+m.ID, "")); (k.Status == "revoked") != want {
			t.Errorf("key %d is %s", i, k.Status)
		}
	}
	w.use(bob, 1)
	if j := get[wire.BulkJSON](t, w.do("GET", "/jobs/"+done.Job, "")); j.Revoked != 15 || !*j.Done {
		t.Errorf("job: %+v", j)
	}
	if jobs := get[struct{ Jobs []wire.BulkJSON }](t, w.do("GET", "/jobs", "")); len(jobs.Jobs) != 1 {
		t.Errorf("jobs: %+v", jobs)
	}
	if a := w.do("GET", "/jobs/99", ""); a.status != http.StatusNotFound || !strings.Contains(a.body, "no such job") {
		t.Errorf("a job that is not: %d", a.status)
	}
	for _, body := range []string{
		`{}`, `{"filter":{}}`, `{"filter":{"owner":""}}`, `{"filter":{"colour":"red"}}`, `{"filter":{"limit":"5"}}`,
		`{"filter":{"status":"odd"}}`, `{"all":true,"filter":{"owner":"bob"}}`, `{"filter":{"q":"key_"}}`, `{"except":["` + ann[2].ID + `"]}`, `{"all":true,"except":["key_nosuch"]}`, `{"filters":{"owner":"bob"}}`,
	} {
		if a := w.do("POST", "/keys/revoke", body); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	w.use(bob, 1)
	if all := get[wire.BulkJSON](t, w.do("POST", "/keys/revoke", `{"all":true,"except":["`+ann[2].ID+`"]}`)); all.Revoked != 14 || all.Matched != 30 || all.AlreadyRevoked != 16 {
		t.Errorf("all: %+v", all)
	}
}
