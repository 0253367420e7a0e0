package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
)

func TestACommandNamesTheNodesThatHaveNotFollowed(t *testing.T) {
	t.Parallel()
	const want = "Not yet known to node-b, where nothing is admitted."
	for name, args := range map[string]func(w *world, m *wire.Minted) []string{
		"revoke":      func(_ *world, m *wire.Minted) []string { return []string{"revoke", m.ID} },
		"suspend":     func(_ *world, m *wire.Minted) []string { return []string{"suspend", m.ID} },
		"rotate":      func(_ *world, m *wire.Minted) []string { return []string{"rotate", m.ID} },
		"revoke many": func(*world, *wire.Minted) []string { return []string{"revoke", "--all", "--yes"} },
		"lock down":   func(*world, *wire.Minted) []string { return []string{"lockdown"} },
		"revoke a token": func(w *world, _ *wire.Minted) []string {
			return []string{"token", "revoke", w.NewToken("anna").ID}
		},
		"leak": func(w *world, m *wire.Minted) []string {
			path := filepath.Join(w.T.TempDir(), "leaked")
			if err := os.WriteFile(path, []byte(m.ScopedKey+"\n"), 0o600); err != nil {
				w.T.Fatal(err)
			}
			return []string{"leak", path}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serving(admintest.Lagging(t))
			server := w.Serve()
			m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
			line := append(args(w, m), "--address", server)
			got := till(t, line...)
			if got.code != 0 || strings.Count(got.out, want) != 1 {
				t.Errorf("%s: code %d, %s%s", line, got.code, got.out, got.err)
			}
		})
		t.Run(name+" as JSON", func(t *testing.T) {
			t.Parallel()
			w := serving(admintest.Lagging(t))
			server := w.Serve()
			m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
			got := till(t, append(args(w, m), "--json", "--address", server)...)
			var answer struct{ Pending []string }
			if err := json.Unmarshal([]byte(got.out), &answer); err != nil || !slices.Equal(answer.Pending, []string{"node-b"}) {
				t.Errorf("pending is %q, %v: %s%s", answer.Pending, err, got.out, got.err)
			}
		})
	}
}

// TestALockdownThatOthersDoNotKnowOfIsSaidNotToBeInForceThere: the nodes that are named
// have not been told, so they admit.
func TestALockdownThatOthersDoNotKnowOfIsSaidNotToBeInForceThere(t *testing.T) {
	t.Parallel()
	no, yes := false, true
	for _, test := range []struct {
		name    string
		durable *bool
		pending []string
		want    string
	}{
		{"on one server", &no, nil, ""},
		{"on all", &yes, nil, ""},
		{"told, and not yet followed", &yes, []string{"node-b"}, "Not yet known to node-b, where nothing is admitted."},
		{"not told", &no, []string{"node-b"}, "NOT known to node-b, where keys may still work"},
		{"not told, with many names", &no, slices.Repeat([]string{"node-of-a-long-name"}, 20), "NOT known to node-of-a"},
	} {
		text := lockdownText(&wire.LockdownJSON{LockedDown: true, Durable: test.durable, Pending: test.pending})
		fits(t, text)
		untold := test.durable == &no && test.pending != nil
		if !strings.Contains(text, test.want) || strings.Contains(text, "nothing is admitted") != (test.want != "" && !untold) ||
			strings.Contains(text, "on a node that has the database") != untold {
			t.Errorf("%s: %s", test.name, text)
		}
	}
}

func TestManyNodesThatHaveNotFollowedFitOnALine(t *testing.T) {
	t.Parallel()
	fits(t, pendingText("         ", slices.Repeat([]string{"node-of-a-long-name"}, 20)))
}
