package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

func TestLockdownIsSetShownAndLiftedAlsoWhileTheStoreIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	live := w.Live(m)
	g := new(limiter.Grant)
	ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/chat/completions"}
	if refusal := live.Reserve(t.Context(), ask, g); refusal != nil {
		t.Fatal(refusal)
	}
	s := admintest.Get[wire.LockdownJSON](t, w.Do("POST", "/lockdown", `{"reason":"drill"}`))
	if !s.LockedDown || s.StreamsCut == nil || *s.StreamsCut != 1 || s.Durable == nil || !*s.Durable || s.By != "operator" || s.Reason != "drill" || s.Since == nil {
		t.Errorf("set: %+v", s)
	}
	g.Cancel()
	if refusal := live.Reserve(t.Context(), ask, new(limiter.Grant)); refusal == nil || refusal.Code != record.CodeLockedDown {
		t.Errorf("a request: %v", refusal)
	}
	stats := admintest.Get[struct{ Lockdown wire.LockdownJSON }](t, w.Do("GET", "/stats", ""))
	if !stats.Lockdown.LockedDown || stats.Lockdown.Reason != "drill" {
		t.Errorf("stats: %+v", stats)
	}
	if a := w.Do("POST", "/lockdown", `{"reson":"x"}`); a.Status != http.StatusBadRequest {
		t.Errorf("a misspelt field: %d", a.Status)
	}
	if a := w.Do("POST", "/lockdown", `{"reason":"`+strings.Repeat("x", 600)+`"}`); a.Status != http.StatusBadRequest {
		t.Errorf("a reason that is too long: %d", a.Status)
	}
	w.Shut()
	if s := admintest.Get[wire.LockdownJSON](t, w.Do("GET", "/lockdown", "")); !s.LockedDown {
		t.Error("a closed store forgets it")
	}
	if a := w.Do("GET", "/stats", ""); a.Status != http.StatusServiceUnavailable || !strings.Contains(a.Body, "a lockdown is in force") {
		t.Errorf("stats of a closed store: %d %s", a.Status, a.Body)
	}
	if s := admintest.Get[wire.LockdownJSON](t, w.Do("DELETE", "/lockdown", "")); s.LockedDown {
		t.Error("not lifted")
	}
	if s := admintest.Get[wire.LockdownJSON](t, w.Do("DELETE", "/lockdown", "")); s.LockedDown {
		t.Error("lifting twice is no mistake")
	}
	if s := admintest.Get[wire.LockdownJSON](t, w.Do("POST", "/lockdown", "")); !s.LockedDown || *s.StreamsCut != 0 {
		t.Errorf("without a body, on a closed store: %+v", s)
	}
}

// TestTheReasonOfALockdownIsForThoseWhoSeeAll tries every way in which a caller
// learns of a lockdown.
func TestTheReasonOfALockdownIsForThoseWhoSeeAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roles := make(map[string]record.Role)
	sees := map[string]bool{"all keys": true, "all acts": true, "all, to mint": false, "own": false, "role": false}
	for name, sees := range map[string]record.Sight{"all keys": record.SeesAll, "all acts": record.SeesAll, "all, to mint": record.SeesAll, "own": record.SeesOwn, "role": record.SeesRole} {
		r := record.NewRole()
		r.Sees, r.Permissions = sees, []record.Permission{record.KeysRead}
		switch name {
		case "all acts":
			r.Permissions = []record.Permission{record.AuditRead}
		case "all, to mint":
			r.Permissions = []record.Permission{record.KeysCreate}
		}
		roles[name] = r
	}
	if err := w.SetRoles(roles); err != nil {
		t.Fatal(err)
	}
	callers, feeds := make(map[string]*world), make(map[string]*event.Feed)
	for name := range roles {
		hired := w.newToken("one who sees "+name, name)
		callers[name] = w.as(hired.Token)
		by, err := w.Authenticate(hired.Token, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		if w.Allows(by, record.KeysRead) {
			if feeds[name], err = w.Subscribe(by); err != nil {
				t.Fatal(err)
			}
		}
	}
	admintest.Get[wire.LockdownJSON](t, w.Do("POST", "/lockdown", `{"reason":"anna is a spy"}`))
	for name, as := range callers {
		for _, path := range []string{"/lockdown", "/stats", "/doctor"} {
			a := as.Do("GET", path, "")
			if a.Status != http.StatusOK || strings.Contains(a.Body, "spy") != (sees[name] && path != "/doctor") || strings.Contains(a.Body, `"operator"`) != strings.Contains(a.Body, "spy") {
				t.Errorf("who sees %s asks %s: %d %s", name, path, a.Status, a.Body)
			}
			if path == "/lockdown" && !strings.Contains(a.Body, `"locked_down":true`) {
				t.Errorf("a role that sees %s does not see the lockdown at all: %s", name, a.Body)
			}
		}
		if feed := feeds[name]; feed != nil {
			e, err := feed.Next(t.Context(), time.Minute)
			if err != nil || e == nil || e.Name != event.LockdownSet || (e.Reason == "anna is a spy") != sees[name] || (e.By == "operator") != sees[name] {
				t.Errorf("who sees %s reads %+v, %v", name, e, err)
			}
		}
	}
	w.Closed = true // nothing is known of roles
	defer func() { w.Closed = false }()
	for name, as := range callers {
		if a := as.Do("GET", "/lockdown", ""); strings.Contains(a.Body, "spy") {
			t.Errorf("with a closed store, a role that sees %s gets %s", name, a.Body)
		}
	}
}
