package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/store"
)

// found returns the findings of a diagnosis.
func (w *world) found() wire.Diagnosis {
	w.T.Helper()
	return admintest.Get[wire.Diagnosis](w.T, w.Do("GET", "/doctor", ""))
}

func finding(d wire.Diagnosis, check string) *wire.Finding {
	if i := slices.IndexFunc(d.Findings, func(f wire.Finding) bool { return f.Check == check }); i >= 0 {
		return &d.Findings[i]
	}
	return nil
}

func TestDoctorFindsNothingWrongWithModestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	w.NewKey(`{"upstream":"openai","expires_in":"24h","models":["m"]}`)
	w.NewKey(`{"upstream":"openai","max_activations":100000,"idle_timeout":"24h","pin_ip":true}`)
	if d := w.found(); len(d.Findings) > 0 {
		t.Errorf("it finds %+v", d.Findings)
	}
}

func TestDoctorFindsKeysAndTokensThatMayDoTooMuch(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		path, body string
		check      string
		level      wire.Level
		what       string
	}{
		"no limit at all":      {"/keys", `{"upstream":"openai","unlimited":true,"models":["m"]}`, "unlimited_keys", wire.LevelError, "1 key has no limit at all"},
		"no end":               {"/keys", `{"upstream":"openai","max_activations":5000,"models":["m"]}`, "endless_keys", wire.LevelWarning, "1 key never expires"},
		"a budget that renews": {"/keys", `{"upstream":"openai","max_activations":5,"renews":"day"}`, "endless_keys", wire.LevelWarning, "1 key never expires"},
		"everything of an API": {"/keys", `{"upstream":"openai","expires_in":"24h"}`, "broad_keys", wire.LevelWarning, "every model and path"},
		"a token that stays":   {"/tokens", `{"name":"ops","role":"ci"}`, "endless_tokens", wire.LevelWarning, "ops"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if a := w.Do("POST", test.path, test.body); a.Status != http.StatusCreated {
				t.Fatalf("%d: %s", a.Status, a.Body)
			}
			d := w.found()
			f := finding(d, test.check)
			if f == nil || f.Level != test.level || !strings.Contains(f.What, test.what) || !strings.Contains(f.Fix, "caddy till ") {
				t.Errorf("it finds %+v", d.Findings)
			}
			if len(d.Findings) != 1 {
				t.Errorf("it finds more: %+v", d.Findings)
			}
		})
	}
}

func TestDoctorListsFilesForTheOperatorAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Files = []wire.File{{What: "the seal keys", Paths: []string{"/a", "/b"}}}
	if d := w.found(); len(d.Files) != len(w.Files) {
		t.Errorf("the operator sees %+v", d.Files)
	}
	if d := w.as(w.newToken("anna", "ci").Token).found(); len(d.Files) != 0 {
		t.Errorf("another caller sees %+v", d.Files)
	}
}

func TestDoctorPutsNoNameIntoACommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.NewToken("x; touch /tmp/ran")
	d := w.found()
	if f := finding(d, "endless_tokens"); f == nil || !strings.HasSuffix(f.Fix, "caddy till token revoke "+made.ID) {
		t.Errorf("it finds %+v", d.Findings)
	}
}

func TestDoctorCountsKeysAndNamesSome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 5 {
		w.NewKey(`{"upstream":"openai","unlimited":true,"models":["m"]}`)
	}
	revoked := w.NewKey(`{"upstream":"openai","unlimited":true}`)
	w.Do("POST", "/keys/"+revoked.ID+"/revoke", "{}")
	f := finding(w.found(), "unlimited_keys")
	if f == nil || !strings.HasPrefix(f.What, "5 keys have no limit") || strings.Count(f.What, "key_") != 3 || !strings.HasSuffix(f.What, " and 2 more") {
		t.Errorf("it finds %+v", f)
	}
}

func TestDoctorKnowsTheStateOfTheStore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		failed error
		off    time.Duration
		shared bool
		check  string
		fix    string
	}{
		"in order":  {nil, 0, false, "", ""},
		"in doubt":  {fmt.Errorf("opening: %w", store.ErrDoubt), 0, false, "store", "repair --forfeit"},
		"failed":    {errors.New("the disk is full"), 0, false, "store", "fix the cause"},
		"clock set": {nil, -time.Hour, false, "clock", "repair --clock"},

		"a database in order":       {nil, 0, true, "", ""},
		"a record that contradicts": {fmt.Errorf("opening: %w", store.Contradicted(store.Doubt("less"))), 0, true, "store", "restart this node"},
		"a database in doubt":       {fmt.Errorf("opening: %w", store.ErrDoubt), 0, true, "store", "docs/cluster.md"},
		"a database that is gone":   {fmt.Errorf("reading: %w", store.ErrUnavailable), 0, true, "store", "does the password hold"},
		"a database's clock is set": {nil, -time.Hour, true, "clock", "on its machine; when the clock is right"},
	} {
		found := stateFindings(test.failed, test.off, test.shared)
		if test.check == "" {
			if len(found) > 0 {
				t.Errorf("%s: %+v", name, found)
			}
			continue
		}
		if len(found) != 1 || found[0].Check != test.check || found[0].Level != wire.LevelError || !strings.Contains(found[0].Fix, test.fix) {
			t.Errorf("%s: %+v", name, found)
		}
	}
	w := newWorld(t)
	w.Shut()
	if d := w.found(); finding(d, "store") == nil || d.Errors != 1 {
		t.Errorf("with a closed store: %+v", d)
	}
}

func TestDoctorShowsOthersOnlyWhatTheySee(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Findings = []wire.Finding{{Check: "readable_file", Level: wire.LevelError, What: "a file", Fix: "chmod"}}
	w.NewKey(`{"upstream":"openai","unlimited":true}`)
	if _, _, err := w.Lockdown.Set(limiter.Operator, ""); err != nil {
		t.Fatal(err)
	}
	if d := w.found(); finding(d, "readable_file") == nil || finding(d, "lockdown") == nil || finding(d, "unlimited_keys") == nil {
		t.Errorf("the operator sees %+v", d)
	}
	other := NewHandler(admintest.Backend{Of: w.World}, limiter.Caller{Name: "somebody", Role: "ci"}, slog.New(slog.DiscardHandler))
	rec := httptest.NewRecorder()
	other.ServeHTTP(rec, httptest.NewRequest("GET", "/doctor", nil))
	var d wire.Diagnosis
	if err := json.Unmarshal(rec.Body.Bytes(), &d); err != nil || rec.Code != http.StatusOK || len(d.Findings) > 0 {
		t.Errorf("%v: %d, a role without permissions sees %s", err, rec.Code, rec.Body)
	}
}

// TestADoubtIsToldAsItConcernsANode: a node of a cluster has no anchor, and what helps one
// server may be the wrong thing there.
func TestADoubtIsToldAsItConcernsANode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	doubt := fmt.Errorf("reading a key: %w", store.Doubt("less was used than before"))
	a := &api{backend: admintest.Backend{Of: w.World}, log: slog.New(slog.DiscardHandler)}
	partly := &partlyDone{doubt, func(fault wire.Fault) any {
		known, _, _ := a.explain(doubt)
		return object{"error": fault, "done": "the first of two", "second": known.message}
	}}
	for node, helps := range map[string]string{"": "its anchor", "till-1": "who writes in the database besides till"} {
		w.Node = node
		for _, err := range []error{doubt, partly} {
			rec := httptest.NewRecorder()
			a.fail(rec, err)
			said := rec.Body.String()
			if rec.Code != http.StatusServiceUnavailable || !strings.Contains(said, "less was used than before") || !strings.Contains(said, helps) || node != "" && strings.Contains(said, "anchor") {
				t.Errorf("node %q: %d %s", node, rec.Code, said)
			}
			if err == error(partly) && !strings.Contains(said, "the first of two") {
				t.Errorf("node %q does not say what was done: %s", node, said)
			}
		}
	}
}
