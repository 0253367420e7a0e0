package admin

import (
	"fmt"
	"io"
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

func TestRevokeAllAsksFirstAndSaysHowMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.serve()
	for _, name := range []string{"morning", "noon", "evening"} {
		w.mint(`{"upstream":"openai","max_activations":5,"owner":"ann","name":"` + name + `"}`)
	}
	other := w.mint(`{"upstream":"openai","max_activations":5,"name":"nightly"}`)
	run := func(args ...string) ran { return till(t, append([]string{"revoke", "--address", address}, args...)...) }
	for _, test := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{}, 2, "", "--all"},
		{[]string{"--all", "nightly"}, 2, "", "not both"},
		{[]string{"nightly", "--owner", "ann"}, 2, "", "--owner belongs to --all"},
		{[]string{"--all", "--owner", ""}, 2, "", `"--owner" flag: it is empty`},
		{[]string{"--all", "--owner", "ann"}, 2, "", "3 keys would be revoked for ever: say --yes"},
		{[]string{"--all", "--owner", "nobody"}, 0, "0 keys would be revoked.", ""},
		{[]string{"--all", "--owner", "ann", "--except", "morning", "--dry-run"}, 0, "2 keys would be revoked.", ""},
		{[]string{"--all", "--owner", "ann", "--except", "morn", "--dry-run"}, 2, "", "in full"},
		{[]string{"--all", "--owner", "ann", "--except", "nobody", "--yes"}, 1, "", "--except: no key has"},
		{[]string{"--all", "--owner", "ann", "--except", "", "--yes"}, 2, "", "it is empty"},
		{[]string{"nightly", "--except", "morning"}, 2, "", "--except belongs to --all"},
		{[]string{"--all", "--owner", "ann", "--dry-run"}, 0, "3 keys would be revoked.", ""},
		{[]string{"--all", "--owner", "ann", "--yes", "--reason", "left"}, 0, "Revoked 3 keys, and ended 0 running requests.", ""},
		{[]string{"--all", "--owner", "ann", "--dry-run", "--json"}, 0, `"already_revoked": 3`, ""},
	} {
		got := run(test.args...)
		if got.code != test.code || !strings.Contains(got.out, test.out) || !strings.Contains(got.err, test.err) {
			t.Errorf("revoke %v: %d\n%s%s", test.args, got.code, got.out, got.err)
		}
		if strings.Contains(got.err, "\x1b") {
			t.Errorf("a bar in a pipe: %q", got.err)
		}
	}
	w.use(other, 1)
	if got := run("--all", "--yes", "--json"); got.code != 0 || !strings.Contains(got.out, `"revoked": 1`) {
		t.Errorf("every key: %d %s%s", got.code, got.out, got.err)
	}
	for text, ok := range map[string]bool{"1200\n": true, " 1,200 \n": true, "y\n": false, "12\n": false, "": false} {
		var said strings.Builder
		if err := confirmed(strings.NewReader(text), &said, 1200); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if !strings.Contains(said.String(), "1,200 keys will be revoked for ever") {
			t.Errorf("asked: %q", said.String())
		}
	}
	if err := confirm(strings.NewReader("1\n"), io.Discard, 1); err == nil {
		t.Error("a pipe was asked")
	}
}
