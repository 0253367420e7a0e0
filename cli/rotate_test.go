package cli

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

func TestRotateCommand(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TILL_ADDRESS", w.Serve())
	m := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":500}`)
	r := till(t, "rotate", "nightly", "--grace", "1h")
	text := admintest.StringPattern.FindString(r.out)
	if r.code != 0 || text == "" || text == m.ScopedKey || !strings.Contains(r.out, "Rotated  the former string works until 20") {
		t.Fatalf("%+v", r)
	}
	fits(t, r.out)
	if r = till(t, "rotate", "nightly"); r.code != 0 || !strings.Contains(r.out, "the former string no longer works\n") {
		t.Errorf("%+v", r)
	}
	if r = till(t, "rotate", "night"); r.code != exitUsage {
		t.Errorf("by the beginning of a name: %+v", r)
	}
	if r = till(t, "rotate", "nightly", "--json"); r.code != 0 || admintest.StringPattern.FindString(r.out) == "" {
		t.Errorf("%+v", r)
	}
	sealed := w.NewKey(`{"name":"sealed","upstream":"openai","max_activations":5,"upstream_key":"sk-real-1"}`)
	if r = till(t, "rotate", sealed.ID); r.code != 1 || !strings.Contains(r.err, "upstream_key") {
		t.Errorf("%+v", r)
	}
	if r = till(t, "rotate", sealed.ID, "--upstream-key", "sk-real-2"); r.code != 0 || !admintest.SealedPattern.MatchString(r.out) || strings.Contains(r.out+r.err, "sk-real-2") {
		t.Errorf("%+v", r)
	}
	if r = till(t, "rotate", "--help"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	fits(t, r.out)
	if w.Live(&wire.Minted{ScopedKey: text}).View().Status != record.Active {
		t.Error("the key is no longer alive")
	}
}
