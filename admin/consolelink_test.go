package admin

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

func TestWithoutAConsoleThereAreNoLinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Base = ""
	a := w.Do("POST", "/console/link", "")
	if code, message := a.Fault(t); a.Status != http.StatusConflict || code != "no_console" || !strings.Contains(message, "console_url") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// TestALinkToTheConsoleLeavesATrace: whoever has one is the operator in the console.
func TestALinkToTheConsoleLeavesATrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var log strings.Builder
	asked := func() int {
		rec := httptest.NewRecorder()
		NewHandler(admintest.Backend{Of: w.World}, limiter.Operator.At("192.0.2.7"), slog.New(slog.NewTextHandler(&log, nil))).
			ServeHTTP(rec, httptest.NewRequest("POST", "/console/link", nil))
		return rec.Code
	}
	if status := asked(); status != http.StatusCreated {
		t.Fatal(status)
	}
	entries := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?action=console.link", "")).Entries
	if len(entries) != 1 || !strings.Contains(string(entries[0]), `"actor":"operator"`) || !strings.Contains(string(entries[0]), `"from":"192.0.2.7"`) {
		t.Errorf("the audit log has %s", entries)
	}
	if !strings.Contains(log.String(), "by=operator from=192.0.2.7") {
		t.Errorf("the log has %s", &log)
	}
	log.Reset()
	w.Closed = true
	defer func() { w.Closed = false }()
	if status := asked(); status != http.StatusCreated || !strings.Contains(log.String(), "by=operator from=192.0.2.7") {
		t.Errorf("while the store is closed: %d, and the log has %s", status, &log)
	}
}

// TestASessionOfTheConsoleGetsNoLink: with one it could go on for ever.
func TestASessionOfTheConsoleGetsNoLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	caller := limiter.Operator.At("192.0.2.7")
	caller.Session = true
	w.Handler = NewHandler(admintest.Backend{Of: w.World}, caller, slog.New(slog.DiscardHandler))
	for _, closed := range []bool{false, true} {
		w.Closed = closed
		a := w.Do("POST", "/console/link", "")
		if code, message := a.Fault(t); a.Status != http.StatusForbidden || code != "forbidden" || !strings.Contains(message, "caddy till console") {
			t.Errorf("closed %t: %d %s", closed, a.Status, a.Body)
		}
	}
	w.Closed = false
	if err := w.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if made := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?action=console.link", "")).Entries; len(made) != 0 {
		t.Errorf("the audit log has %s", made)
	}
	if refused := admintest.Get[wire.ListedEntries](t, w.Do("GET", "/audit?action=act.refused", "")).Entries; len(refused) != 1 {
		t.Errorf("of refusals the audit log has %s", refused)
	}
}

func TestSpendIsAddedUpByUpstreamOwnerAndModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, body := range []string{
		`{"upstream":"openai","max_activations":5,"owner":"a","models":["gpt-5-mini"]}`,
		`{"upstream":"openai","max_activations":5,"owner":"b","models":["gpt-5-*"]}`,
		`{"upstream":"github","max_activations":5,"owner":"a"}`,
	} {
		if a := w.Do("POST", "/keys", body); a.Status != 201 {
			t.Fatal(a.Body)
		}
	}
	s := admintest.Get[wire.Spending](t, w.Do("GET", "/spend", ""))
	counted := func(list []wire.UsedBy) string {
		var all []string
		for _, u := range list {
			all = append(all, strings.Repeat("+", int(u.Keys))+u.Name+" "+u.SpendUSD)
		}
		return strings.Join(all, ", ")
	}
	if s.LookedAt != 3 || s.Next != "" {
		t.Errorf("%+v", s)
	}
	admintest.Equal(t, "by upstream", counted(s.Upstream), "+github 0.00, ++openai 0.00")
	admintest.Equal(t, "by owner", counted(s.Owner), "++a 0.00, +b 0.00")
	admintest.Equal(t, "by model", counted(s.Model), "++ 0.00, +gpt-5-mini 0.00")
	if a := w.Do("GET", "/spend?limit=5", ""); a.Status != 400 {
		t.Errorf("an unknown parameter: %d %s", a.Status, a.Body)
	}
}
