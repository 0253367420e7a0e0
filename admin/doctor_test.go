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

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// found asks for a diagnosis.
func (w *world) found() wire.Diagnosis {
	w.t.Helper()
	return get[wire.Diagnosis](w.t, w.do("GET", "/doctor", ""))
}

func finding(d wire.Diagnosis, check string) *wire.Finding {
	if i := slices.IndexFunc(d.Findings, func(f wire.Finding) bool { return f.Check == check }); i >= 0 {
		return &d.Findings[i]
	}
	return nil
}

func TestDoctorFindsNothingAmissWithModestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mint(`{"upstream":"openai","max_activations":5}`)
	w.mint(`{"upstream":"openai","expires_in":"24h","models":["m"]}`)
	w.mint(`{"upstream":"openai","max_activations":100000,"idle_timeout":"24h","pin_ip":true}`)
	if d := w.found(); len(d.Findings) > 0 {
		t.Errorf("it finds %+v", d.Findings)
	}
	r := till(t, "doctor", "--address", w.serve())
	if r.code != 0 || r.out != "0 errors, 0 warnings\n" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}

func TestDoctorFindsKeysAndTokensThatMayTooMuch(t *testing.T) {
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
			if a := w.do("POST", test.path, test.body); a.status != http.StatusCreated {
				t.Fatalf("%d: %s", a.status, a.body)
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

func TestDoctorListsTheFilesThatAreLookedAtForTheOperatorAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.Local)
	w.files = []wire.File{
		{What: "the credential of upstream openai", Paths: []string{"/etc/till/openai.key"}, ReadAt: at, ChangedAt: &at},
		{What: "the seal keys", Paths: []string{"/a", "/b"}, ReadAt: at},
		{What: "the file of prices", Paths: []string{"/etc/till/prices.json"}, ReadAt: at, Trouble: "it is empty"},
		{What: "the file of seal keys", Paths: []string{"/s"}}, // in the second after the start
	}
	r := till(t, "doctor", "--address", w.serve())
	want := `the credential of upstream openai (/etc/till/openai.key): looked at 2026-11-29
  12:00:00, changed 2026-11-29 12:00:00
the seal keys (/a, /b): looked at 2026-11-29 12:00:00, as it was at the start
the file of prices (/etc/till/prices.json): looked at 2026-11-29 12:00:00, and
  what it holds now is not in force
the file of seal keys (/s): not looked at yet

0 errors, 0 warnings
`
	if r.code != 0 || r.out != want {
		t.Errorf("exit %d:\n%s%s", r.code, r.out, r.err)
	}
	if d := w.found(); len(d.Files) != len(w.files) {
		t.Errorf("the operator is told of %+v", d.Files)
	}
	if d := w.as(w.hire("anna", "ci").Token).found(); len(d.Files) != 0 {
		t.Errorf("another is told of %+v", d.Files)
	}
}

func TestDoctorPutsNoNameIntoACommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.token("x; touch /tmp/ran")
	d := w.found()
	if f := finding(d, "endless_tokens"); f == nil || !strings.HasSuffix(f.Fix, "caddy till token revoke "+made.ID) {
		t.Errorf("it finds %+v", d.Findings)
	}
}

func TestDoctorCountsKeysAndNamesSome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 5 {
		w.mint(`{"upstream":"openai","unlimited":true,"models":["m"]}`)
	}
	revoked := w.mint(`{"upstream":"openai","unlimited":true}`)
	w.do("POST", "/keys/"+revoked.ID+"/revoke", "{}")
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
		check  string
		fix    string
	}{
		"in order":  {nil, 0, "", ""},
		"in doubt":  {fmt.Errorf("opening: %w", limiter.ErrDoubt), 0, "store", "repair --forfeit"},
		"failed":    {errors.New("the disk is full"), 0, "store", "mend the cause"},
		"clock set": {nil, -time.Hour, "clock", "repair --clock"},
	} {
		found := stateFindings(test.failed, test.off)
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
	w.close()
	if d := w.found(); finding(d, "store") == nil || d.Errors != 1 {
		t.Errorf("with a closed store: %+v", d)
	}
}

func TestDoctorTellsOthersOnlyOfWhatTheySee(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.findings = []wire.Finding{{Check: "readable_file", Level: wire.LevelError, What: "a file", Fix: "chmod"}}
	w.mint(`{"upstream":"openai","unlimited":true}`)
	if _, _, err := w.lockdown.Set(limiter.Operator, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	if d := w.found(); finding(d, "readable_file") == nil || finding(d, "lockdown") == nil || finding(d, "unlimited_keys") == nil {
		t.Errorf("the operator is told %+v", d)
	}
	other := NewHandler(backend{w}, limiter.Caller{Name: "somebody", Role: "ci"}, slog.New(slog.DiscardHandler))
	rec := httptest.NewRecorder()
	other.ServeHTTP(rec, httptest.NewRequest("GET", "/doctor", nil))
	var d wire.Diagnosis
	if err := json.Unmarshal(rec.Body.Bytes(), &d); err != nil || rec.Code != http.StatusOK || len(d.Findings) > 0 {
		t.Errorf("%v: %d, a role without rights is told %s", err, rec.Code, rec.Body)
	}
}

func TestDoctorPrintsErrorsFirstAndExitsWithOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.findings = []wire.Finding{
		{Check: "public_url", Level: wire.LevelWarning, What: "there is none", Fix: "public_url https://agents.example.com"},
		{Check: "readable_file", Level: wire.LevelError, What: "/a/file/with/a/name, which is long, has mode 0644: every user of this machine can open it", Fix: "chmod 600 /a/file/with/a/name"},
	}
	address := w.serve()
	r := till(t, "doctor", "--address", address)
	if r.code != 1 || r.err != "" {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	fits(t, r.out)
	equal(t, "the output", r.out, `ERROR readable_file: /a/file/with/a/name, which is long, has mode 0644: every
  user of this machine can open it
  fix: chmod 600 /a/file/with/a/name

WARNING public_url: there is none
  fix: public_url https://agents.example.com

1 error, 1 warning
`)
	r = till(t, "doctor", "--address", address, "--json")
	var d wire.Diagnosis
	if err := json.Unmarshal([]byte(r.out), &d); err != nil || r.code != 1 || d.Errors != 1 || d.Findings[0].Check != "readable_file" {
		t.Errorf("%v, exit %d: %s", err, r.code, r.out)
	}
	w.findings = w.findings[:1]
	if r := till(t, "doctor", "--address", address); r.code != 0 {
		t.Errorf("with warnings alone: exit %d", r.code)
	}
}

func TestDoctorComparesClocks(t *testing.T) {
	t.Parallel()
	for off, want := range map[time.Duration]bool{0: false, 10 * time.Second: false, time.Minute: true, -time.Hour: true} {
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(rw).Encode(map[string]any{"findings": []wire.Finding{}, "now": time.Now().Add(off)})
		}))
		defer s.Close()
		r := till(t, "doctor", "--address", s.URL)
		if r.code != 0 || strings.Contains(r.out, "WARNING clock") != want {
			t.Errorf("%s off: exit %d: %s%s", off, r.code, r.out, r.err)
		}
	}
}

// checks are the kinds of findings there are; those of the configuration are
// tested where that is read.
var checks = []string{
	"admin_endpoint", "anchor_place", "broad_keys", "clock", "endless_keys", "endless_tokens", "literal_credential", "lockdown", "log_filter",
	"open_role", "plain_http", "plain_upstream", "prices", "public_url", "readable_file", "seal_key_place", "store", "unlimited_keys", "writable_file",
}
