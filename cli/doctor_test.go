package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
)

func TestDoctorPrintsErrorsFirstAndExitsWithOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Findings = []wire.Finding{
		{Check: "public_url", Level: wire.LevelWarning, What: "there is none", Fix: "public_url https://agents.example.com"},
		{Check: "readable_file", Level: wire.LevelError, What: "/a/file/with/a/name, which is long, has mode 0644: every user of this machine can open it", Fix: "chmod 600 /a/file/with/a/name"},
	}
	address := w.Serve()
	r := till(t, "doctor", "--address", address)
	if r.code != 1 || r.err != "" {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	fits(t, r.out)
	admintest.Equal(t, "the output", r.out, `ERROR readable_file: /a/file/with/a/name, which is long, has mode 0644: every
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
	w.Findings = w.Findings[:1]
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

func TestDoctorIsContentWithModestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	r := till(t, "doctor", "--address", w.Serve())
	if r.code != 0 || r.out != "0 errors, 0 warnings\n" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}

func TestDoctorPrintsTheFilesThatAreLookedAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.Local)
	w.Files = []wire.File{
		{What: "the credential of upstream openai", Paths: []string{"/etc/till/openai.key"}, ReadAt: at, ChangedAt: &at},
		{What: "the seal keys", Paths: []string{"/a", "/b"}, ReadAt: at},
		{What: "the file of prices", Paths: []string{"/etc/till/prices.json"}, ReadAt: at, Trouble: "it is empty"},
		{What: "the file of seal keys", Paths: []string{"/s"}}, // in the second after the start
	}
	r := till(t, "doctor", "--address", w.Serve())
	want := `the credential of upstream openai (/etc/till/openai.key): last read 2026-11-29
  12:00:00, changed 2026-11-29 12:00:00
the seal keys (/a, /b): last read 2026-11-29 12:00:00, unchanged since the
  start
the file of prices (/etc/till/prices.json): last read 2026-11-29 12:00:00, and
  the present content is not in force
the file of seal keys (/s): not read yet

0 errors, 0 warnings
`
	if r.code != 0 || r.out != want {
		t.Errorf("exit %d:\n%s%s", r.code, r.out, r.err)
	}
}

// checks lists the kinds of findings. Those about the configuration are tested in
// the package that reads it.
var checks = []string{
	"admin_endpoint", "anchor_place", "broad_keys", "clock", "endless_keys", "endless_tokens", "grace_period", "literal_credential", "lockdown", "log_filter",
	"open_role", "plain_http", "plain_upstream", "prices", "public_url", "readable_file", "seal_key_place", "store", "unlimited_keys", "writable_file",
}
