package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/admintest"
)

func tree() map[string]*cobra.Command {
	root := &cobra.Command{Use: "till"}
	build(root)
	all := make(map[string]*cobra.Command)
	var walk func(cmd *cobra.Command, path string)
	walk = func(cmd *cobra.Command, path string) {
		all[path] = cmd
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				walk(sub, strings.TrimSpace(path+" "+sub.Name()))
			}
		}
	}
	walk(root, "")
	return all
}

func TestEveryCommandHasHelpThatFitsWithExamples(t *testing.T) {
	t.Parallel()
	for path, cmd := range tree() {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			r := till(t, append(strings.Fields(path), "--help")...)
			if r.code != 0 || r.err != "" || !strings.Contains(r.out, "Examples:") || !strings.Contains(cmd.Example, "caddy till "+path) {
				t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
			}
			fits(t, r.out)
			if path != "" && (cmd.Short == "" || cmd.Long == "") { // Caddy has till's own
				t.Error("it does not say what it does")
			}
			if !strings.Contains(r.out, "--json") {
				t.Error("it does not offer --json")
			}
		})
	}
}

// needed lists the arguments that commands need to get as far as calling the server.
var needed = map[string][]string{
	"create": {"--max-activations", "1"}, "grant": {"x", "--activations", "1"}, "repair": {"--clock"},
	"update": {"x", "--max-activations", "1"},
	"run":    {"--", "true"}, "token create": {"x", "--role", "ci"}, "revoke": {"x"},
}

func TestEveryCommandExitsAsDesigned(t *testing.T) {
	t.Parallel()
	// These call no server.
	alone := []string{"up", "restore", "migrate"}
	for path, cmd := range tree() {
		if path == "" || cmd.HasSubCommands() {
			continue
		}
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			words := strings.Fields(path)
			wrong, failed := 2, 1
			if path == runName {
				wrong, failed = 125, 125
			}
			if r := till(t, append(words, "--no-such-flag")...); r.code != wrong || r.out != "" || !strings.Contains(r.err, "--help") {
				t.Errorf("with a flag that is not there: exit %d, want %d: %s%s", r.code, wrong, r.out, r.err)
			}
			if slices.Contains(alone, path) {
				return
			}
			args := append(words, "--address", "127.0.0.1:1")
			more, ok := needed[path]
			if !ok && till(t, args...).code == wrong { // it wants an argument
				more = []string{filepath.Join(t.TempDir(), "x")}
			}
			if r := till(t, append(args, more...)...); r.code != failed || r.out != "" || r.err == "" {
				t.Errorf("without a server: exit %d, want %d: %s%s", r.code, failed, r.out, r.err)
			}
		})
	}
}

func TestCommandsPrintJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	for _, line := range []string{
		"create --name one --upstream openai --max-activations 5",
		"list", "show one", "suspend one", "resume one", "grant one --activations 5", "update one --owner ops", "stale", "rotate one", "env one",
		"revoke one", "forget one", "stats", "live", "ready", "prices", "prices openai/gpt-5-mini", "doctor", "top --count 1",
		"lockdown --status", "lockdown --reason test", "lockdown --lift",
		"token create ops --role ci", "token list", "token revoke ops", "audit", "audit verify", "repair --clock", "nodes",
	} {
		r := till(t, append(strings.Fields(line), "--json", "--address", at)...)
		var v any
		if err := json.Unmarshal([]byte(r.out), &v); r.code != 0 || err != nil {
			t.Errorf("%s: exit %d, %v: %s%s", line, r.code, err, r.out, r.err)
		}
	}
}

func TestTheReferenceHasEveryCommandWithAnExample(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/command-line.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, path := range slices.Sorted(maps.Keys(tree())) {
		if path != "" && !strings.Contains(text, "caddy till "+path) {
			t.Errorf("docs/command-line.md has no example of: caddy till %s", path)
		}
	}
	for _, check := range checks {
		if !strings.Contains(text, "| `"+check+"` |") {
			t.Errorf("docs/command-line.md does not explain doctor's %s", check)
		}
	}
}

// TestCommandsInTheTextOfTheDocsExist: the tests of e2e run the commands in blocks;
// for commands within a sentence, the command and its flags must exist.
func TestCommandsInTheTextOfTheDocsExist(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	inline := regexp.MustCompile("`caddy till ([^`]+)`")
	found := 0
	for _, path := range append(paths, "../README.md", "../SECURITY.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range inline.FindAllStringSubmatch(blocks.ReplaceAllString(string(text), ""), -1) {
			found++
			words := strings.Fields(m[1])
			if i := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w, "<>|&#…") || w == "--" || w == "--help" }); i >= 0 {
				words = words[:i]
			}
			root := &cobra.Command{Use: "till"}
			build(root)
			cmd, args, err := root.Find(words)
			if err == nil && cmd == root && words[0] != "COMMAND" {
				err = errors.New("there is no such command")
			}
			if err == nil {
				cmd.InheritedFlags() // merges the flags of the root into its own
				err = cmd.ParseFlags(args)
			}
			if err != nil {
				t.Errorf("%s: caddy till %s: %v", path, m[1], err)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d were found", found)
	}
}

// TestTheHelpOfEveryCommandIsAsItWas covers the names and defaults of flags, too.
func TestTheHelpOfEveryCommandIsAsItWas(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	for _, path := range slices.Sorted(maps.Keys(tree())) {
		r := till(t, append(strings.Fields(path), "--help")...)
		all.WriteString("==== till " + path + "\n" + r.out + r.err)
	}
	admintest.Golden(t, "help.txt", all.Bytes())
}
