package cli

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// offered returns what a shell is offered at the end of these words.
func offered(t *testing.T, args ...string) (words []string, directive string) {
	t.Helper()
	root := &cobra.Command{Use: "caddy"}
	cmd := &cobra.Command{Use: "till"}
	root.AddCommand(cmd)
	build(cmd)
	var out, errOut bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(append([]string{cobra.ShellCompRequestCmd, "till"}, args...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, line := range lines[:len(lines)-1] {
		word, _, _ := strings.Cut(line, "\t")
		words = append(words, word)
	}
	return words, lines[len(lines)-1]
}

func TestTheShellIsOfferedWhatFits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":5}`)
	w.NewKey(`{"name":"nights-off","upstream":"github","max_activations":5}`)
	spaced := w.NewKey(`{"name":"two words","upstream":"github","max_activations":5}`)
	dead := w.NewKey(`{"name":"dead","upstream":"github","max_activations":5}`)
	w.Do("POST", "/keys/"+dead.ID+"/revoke", "{}")
	w.Do("POST", "/tokens", `{"name":"ops","role":"ci"}`)
	hostile := w.NewToken("$(touch /tmp/ran)")
	const none, files = ":4", ":0"
	for name, test := range map[string]struct {
		args      []string
		want      []string // all that is offered, or its beginning if the last is "…"
		directive string
	}{
		"commands":               {[]string{"susp"}, []string{"suspend"}, none},
		"a flag":                 {[]string{"create", "--max-act"}, []string{"--max-activations"}, none},
		"keys by name":           {[]string{"show", "--address", at, "nig"}, []string{"nightly", "nights-off"}, none},
		"keys not named already": {[]string{"show", "--address", at, "nightly", "nig"}, []string{"nights-off"}, none},
		"keys by id":             {[]string{"show", "--address", at, spaced.ID[:20]}, []string{spaced.ID, "…"}, none},
		"all keys":               {[]string{"revoke", "--address", at, ""}, []string{"dead", "nightly", "nights-off", spaced.ID}, none},
		"keys that can be ended": {[]string{"forget", "--address", at, ""}, []string{"dead"}, none},
		"no suspended keys":      {[]string{"resume", "--address", at, ""}, nil, none},
		"no keys by string":      {[]string{"show", "--address", at, "till_sk_"}, nil, none},
		"upstreams":              {[]string{"create", "--address", at, "--upstream", ""}, []string{"github", "openai", "spare"}, none},
		"more upstreams":         {[]string{"run", "--address", at, "--upstream", "openai,sp"}, []string{"openai,spare"}, none},
		"statuses":               {[]string{"list", "--status", "ex"}, []string{"exhausted", "expired"}, none},
		"roles":                  {[]string{"create", "--address", at, "--role", ""}, []string{"ci"}, none},
		"tokens":                 {[]string{"token", "revoke", "--address", at, ""}, []string{"ops", hostile.ID}, none},
		"no words to run":        {[]string{"token", "revoke", "--address", at, "$("}, nil, none},
		"models":                 {[]string{"create", "--models", "gpt-5-min"}, []string{"gpt-5-mini", "…"}, none},
		"no server":              {[]string{"show", "--address", "127.0.0.1:1", ""}, nil, none},
		"files":                  {[]string{"backup", ""}, nil, files},
		"a file by flag":         {[]string{"doctor", "--config", ""}, nil, files},
		"nothing":                {[]string{"stats", ""}, nil, none},
		"no files for a name":    {[]string{"create", "--name", ""}, nil, none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, directive := offered(t, test.args...)
			for try := 1; len(got) == 0 && len(test.want) > 0 && try < 20; try++ {
				got, directive = offered(t, test.args...) // the server had not answered within a second
			}
			slices.Sort(got)
			want := slices.Clone(test.want)
			if n := len(want); n > 0 && want[n-1] == "…" {
				want = want[:n-1]
				got = slices.DeleteFunc(got, func(w string) bool { return !slices.Contains(want, w) })
			}
			slices.Sort(want)
			if !slices.Equal(got, want) || directive != test.directive {
				t.Errorf("offered %q with %s, want %q with %s", got, directive, want, test.directive)
			}
		})
	}
}

func TestTheWatcherIsOfferedToNobody(t *testing.T) {
	t.Parallel()
	if got, _ := offered(t, "run"); !slices.Equal(got, []string{"run"}) {
		t.Errorf("offered %q", got)
	}
	if r := till(t, "--help"); strings.Contains(r.out, watchName) {
		t.Errorf("the help has it: %s", r.out)
	}
}

func TestNamesOfVariablesAreOfferedWithoutTheirValues(t *testing.T) {
	t.Setenv("A_SECRET_OF_MINE", "value-of-mine")
	got, _ := offered(t, "run", "--pass-env", "A_SECRET")
	if !slices.Contains(got, "A_SECRET_OF_MINE") || strings.Contains(strings.Join(got, " "), os.Getenv("A_SECRET_OF_MINE")) {
		t.Errorf("offered %q", got)
	}
}
