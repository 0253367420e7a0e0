package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
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
	const noon = "2026-12-01T12:00:00Z"
	for text, ok := range map[string]bool{"1200\n": true, " 1,200 \n": true, "y\n": false, "12\n": false, "": false} {
		var said strings.Builder
		if err := confirmed(strings.NewReader(text), &said, 1200, noon); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if !strings.Contains(said.String(), "1,200 keys will be revoked for ever") || !strings.Contains(said.String(), "before "+noon) {
			t.Errorf("asked: %q", said.String())
		}
	}
	if err := confirm(strings.NewReader("1\n"), io.Discard, 1, noon); err == nil {
		t.Error("a pipe was asked")
	}
}

// TestRevokeAllEndsOnlyWhatWasCounted: while the terminal waits for the number, another
// key that matches is minted.
func TestRevokeAllEndsOnlyWhatWasCounted(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"a filter": {"--owner", "ann"}, "every key": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			mint := func() *wire.Minted { return w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"ann"}`) }
			counted := mint()
			s := newScreen(t, 80, 24)
			root := &cobra.Command{Use: "caddy", SilenceUsage: true}
			cmd := &cobra.Command{Use: "till"}
			root.AddCommand(cmd)
			build(cmd)
			root.SetIn(s.tty)
			root.SetOut(io.Discard)
			root.SetErr(s.tty)
			root.SetArgs(append([]string{"till", "revoke", "--address", w.Serve(), "--all"}, flags...))
			done := make(chan error, 1)
			go func() { done <- root.ExecuteContext(t.Context()) }()
			s.until("Type the number to go on: ")
			later := mint()
			if _, err := s.our.WriteString("1\n"); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if status := w.Live(counted).View().Status; status != record.Revoked {
				t.Errorf("the key that was counted is %s", status)
			}
			if status := w.Live(later).View().Status; status != record.Active {
				t.Errorf("the key that was minted since is %s", status)
			}
		})
	}
}

// TestADryRunSaysHowToEndOnlyWhatItCounted: between it and a run with --yes, other keys
// may be minted.
func TestADryRunSaysHowToEndOnlyWhatItCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.Serve()
	mint := func() *wire.Minted { return w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"ann"}`) }
	counted := mint()
	got := till(t, "revoke", "--address", address, "--all", "--owner", "ann", "--dry-run")
	_, before, ok := strings.Cut(strings.TrimSpace(got.out), "--created-before ")
	if _, err := time.Parse(time.RFC3339Nano, before); !ok || err != nil {
		t.Fatalf("it says %q", got.out)
	}
	fits(t, got.out)
	raw := till(t, "revoke", "--address", address, "--all", "--owner", "ann", "--dry-run", "--json")
	var found wire.BulkJSON
	if err := json.NewDecoder(bytes.NewBufferString(raw.out)).Decode(&found); err != nil || found.At == nil {
		t.Errorf("as JSON: %v: %s", err, raw.out)
	}
	later := mint()
	if got := till(t, "revoke", "--address", address, "--all", "--owner", "ann", "--created-before", before, "--yes"); got.code != 0 {
		t.Fatal(got.err)
	}
	if was, is := w.Live(counted).View().Status, w.Live(later).View().Status; was != record.Revoked || is != record.Active {
		t.Errorf("the key that was counted is %s, the later one %s", was, is)
	}
}
