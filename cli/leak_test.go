package cli

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

func TestLeakCommandSearchesDirectories(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TILL_ADDRESS", w.Serve())
	m := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":5}`)
	other := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.env", "# ours\n\nOPENAI_API_KEY="+m.ScopedKey+"\n")
	write("deep/er/b.json", `{"k": "`+base64.StdEncoding.EncodeToString([]byte(other.ScopedKey))+`"}`)
	write("c.bin", "\x00\x01"+m.ScopedKey)
	write(".git/objects/aa/bb", m.ScopedKey)
	write(".git/config", "[core]\n")
	if err := os.Symlink("a.env", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	plain := func(r ran) string { return strings.ReplaceAll(r.out, dir, "DIR") }

	r := till(t, "leak", dir, "--dry-run")
	if r.code != 0 || !strings.Contains(plain(r), "DIR/a.env:3  "+m.ScopedKey[:12]+"...  "+m.ID+" (nightly)  works\n") || w.Live(m).View().Status != record.Active {
		t.Errorf("%+v", r)
	}
	r = till(t, "leak", dir)
	want := "DIR/a.env:3  " + m.ScopedKey[:12] + "...  " + m.ID + " (nightly)  revoked\n" +
		"DIR/deep/er/b.json:1  " + other.ScopedKey[:12] + "...  " + other.ID + "  revoked\n" +
		"Found 2 strings in 3 files, 1 binary file skipped; 2 revoked, 0 unknown.\n"
	// A directory is read in the order of its names.
	lines := strings.SplitAfter(plain(r), "\n")
	slices.Sort(lines)
	sortedWant := strings.SplitAfter(want, "\n")
	slices.Sort(sortedWant)
	admintest.Equal(t, "the output", strings.Join(lines, ""), strings.Join(sortedWant, ""))
	if strings.Contains(r.out+r.err, m.ScopedKey) || strings.Contains(r.out+r.err, other.ScopedKey) {
		t.Error("a full key is printed")
	}
	if w.Live(m).View().Status != record.Revoked || w.Live(other).View().Status != record.Revoked {
		t.Error("they still work")
	}
	if r = till(t, "leak", filepath.Join(dir, "c.bin")); !strings.Contains(r.out, "no longer works") {
		t.Errorf("a binary file that is named: %+v", r)
	}
	if r = till(t, "leak", "--binary", dir); !strings.Contains(r.out, "c.bin:1") {
		t.Errorf("%+v", r)
	}
	if r = till(t, "leak", filepath.Join(dir, "none")); r.code != 1 {
		t.Errorf("%+v", r)
	}
	if r = till(t, "leak", m.ScopedKey); r.code != exitUsage || strings.Contains(r.out+r.err, m.ScopedKey) {
		t.Errorf("a key as an argument: %+v", r)
	}
	if r = till(t, "leak"); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	r = till(t, "leak", "--help")
	fits(t, r.out)
}

func TestLeakCommandFindsWithoutAServer(t *testing.T) {
	t.Setenv("TILL_ADDRESS", "unix/"+filepath.Join(t.TempDir(), "nobody"))
	text, _, err := token.MintAdmin()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(text.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := till(t, "leak", file, "--offline"); r.code != 0 || !strings.Contains(r.out, "f:1  till_admin_") || strings.Contains(r.out, text.Reveal()) {
		t.Errorf("%+v", r)
	}
	if r := till(t, "leak", file); r.code != 1 || !strings.Contains(r.out, "f:1  till_admin_") || !strings.Contains(r.err, "no server answers") {
		t.Errorf("%+v", r)
	}
}

// found returns the places where a search of a text finds strings.
func foundIn(t *testing.T, name, text string) (places []string) {
	t.Helper()
	s := &search{progress: showProgress(nil, "", inBytes), warn: t.Errorf}
	if err := s.stream(name, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.places {
		places = append(places, p.where)
	}
	return places
}

func mintString(t *testing.T) string {
	t.Helper()
	s, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

func TestPlacesInADiffAreThoseOfTheFilesItIsAbout(t *testing.T) {
	t.Parallel()
	a, b, c, d := mintString(t), mintString(t), mintString(t), mintString(t)
	text := `commit 0123456789abcdef0123456789abcdef01234567
Author: A <a@example.com>

    put the key ` + d + ` in

diff --git a/src/app.py b/src/app.py
index 1..2 100644
--- a/src/app.py
+++ b/src/app.py
@@ -10,3 +10,4 @@ def main():
 context
-OLD = "` + a + `"
+NEW = "` + b + `"
+MORE = 1
 context
diff --git a/gone b/gone
deleted file mode 100644
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-` + c + `
\ No newline at end of file
commit fedcba9876543210fedcba9876543210fedcba98
diff --git "a/with space" "b/with space"
--- "a/with space"
+++ "b/with space"
@@ -0,0 +1,2 @@
+--- a/decoy
+` + a + `
`
	want := []string{"0123456789ab:-:4", "0123456789ab:src/app.py:11", "0123456789ab:src/app.py:11", "0123456789ab:gone:1", "fedcba987654:with space:2"}
	if got := foundIn(t, "-", text); !slices.Equal(got, want) {
		t.Errorf("found at %q, want %q", got, want)
	}
}

func TestPlacesInRealGitHistory(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Fatal("git is needed: ", err)
	}
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	key := mintString(t)
	write := func(lines ...string) {
		if err := os.WriteFile(filepath.Join(dir, "f.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", "f.txt")
		git("commit", "-qm", "change")
	}
	git("init", "-q")
	write("one", "two", "three")
	write("one", "two", "key="+key, "three")
	write("one", "two", "three")
	commits := strings.Fields(git("log", "--format=%H"))
	want := []string{commits[0][:12] + ":f.txt:3", commits[1][:12] + ":f.txt:3"}
	if got := foundIn(t, "-", git("log", "-p", "--all")); !slices.Equal(got, want) {
		t.Errorf("found at %q, want %q", got, want)
	}
}

func TestLongStreamsAreSearchedToTheirEnd(t *testing.T) {
	t.Parallel()
	line := strings.Repeat(".", 99) + "\n"
	var b strings.Builder
	var want []string
	lineNo := 0
	for b.Len() < 2*leakChunk+leakChunk/2 {
		b.WriteString(line)
		lineNo++
		// Strings are close to every offset where a chunk may end, and at regular
		// distances.
		if lineNo%997 == 0 || b.Len()%leakChunk < 3*len(line) || (b.Len()+leakOverlap)%leakChunk < 3*len(line) {
			lineNo++
			b.WriteString("key " + mintString(t) + "\n")
			want = append(want, fmt.Sprintf("f:%d", lineNo))
		}
	}
	if got := foundIn(t, "f", b.String()); !slices.Equal(got, want) {
		t.Errorf("found %d, want %d", len(got), len(want))
	}
	// The text is a single line, longer than what is held in memory.
	key := mintString(t)
	long := strings.Repeat(". ", leakChunk/2+leakChunk/4) + key + strings.Repeat(" .", leakChunk) + "\n" + key + "\n"
	if got := foundIn(t, "f", long); !slices.Equal(got, []string{"f:1", "f:2"}) {
		t.Errorf("found at %q", got)
	}
}

func FuzzTracker(f *testing.F) {
	f.Add("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,3 @@\n a\n+b\n")
	f.Add("@@ -99999999999999999999 +1 @@\n")
	f.Add("commit 0123456789abcdef0123456789abcdef01234567\n\n\\ No\n")
	f.Fuzz(func(t *testing.T, text string) {
		at := &tracker{name: "-"}
		begin := at.pass([]byte(text), 0, len(text))
		if begin < 0 || begin > len(text) || at.where([]byte(text), begin) == "" || at.line != strings.Count(text, "\n") && !strings.HasSuffix(text, "\n") {
			t.Errorf("at %d, line %d of %q", begin, at.line, text)
		}
	})
}

// TestLeakCommandSaysWhichStringsWereNotEnded: the others are done with.
func TestLeakCommandSaysWhichStringsWereNotEnded(t *testing.T) {
	of, lose := admintest.Unreadable(t)
	w := serving(of)
	t.Setenv("TILL_ADDRESS", w.Serve())
	ended, lost := w.NewKey(`{"upstream":"openai","max_activations":5}`), w.NewKey(`{"upstream":"openai","max_activations":5}`)
	lose(record.RecordKey(lost.ID))
	text := ended.ScopedKey + "\n" + lost.ScopedKey + "\n"
	r := tillReading(t, text, "leak", "-")
	if r.code != 1 || !strings.Contains(r.out, "-:1  "+ended.ScopedKey[:12]+"...  "+ended.ID+"  revoked\n") ||
		!strings.Contains(r.out, "-:2  "+lost.ScopedKey[:12]+"...  NOT REVOKED: ") || !strings.Contains(r.out, "1 revoked, 0 unknown, 1 not revoked") || !strings.Contains(r.err, "again") {
		t.Errorf("%d\n%s%s", r.code, r.out, r.err)
	}
	r = tillReading(t, text, "leak", "-", "--json")
	if r.code != 1 || !strings.Contains(r.out, `"state": "failed"`) || !strings.Contains(r.out, `"state": "dead"`) || strings.Contains(r.out, `"state": ""`) {
		t.Errorf("%d\n%s%s", r.code, r.out, r.err)
	}
}

func TestEveryStateOfALeakHasAText(t *testing.T) {
	t.Parallel()
	for _, state := range limiter.LeakStates {
		if states[state] == "" {
			t.Errorf("%s has none", state)
		}
	}
}
