package admin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
)

func TestTheAuditLogOverTheAPI(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	k := w.mint(`{"upstream":"openai","max_activations":5,"name":"nightly"}`)
	if a := w.do("PATCH", "/keys/"+k.ID, `{"max_activations":7}`); a.status != 200 {
		t.Fatal(a.body)
	}
	page := get[wire.ListedEntries](t, w.do("GET", "/audit?action=key.update&key="+k.ID, ""))
	if len(page.Entries) != 1 || !strings.Contains(string(page.Entries[0]), `"changes":{"max_activations":{"after":7,"before":5}}`) {
		t.Errorf("entries: %s", page.Entries)
	}
	first := get[wire.ListedEntries](t, w.do("GET", "/audit?limit=1&since=1h", ""))
	second := get[wire.ListedEntries](t, w.do("GET", "/audit?limit=1&cursor="+first.Next, ""))
	if len(second.Entries) != 1 || !strings.Contains(string(second.Entries[0]), `"seq":2`) {
		t.Errorf("the second page: %s", second.Entries)
	}
	export := w.do("GET", "/audit/export", "")
	if export.status != 200 || strings.Count(export.body, "\n") != 2 {
		t.Errorf("%d %s", export.status, export.body)
	}
	v := get[wire.Verdict](t, w.do("GET", "/audit/verify", ""))
	if !v.OK || v.Entries != 2 || len(v.Head) != 64 || !strings.Contains(export.body, v.Head) {
		t.Errorf("%+v", v)
	}
	for _, query := range []string{"since=yesterday", "sort=time", "limit=0", "limit=501", "who=me", "cursor=x", "key=a&key=b"} {
		if a := w.do("GET", "/audit?"+query, ""); a.status != 400 {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	as := w.as(w.hire("anna", "member").Token)
	for _, path := range []string{"/audit", "/audit/verify", "/audit/export"} {
		if a := as.do("GET", path, ""); a.status != 403 || !strings.Contains(a.body, "audit:read") {
			t.Errorf("%s without audit:read: %d %s", path, a.status, a.body)
		}
	}
	if err := w.Ping(t.Context()); err != nil { // they are written off the call's way
		t.Fatal(err)
	}
	refusals := get[wire.ListedEntries](t, w.do("GET", "/audit?action=act.refused", ""))
	if len(refusals.Entries) != 1 || !strings.Contains(string(refusals.Entries[0]), `"actor":"anna"`) {
		t.Errorf("the refused attempts: %s", refusals.Entries)
	}
}

func TestAnAuditReviewOnTheCommandLine(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	address := w.serve()
	k := w.mint(`{"upstream":"openai","max_activations":5}`)
	for range 3 {
		for _, do := range []string{"suspend", "resume"} {
			if a := w.do("POST", "/keys/"+k.ID+"/"+do, ""); a.status != 200 {
				t.Fatal(a.body)
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
	online := get[wire.Verdict](t, w.do("GET", "/audit/verify", ""))
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
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	for name, tampered := range map[string]struct{ text, bad string }{
		"changed": {strings.Replace(string(whole), `"actor":"operator"`, `"actor":"0perator"`, 1), "entry 1 "},
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
