package cli

import (
	"io"
	"strings"
	"testing"
)

func TestRevokeAllAsksFirstAndSaysHowMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.Serve()
	for _, name := range []string{"morning", "noon", "evening"} {
		w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"ann","name":"` + name + `"}`)
	}
	other := w.NewKey(`{"upstream":"openai","max_activations":5,"name":"nightly"}`)
	run := func(args ...string) ran { return till(t, append([]string{"revoke", "--address", address}, args...)...) }
	for _, test := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{}, 2, "", "--all"},
		{[]string{"--all", "nightly"}, 2, "", "not both"},
		{[]string{"nightly", "--owner", "ann"}, 2, "", "--owner belongs to --all"},
		{[]string{"--all", "--owner", ""}, 2, "", `"--owner" flag: it must not be empty`},
		{[]string{"--all", "--owner", "ann"}, 2, "", "3 keys would be revoked for ever: say --yes"},
		{[]string{"--all", "--owner", "nobody"}, 0, "0 keys would be revoked.", ""},
		{[]string{"--all", "--owner", "ann", "--except", "morning", "--dry-run"}, 0, "2 keys would be revoked.", ""},
		{[]string{"--all", "--owner", "ann", "--except", "morn", "--dry-run"}, 2, "", "in full"},
		{[]string{"--all", "--owner", "ann", "--except", "nobody", "--yes"}, 1, "", "--except: no key has"},
		{[]string{"--all", "--owner", "ann", "--except", "", "--yes"}, 2, "", "it must not be empty"},
		{[]string{"nightly", "--except", "morning"}, 2, "", "--except belongs to --all"},
		{[]string{"--all", "--owner", "ann", "--dry-run"}, 0, "3 keys would be revoked.", ""},
		{[]string{"--all", "--owner", "ann", "--yes", "--reason", "left"}, 0, "Revoked 3 keys, and ended 0 running requests.", ""},
		{[]string{"--all", "--owner", "ann", "--dry-run", "--json"}, 0, `"already_revoked": 3`, ""},
	} {
		got := run(test.args...)
		if got.code != test.code || !strings.Contains(got.out, test.out) || !strings.Contains(got.err, test.err) {
			t.Errorf("revoke %v: %d\n%s%s", test.args, got.code, got.out, got.err)
		}
		if strings.Contains(got.err, "\x1b") {
			t.Errorf("a bar in a pipe: %q", got.err)
		}
	}
	w.Use(other, 1)
	if got := run("--all", "--yes", "--json"); got.code != 0 || !strings.Contains(got.out, `"revoked": 1`) {
		t.Errorf("every key: %d %s%s", got.code, got.out, got.err)
	}
	for text, ok := range map[string]bool{"1200\n": true, " 1,200 \n": true, "y\n": false, "12\n": false, "": false} {
		var said strings.Builder
		if err := confirmed(strings.NewReader(text), &said, 1200); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if !strings.Contains(said.String(), "1,200 keys will be revoked for ever") {
			t.Errorf("asked: %q", said.String())
		}
	}
	if err := confirm(strings.NewReader("1\n"), io.Discard, 1); err == nil {
		t.Error("a pipe was asked")
	}
}
