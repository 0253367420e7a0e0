package admin

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

func TestTheAuditLogOverTheAPI(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	k := w.NewKey(`{"upstream":"openai","max_activations":5,"name":"nightly"}`)
	if a := w.Do("PATCH", "/keys/"+k.ID, `{"max_activations":7}`); a.Status != 200 {
		t.Fatal(a.Body)
	}
	page := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?action=key.update&key="+k.ID, ""))
	if len(page.Entries) != 1 || !strings.Contains(string(page.Entries[0]), `"changes":{"max_activations":{"after":7,"before":5}}`) {
		t.Errorf("entries: %s", page.Entries)
	}
	first := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?limit=1&since=1h", ""))
	second := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?limit=1&cursor="+first.Next, ""))
	if len(second.Entries) != 1 || !strings.Contains(string(second.Entries[0]), `"seq":2`) {
		t.Errorf("the second page: %s", second.Entries)
	}
	export := w.Do("GET", "/audit/export", "")
	if export.Status != 200 || strings.Count(export.Body, "\n") != 2 {
		t.Errorf("%d %s", export.Status, export.Body)
	}
	v := admintest.Get[wire.Verdict](t, w.Do("GET", "/audit/verify", ""))
	if !v.OK || v.Entries != 2 || len(v.Head) != 64 || !strings.Contains(export.Body, v.Head) {
		t.Errorf("%+v", v)
	}
	for _, query := range []string{"since=yesterday", "sort=time", "limit=0", "limit=501", "who=me", "cursor=x", "key=a&key=b"} {
		if a := w.Do("GET", "/audit?"+query, ""); a.Status != 400 {
			t.Errorf("%s: %d %s", query, a.Status, a.Body)
		}
	}
	as := w.as(w.newToken("anna", "member").Token)
	for _, path := range []string{"/audit", "/audit/verify", "/audit/export"} {
		if a := as.Do("GET", path, ""); a.Status != 403 || !strings.Contains(a.Body, "audit:read") {
			t.Errorf("%s without audit:read: %d %s", path, a.Status, a.Body)
		}
	}
	if err := w.Ping(t.Context()); err != nil { // entries for refused calls are written asynchronously
		t.Fatal(err)
	}
	refusals := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?action=act.refused", ""))
	if len(refusals.Entries) != 1 || !strings.Contains(string(refusals.Entries[0]), `"actor":"anna"`) {
		t.Errorf("the refused attempts: %s", refusals.Entries)
	}
}

// TestEveryRefusedActIsInTheAuditLog: also one that works without the store, and one that
// the permission alone does not decide.
func TestEveryRefusedActIsInTheAuditLog(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	roles := admintest.Team()
	chief := roles["lead"]
	chief.Permissions = append(chief.Permissions, record.KeysRevoke)
	roles["chief"] = chief
	reader := record.NewRole()
	reader.Permissions = []record.Permission{record.AuditRead}
	all := roles["lead"]
	all.Sees = record.SeesAll
	roles["reader"], roles["all"] = reader, all
	if err := w.SetRoles(roles); err != nil {
		t.Fatal(err)
	}
	out, above := w.newToken("out-of-sight", "member"), w.newToken("above", "chief")
	for name, test := range map[string]struct{ role, method, path, body string }{
		"lockdown":  {"lead", "POST", "/lockdown", ""},
		"lift":      {"lead", "DELETE", "/lockdown", ""},
		"forfeit":   {"lead", "POST", "/store/repair", `{"forfeit":true}`},
		"link":      {"lead", "POST", "/console/link", ""},
		"mint":      {"lead", "POST", "/keys", `{"upstream":"openai","max_activations":1,"role":"member"}`},
		"export":    {"reader", "GET", "/audit/export", ""},
		"unseen":    {"lead", "POST", "/tokens/" + out.ID + "/revoke", ""},
		"too-great": {"all", "POST", "/tokens/" + above.ID + "/revoke", ""},
	} {
		if a := w.as(w.newToken(name, test.role).Token).Do(test.method, test.path, test.body); a.Status != 403 && a.Status != 404 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
		if err := w.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if refused := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?action=act.refused&actor="+name, "")); len(refused.Entries) != 1 {
			t.Errorf("%s: the audit log has %s", name, refused.Entries)
		}
	}
}
