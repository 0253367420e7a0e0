package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// passage is a fenced block of a page.
type passage struct {
	line       int
	kind, text string
	// A comment above it, which readers do not see, says why it is not run here:
	// <!-- not run: the reason --> or <!-- run by TestName -->.
	mark string
}

var (
	opened = regexp.MustCompile("^( *)```(\\w*)$")
	marked = regexp.MustCompile(`^ *<!-- (not run: .+|run by Test\w+) -->$`)
)

// example is what a file that is no page says in its first comment.
var example = regexp.MustCompile(`(?m)^#   (\S.*)$`)

// blocksOf are the fenced blocks of a page.
func blocksOf(t *testing.T, path string) (all []passage) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(path) != ".md" {
		said := passage{line: 1, kind: "sh"}
		for _, m := range example.FindAllStringSubmatch(string(text), -1) {
			said.text += m[1] + "\n"
		}
		return []passage{said}
	}
	var open *passage
	indent, mark := "", ""
	for i, line := range strings.Split(string(text), "\n") {
		m := opened.FindStringSubmatch(line)
		switch {
		case open != nil && strings.TrimSpace(line) == "```":
			all, open = append(all, *open), nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case m != nil:
			open, indent = &passage{line: i + 1, kind: m[2], mark: mark}, m[1]
			mark = ""
		case strings.Contains(line, "```"):
			t.Errorf("%s:%d: a block begins on a line of its own, with its language: %s", path, i+1, line)
		case marked.MatchString(line):
			mark = marked.FindStringSubmatch(line)[1]
		case strings.TrimSpace(line) != "":
			if mark != "" {
				t.Errorf("%s:%d: no block follows the mark %q", path, i+1, mark)
			}
			mark = ""
		}
	}
	if open != nil {
		t.Fatalf("%s:%d: the block does not end", path, open.line)
	}
	return all
}

// page says what is there when somebody follows a page, and what the reader does.
type page struct {
	path string
	// serves says that the machine has a server as init/till.service runs it, with
	// the upstream openai; till is more for its till block.
	serves bool
	till   string
	// before is a script that makes what the page takes for granted.
	before string
	// typed is what the reader puts in place of what is printed: old, new, ….
	typed []string
	// input is what the reader types into a command that begins like that.
	input map[string]string
	// stays are commands that do not end, and what they print when they are up.
	stays map[string]string
	// then is what must hold after a command that begins like that: a script.
	then map[string]string
	// while is done again and again while the text of a command that stays is waited
	// for.
	while string
	// installs is what the reader does with whole Caddyfiles of the page.
	installs string
	used     map[string]bool
}

// made are placeholders for what an earlier command of the page has printed.
var made = map[string]*regexp.Regexp{
	"till_admin_…": regexp.MustCompile(`till_admin_[0-9A-Za-z]{28}`),
	"till_sk_...":  regexp.MustCompile(`till_sk_[0-9A-Za-z]{28}`),
	"HASH":         regexp.MustCompile(`"hash": ?"([0-9a-f]{64})"`),
}

// TestEveryBlockOfThePagesIsRun takes each page's commands from the page itself,
// as they are printed, in its order, on a machine of its own; those at the top of
// init/till.service are run when it is made. Caddyfiles are adapted and
// provisioned, JSON is parsed; what programs print is shown in blocks of text. A
// block that cannot be run says why in the page's source.
func TestEveryBlockOfThePagesIsRun(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "Caddyfile.example"} {
		paths = append(paths, "../"+name)
	}
	var report struct {
		sync.Mutex
		lines []string
		done  map[string]int
	}
	report.done = make(map[string]int)
	t.Cleanup(func() {
		slices.Sort(report.lines)
		t.Logf("%d blocks: %v; not run here:\n%s", sum(report.done), report.done, strings.Join(report.lines, "\n"))
	})
	known := make(map[string]*page)
	for _, p := range pages {
		known["../"+p.path] = p
	}
	for _, path := range paths {
		blocks := blocksOf(t, path)
		if len(blocks) == 0 {
			continue
		}
		p := known[path]
		if delete(known, path); p == nil {
			p = &page{path: strings.TrimPrefix(path, "../")}
		}
		t.Run(p.path, func(t *testing.T) {
			t.Parallel()
			f := &follower{t: t, page: p}
			p.used = make(map[string]bool)
			for _, b := range blocks {
				what := f.follow(b)
				report.Lock()
				report.done[what]++
				if b.mark != "" {
					report.lines = append(report.lines, fmt.Sprintf("%s:%d: %s", p.path, b.line, b.mark))
				}
				report.Unlock()
			}
			for _, table := range []map[string]string{p.input, p.stays, p.then} {
				for begin := range table {
					if !p.used[begin] {
						t.Errorf("no command of the page begins with %q any more", begin)
					}
				}
			}
			for i := 0; i < len(p.typed); i += 2 {
				if !p.used[p.typed[i]] {
					t.Errorf("the page has no %q any more", p.typed[i])
				}
			}
		})
	}
	for path := range known {
		t.Errorf("%s has no blocks", path)
	}
}

func sum(counts map[string]int) (n int) {
	for count := range maps.Values(counts) {
		n += count
	}
	return n
}

// follower does what a page says.
type follower struct {
	t     *testing.T
	page  *page
	world *world
	found map[string]string // what made has found
}

// there is the machine, made when the first block needs one.
func (f *follower) there() *world {
	f.t.Helper()
	if f.world == nil {
		f.world = newWorld(f.t, f.page)
		f.found = make(map[string]string)
		f.world.must(f.page.before)
	}
	return f.world
}

// follow does what a block says, and says what that was.
func (f *follower) follow(b passage) string {
	f.t.Helper()
	switch name, runs := strings.CutPrefix(b.mark, "run by "); {
	case runs:
		declared := regexp.MustCompile(`(?m)^func ` + name + `\(`)
		for _, path := range goFiles(f.t) {
			if text, err := os.ReadFile(path); err != nil {
				f.t.Error(err)
			} else if declared.Match(text) {
				return "run by other tests"
			}
		}
		f.t.Errorf("line %d: there is no test %s", b.line, name)
		return "run by other tests"
	case b.mark != "":
		return "not run"
	}
	switch b.kind {
	case "sh":
		for _, command := range commands(b.text) {
			f.command(b, command)
		}
		return "commands"
	case "console":
		f.session(b)
		return "commands"
	case "caddyfile":
		f.caddyfile(b)
		return "Caddyfiles"
	case "json":
		var v any
		if err := json.Unmarshal([]byte(strings.ReplaceAll(b.text, "\n", " ")), &v); err != nil {
			f.t.Errorf("line %d: %v", b.line, err)
		}
		return "JSON"
	case "text", "http":
		return "output"
	}
	f.t.Errorf("line %d: nobody knows how to run %q: say so above it: <!-- not run: the reason --> or <!-- run by TestName -->", b.line, b.kind)
	return "not run"
}

func goFiles(t *testing.T) (all []string) {
	t.Helper()
	for _, pattern := range []string{"*_test.go", "../*_test.go", "../*/*_test.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// lookup finds what a table of the page says about a command.
func (f *follower) lookup(table map[string]string, command string) (string, bool) {
	for begin, value := range table {
		if strings.HasPrefix(command, begin) {
			f.page.used[begin] = true
			return value, true
		}
	}
	return "", false
}

// command runs one command of a block, and returns what it printed. One that ends
// with "# refused" must fail, all others must not.
func (f *follower) command(b passage, printed string) string {
	f.t.Helper()
	w, typed := f.there(), printed
	for i := 0; i < len(f.page.typed); i += 2 {
		if old := f.page.typed[i]; strings.Contains(typed, old) {
			f.page.used[old] = true
			typed = strings.ReplaceAll(typed, old, f.page.typed[i+1])
		}
	}
	for placeholder, value := range f.found {
		typed = strings.ReplaceAll(typed, placeholder, value)
	}
	if text, ok := f.lookup(f.page.stays, printed); ok {
		out := w.stays(typed, text, f.page.while)
		f.hold(b, printed, out)
		return out
	}
	input, _ := f.lookup(f.page.input, printed)
	out, status := w.runs(typed, input)
	if (status != 0) != strings.HasSuffix(printed, "# refused") {
		f.t.Fatalf("%s:%d: %s\nas %s\nexit %d\n%s", f.page.path, b.line, printed, typed, status, out)
	}
	if !strings.HasPrefix(printed, "grep ") { // entries of the audit log have hashes, too
		for placeholder, pattern := range made {
			if m := pattern.FindStringSubmatch(out); m != nil {
				f.found[placeholder] = m[len(m)-1]
			}
		}
	}
	f.hold(b, printed, out)
	return out
}

// hold checks what must hold after a command; what it printed is in the file $said.
func (f *follower) hold(b passage, printed, out string) {
	f.t.Helper()
	check, ok := f.lookup(f.page.then, printed)
	if !ok {
		return
	}
	if said, status := f.world.runs("said=$world/input; holds() {\n"+check+"\n}; holds", out); status != 0 {
		f.t.Errorf("%s:%d: after %s, which printed\n%s\n%s: exit %d\n%s", f.page.path, b.line, printed, out, check, status, said)
	}
}

// changing is what is another one each time.
var changing = regexp.MustCompile(`(till_sk_|key_|#signin=)[\w-]{22,}`)

// session runs the commands of a block that shows what they print, too.
func (f *follower) session(b passage) {
	f.t.Helper()
	for part := range strings.SplitSeq("\n"+b.text, "\n$ ") {
		if part = strings.Trim(part, "\n"); part == "" {
			continue
		}
		command, shown := part, ""
		for line, rest := range lineRests(part) {
			if !strings.HasSuffix(line, `\`) {
				command, shown = strings.TrimSuffix(part, rest), rest
				break
			}
		}
		out := f.command(b, strings.TrimSuffix(command, "\n"))
		has := strings.Split(changing.ReplaceAllString(out, "$1…"), "\n")
		for line := range strings.SplitSeq(changing.ReplaceAllString(shown, "$1…"), "\n") {
			if !slices.Contains(has, line) && !strings.Contains(line, `"…"`) {
				f.t.Errorf("%s:%d: %s prints\n%s\nand the page shows\n%s", f.page.path, b.line, command, out, line)
			}
		}
	}
}

// lineRests are the lines of a text, each with what follows it.
func lineRests(text string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for text != "" {
			line, rest, _ := strings.Cut(text, "\n")
			if text = rest; !yield(line, rest) {
				return
			}
		}
	}
}

// caddyfile lets Caddy adapt and provision a Caddyfile as it stands, or where its
// page says that it stands: in the block of till, beside it or in a site.
func (f *follower) caddyfile(b passage) {
	f.t.Helper()
	const upstream = "upstream openai {\ncredential {env.X}\n}\n"
	const global = "{\ntill {\n" + upstream + "}\n}\n"
	w := f.there()
	w.must("export X=x MOCK_KEY=x GITHUB_TOKEN=x; install -d /etc/till; for f in openai seal seal-2 hook; do [ -e /etc/till/$f.key ] || openssl rand -base64 32 >/etc/till/$f.key; done;" +
		` [ -e /etc/till/prices.json ] || echo '{"schema": "till.prices/1", "models": []}' >/etc/till/prices.json`)
	var said string
	for _, whole := range []string{
		b.text, global + b.text, global + ":80 {\n" + b.text + "\n}\n",
		"{\ntill {\n" + b.text + "\n}\n}\n", "{\ntill {\n" + upstream + b.text + "\n}\n}\n",
	} {
		out, status := w.runs("cat > $world/Caddyfile && caddy validate --adapter caddyfile --config $world/Caddyfile", whole)
		if status != 0 {
			said += out
			continue
		}
		if f.page.installs != "" && strings.HasPrefix(b.text, "{") && strings.Contains(b.text, "\n}\n\n") {
			if out, status := w.runs(f.page.installs, b.text); status != 0 {
				f.t.Fatal(out)
			}
		}
		return
	}
	f.t.Errorf("%s:%d: %s\n%s", f.page.path, b.line, b.text, said)
}
