package cli

import (
	"strings"
	"testing"
)

func TestLockdownCommandSaysWhatItDid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.Serve()
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
