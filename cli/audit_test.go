package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
)

func TestAnAuditReviewOnTheCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.SetRoles(admintest.Team()); err != nil {
		t.Fatal(err)
	}
	address := w.Serve()
	k := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	for range 3 {
		for _, do := range []string{"suspend", "resume"} {
			if a := w.Do("POST", "/keys/"+k.ID+"/"+do, ""); a.Status != 200 {
				t.Fatal(a.Body)
			}
		}
	}
	shown := till(t, "audit", "--limit", "2", "--address", address)
	if shown.code != 0 || !strings.Contains(shown.out, "key.resume") || !strings.Contains(shown.out, "\n7") || strings.Contains(shown.out, "\n5") {
		t.Errorf("the last two: %+v", shown)
	}
	fits(t, shown.out)
	if r := till(t, "audit", "--since", "1", "--action", "key.create", "--address", address); !strings.Contains(r.out, "\n1") || strings.Contains(r.out, "\n2") {
		t.Errorf("from the first on: %+v", r)
	}
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	if r := till(t, "audit", "export", file, "--address", address); r.code != 0 || !strings.Contains(r.out, "7 entries") {
		t.Fatalf("%+v", r)
	}
	if r := till(t, "audit", "export", file, "--address", address); r.code != 1 {
		t.Errorf("onto a file that is there: %+v", r)
	}
	online := admintest.Get[wire.Verdict](t, w.Do("GET", "/audit/verify", ""))
	good := till(t, "audit", "verify", file, "--head", online.Head) // asks no server
	if good.code != 0 || !strings.Contains(good.out, online.Head) {
		t.Errorf("%+v", good)
	}
	fits(t, good.out)
	for _, args := range [][]string{{"audit", "verify"}, {"audit", "verify", "--head", online.Head}} {
		if r := till(t, append(args, "--address", address)...); r.code != 0 || !strings.Contains(r.out, online.Head) {
			t.Errorf("%v: %+v", args, r)
		}
	}
	exported, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(exported), "\n")
	for name, tampered := range map[string]struct{ text, bad string }{
		"changed": {strings.Replace(string(exported), `"actor":"operator"`, `"actor":"0perator"`, 1), "entry 1 "},
		"dropped": {lines[0] + strings.Join(lines[2:], ""), "entry 2 "},
		"cut":     {strings.Join(lines[:6], ""), "entry 7 "},
	} {
		bad := filepath.Join(t.TempDir(), "bad.jsonl")
		if err := os.WriteFile(bad, []byte(tampered.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := till(t, "audit", "verify", bad, "--head", online.Head)
		if r.code != 1 || !strings.Contains(r.err, tampered.bad) {
			t.Errorf("%s: %+v, want %s named", name, r, tampered.bad)
		}
		if r := till(t, "audit", "verify", bad, "--head", online.Head, "--json"); r.code != 1 || !strings.Contains(r.out, `"ok": false`) {
			t.Errorf("%s as JSON: %+v", name, r)
		}
	}
	if r := till(t, "audit", "verify", file, "--head", "abc"); r.code != 2 {
		t.Errorf("a head that is none: %+v", r)
	}
}

// TestAnExportThatBreaksOffLeavesNoFile: a part of the log verifies as well as all of it.
func TestAnExportThatBreaksOffLeavesNoFile(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{}\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	dir := t.TempDir()
	if r := till(t, "audit", "export", filepath.Join(dir, "audit.jsonl"), "--address", s.URL); r.code != 1 || !strings.Contains(r.err, "broke off") {
		t.Errorf("%+v", r)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// untimed is a transport that answers with a verdict, and notes whether the request had a
// time limit.
type untimed struct{ limited bool }

func (u *untimed) RoundTrip(r *http.Request) (*http.Response, error) {
	_, u.limited = r.Context().Deadline()
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"ok":true,"entries":1000000}`)), Request: r}, nil
}

func TestVerifyingALongAuditLogTakesAsLongAsItDoes(t *testing.T) {
	t.Parallel()
	c, err := newClient("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	asked := new(untimed)
	c.http.Transport = asked
	if v, err := c.verdict(t.Context()); err != nil || !v.OK || asked.limited {
		t.Errorf("%+v, %v; given up after a time: %v", v, err, asked.limited)
	}
}
