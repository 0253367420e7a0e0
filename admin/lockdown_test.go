package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
)

func TestLockdownIsSetShownAndLiftedAlsoWhileTheStoreIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.mint(`{"upstream":"openai","max_activations":5}`)
	live := w.live(m)
	g := new(limiter.Grant)
	ask := &limiter.Ask{Bound: limiter.Amounts{limiter.Activations: 1}, Method: "POST", Path: "/v1/chat/completions"}
	if refusal := live.Reserve(t.Context(), ask, g); refusal != nil {
		t.Fatal(refusal)
	}
	s := get[lockdownJSON](t, w.do("POST", "/lockdown", `{"reason":"drill"}`))
	if !s.LockedDown || s.StreamsCut == nil || *s.StreamsCut != 1 || s.Durable == nil || !*s.Durable || s.By != "operator" || s.Reason != "drill" || s.Since == nil {
		t.Errorf("set: %+v", s)
	}
	g.Cancel()
	if refusal := live.Reserve(t.Context(), ask, new(limiter.Grant)); refusal == nil || refusal.Code != limiter.CodeLockedDown {
		t.Errorf("a request: %v", refusal)
	}
	stats := get[struct{ Lockdown lockdownJSON }](t, w.do("GET", "/stats", ""))
	if !stats.Lockdown.LockedDown || stats.Lockdown.Reason != "drill" {
		t.Errorf("stats: %+v", stats)
	}
	if a := w.do("POST", "/lockdown", `{"reson":"x"}`); a.status != http.StatusBadRequest {
		t.Errorf("a misspelt field: %d", a.status)
	}
	if a := w.do("POST", "/lockdown", `{"reason":"`+strings.Repeat("x", 600)+`"}`); a.status != http.StatusBadRequest {
		t.Errorf("a reason that is too long: %d", a.status)
	}
	w.close()
	if s := get[lockdownJSON](t, w.do("GET", "/lockdown", "")); !s.LockedDown {
		t.Error("a closed store forgets it")
	}
	if a := w.do("GET", "/stats", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "a lockdown is in force") {
		t.Errorf("stats of a closed store: %d %s", a.status, a.body)
	}
	if s := get[lockdownJSON](t, w.do("DELETE", "/lockdown", "")); s.LockedDown {
		t.Error("not lifted")
	}
	if s := get[lockdownJSON](t, w.do("DELETE", "/lockdown", "")); s.LockedDown {
		t.Error("lifting twice is no mistake")
	}
	if s := get[lockdownJSON](t, w.do("POST", "/lockdown", "")); !s.LockedDown || *s.StreamsCut != 0 {
		t.Errorf("without a body, on a closed store: %+v", s)
	}
}

func TestLockdownCommandSaysWhatItDid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.serve()
	for _, test := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"--status"}, 0, "Keys work"},
		{[]string{"--reason", "a drill"}, 0, "Ended: 0 running requests"},
		{[]string{"--status"}, 0, "Reason: a drill"},
		{[]string{"--json", "--status"}, 0, `"locked_down": true`},
		{[]string{"--lift", "--status"}, 2, ""},
		{[]string{"--lift"}, 0, "Keys work"},
	} {
		got := till(t, append([]string{"lockdown", "--address", address}, test.args...)...)
		if got.code != test.code || !strings.Contains(got.out, test.out) {
			t.Errorf("lockdown %v: %d, %q %q", test.args, got.code, got.out, got.err)
		}
		fits(t, got.out)
	}
	if got := till(t, "lockdown", "--address", address); got.code != 0 {
		t.Errorf("without a reason: %d, %q", got.code, got.err)
	}
	if got := till(t, "stats", "--address", address); !strings.Contains(got.out, "caddy till lockdown --lift") {
		t.Errorf("stats: %q", got.out)
	}
}
