package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
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
