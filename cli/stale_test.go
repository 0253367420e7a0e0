package cli

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func TestStaleListsEachKeyOncePerReason(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TILL_ADDRESS", w.Serve())
	w.SetStale(time.Nanosecond, false)
	never := w.NewKey(`{"name":"forgotten","upstream":"openai","max_activations":500}`)
	over := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":500,"expires_in":"1d"}`)
	w.Use(over, 2)
	answer := admintest.Get[wire.StaleAnswer](t, w.Do("GET", "/stale?limit=1", ""))
	if len(answer.Keys) != 1 || answer.Next == "" {
		t.Fatalf("%+v", answer)
	}
	rest := admintest.Get[wire.StaleAnswer](t, w.Do("GET", "/stale?limit=1&cursor="+answer.Next, ""))
	all := append(answer.Keys, rest.Keys...)
	reasons := map[string]limiter.StaleReason{}
	for _, e := range all {
		reasons[e.Key.ID] = e.Reason
		if e.Detail == "" || !strings.HasPrefix(e.Fix, "caddy till revoke "+e.Key.ID) {
			t.Errorf("%+v", e)
		}
	}
	if len(all) != 2 || reasons[never.ID] != limiter.StaleNeverUsed || reasons[over.ID] != limiter.StaleUnused {
		t.Errorf("%v", reasons)
	}
	if a := w.Do("GET", "/stale?reason=never_used", ""); len(admintest.Get[wire.StaleAnswer](t, a).Keys) != 1 {
		t.Errorf("%s", a.Body)
	}
	for _, query := range []string{"reason=tired", "limit=0", "limit=501", "foo=1", "reason=unused&reason=unused", "cursor=x"} {
		if a := w.Do("GET", "/stale?"+query, ""); a.Status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, a.Status, a.Body)
		}
	}
	r := till(t, "stale")
	if r.code != 0 || !regexp.MustCompile(never.ID+` \(forgotten\)  never_used\n  minted \d+s ago and never used\n  caddy till revoke `+never.ID+` --reason unused\n`).MatchString(r.out) {
		t.Errorf("%+v", r)
	}
	fits(t, r.out)
	// The proposed command works exactly as it is printed.
	fix := strings.Fields(strings.TrimPrefix(rest.Keys[0].Fix, "caddy till "))
	if r = till(t, fix...); r.code != 0 {
		t.Errorf("%v: %+v", fix, r)
	}
	if r = till(t, "stale", "--limit", "0", "--json"); r.code != 0 || strings.Count(r.out, `"fix"`) != 1 {
		t.Errorf("%+v", r)
	}
	w.SetStale(time.Hour, false)
	if r = till(t, "stale"); r.out != "No key is stale.\n" {
		t.Errorf("%+v", r)
	}
	r = till(t, "stale", "--help")
	fits(t, r.out)
}

func TestUpdateChangesWhatIsNamed(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TILL_ADDRESS", w.Serve())
	m := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":500,"rate":"60/m","owner":"ops","expires_in":"1d","labels":{"team":"search"}}`)
	w.Use(m, 3)
	r := till(t, "update", "nightly", "--max-activations", "50", "--models", "gpt-5-mini", "--unset", "rate,label", "--fit=false")
	k := w.Live(m).View()
	if r.code != 0 || k.Limit[record.Activations] != 50 || k.Remaining[record.Activations] != 47 || !k.Rate.IsZero() || len(k.Labels) != 0 || k.Owner != "ops" || len(k.Scope.Models) != 1 || !k.KeepBound {
		t.Errorf("%+v, %+v", r, k)
	}
	if !strings.HasPrefix(r.out, "Updated "+m.ID+"\n") {
		t.Errorf("%+v", r)
	}
	fits(t, r.out)
	if r = till(t, "update", "nightly", "--unset", "max-activations,expires-at"); r.code != 1 || !strings.Contains(r.err, "unlimited") {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"nightly"}, {}, {"night", "--owner", "x"}, {"nightly", "--rate", "1/s", "--unset", "rate"}, {"nightly", "--label", "a=b", "--unset", "label"}} {
		if r = till(t, append([]string{"update"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %+v", args, r)
		}
	}
	r = till(t, "update", "--help")
	fits(t, r.out)
	if strings.Contains(r.out, "upstream-key") {
		t.Error("what cannot be changed is offered")
	}
}
