package admin

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

func TestLeaksFindsAndRevokes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.mint(`{"name":"a","upstream":"openai","max_activations":5}`), w.mint(`{"upstream":"openai","max_activations":5}`)
	sealed := w.mint(`{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-1"}`)
	spared := w.mint(`{"upstream":"openai","max_activations":5}`)
	stranger, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	text := "curl -u " + a.ScopedKey + ": …\nAuthorization: Basic " + base64.StdEncoding.EncodeToString([]byte(b.ScopedKey+":")) +
		"\n" + strings.ReplaceAll(sealed.ScopedKey, "_", "%5F") + "\n" + a.ScopedKey + " " + stranger.Reveal()
	answer := get[wire.LeaksAnswer](t, w.do("POST", "/leaks", mustJSON(t, object{"text": text, "dry_run": true})))
	if answer.Found != 4 || len(answer.Revoked) != 0 || answer.Unknown != 1 || w.live(a).View().Status != limiter.Active {
		t.Errorf("a dry run: %+v", answer)
	}
	raw := w.do("POST", "/leaks", mustJSON(t, object{"text": text}))
	answer = get[wire.LeaksAnswer](t, raw)
	want := []string{a.ID, sealed.ID, b.ID}
	if answer.Found != 4 || answer.Unknown != 1 || len(answer.Revoked) != 3 || len(answer.Matches) != 4 {
		t.Errorf("%+v", answer)
	}
	for _, id := range want {
		if !slices.Contains(answer.Revoked, id) {
			t.Errorf("%s is not among %v", id, answer.Revoked)
		}
	}
	if m := answer.Matches[0]; m.ID != a.ID || m.Name != "a" || m.State != limiter.LeakRevoked || m.Hint != a.ScopedKey[:12]+"..." {
		t.Errorf("%+v", m)
	}
	if strings.Contains(raw.body, a.ScopedKey[:14]) {
		t.Error("the answer shows more of a key than its beginning")
	}
	for _, m := range []*wire.Minted{a, b, sealed} {
		if w.live(m).View().Status != limiter.Revoked {
			t.Errorf("%s still works", m.ID)
		}
	}
	if w.live(spared).View().Status != limiter.Active {
		t.Error("another key was revoked")
	}
	again := get[wire.LeaksAnswer](t, w.do("POST", "/leaks", mustJSON(t, object{"text": text})))
	if again.Found != 4 || len(again.Revoked) != 0 || again.Unknown != 1 {
		t.Errorf("once more: %+v", again)
	}
	if empty := get[wire.LeaksAnswer](t, w.do("POST", "/leaks", `{"text":""}`)); empty.Found != 0 || empty.Revoked == nil {
		t.Errorf("%+v", empty)
	}
}

func TestLeaksTakesEightMegabytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.mint(`{"upstream":"openai","max_activations":5}`)
	text := strings.Repeat(".\n", (maxLeakText-len(m.ScopedKey)-1)/2) + " " + m.ScopedKey
	if answer := get[wire.LeaksAnswer](t, w.do("POST", "/leaks", mustJSON(t, object{"text": text}))); len(answer.Revoked) != 1 {
		t.Errorf("%+v", answer)
	}
	a := w.do("POST", "/leaks", mustJSON(t, object{"text": text + strings.Repeat(" ", 100)}))
	if _, message := a.fault(t); a.status != http.StatusRequestEntityTooLarge || !strings.Contains(message, "overlap") {
		t.Errorf("%d %s", a.status, message)
	}
}

type object = map[string]any

func TestLeakCommandSearchesDirectories(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TILL_ADDRESS", w.serve())
	m := w.mint(`{"name":"nightly","upstream":"openai","max_activations":5}`)
	other := w.mint(`{"upstream":"openai","max_activations":5}`)
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
	if r.code != 0 || !strings.Contains(plain(r), "DIR/a.env:3  "+m.ScopedKey[:12]+"...  "+m.ID+" (nightly)  works\n") || w.live(m).View().Status != limiter.Active {
		t.Errorf("%+v", r)
	}
	r = till(t, "leak", dir)
	want := "DIR/a.env:3  " + m.ScopedKey[:12] + "...  " + m.ID + " (nightly)  revoked\n" +
		"DIR/deep/er/b.json:1  " + other.ScopedKey[:12] + "...  " + other.ID + "  revoked\n" +
		"Found 2 strings in 3 files, 1 binary file skipped; 2 revoked, 0 unknown.\n"
	// The order in which a directory is read is that of its names.
	lines := strings.SplitAfter(plain(r), "\n")
	slices.Sort(lines)
	sortedWant := strings.SplitAfter(want, "\n")
	slices.Sort(sortedWant)
	equal(t, "the output", strings.Join(lines, ""), strings.Join(sortedWant, ""))
	if strings.Contains(r.out+r.err, m.ScopedKey) || strings.Contains(r.out+r.err, other.ScopedKey) {
		t.Error("a whole key is printed")
	}
	if w.live(m).View().Status != limiter.Revoked || w.live(other).View().Status != limiter.Revoked {
		t.Error("they still work")
	}
	if r = till(t, "leak", filepath.Join(dir, "c.bin")); !strings.Contains(r.out, "works no more") {
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

// found are the places where a search of a text finds strings.
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

func TestLongStreamsAreSearchedWhole(t *testing.T) {
	t.Parallel()
	line := strings.Repeat(".", 99) + "\n"
	var b strings.Builder
	var want []string
	lineNo := 0
	for b.Len() < 2*leakChunk+leakChunk/2 {
		b.WriteString(line)
		lineNo++
		// Close to every place where a chunk may end, and now and then.
		if lineNo%997 == 0 || b.Len()%leakChunk < 3*len(line) || (b.Len()+leakOverlap)%leakChunk < 3*len(line) {
			lineNo++
			b.WriteString("key " + mintString(t) + "\n")
			want = append(want, fmt.Sprintf("f:%d", lineNo))
		}
	}
	if got := foundIn(t, "f", b.String()); !slices.Equal(got, want) {
		t.Errorf("found %d, want %d", len(got), len(want))
	}
	// One line alone, longer than what is in memory.
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

func TestFewTextsAreSearchedForLeaksAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(`{"upstream":"openai","max_activations":5}`)
	body := `{"text":"` + k.ScopedKey + `"}`
	for range cap(leakTurns) {
		leakTurns <- struct{}{}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, httptest.NewRequestWithContext(gone, "POST", "/leaks", strings.NewReader(body)))
	for range cap(leakTurns) {
		<-leakTurns
	}
	if rec.Code != http.StatusServiceUnavailable {
		t.Errorf("one too many, whose client went away: %d %s", rec.Code, rec.Body)
	}
	if a := w.do("POST", "/leaks", body); a.status != http.StatusOK || !strings.Contains(a.body, k.ID) {
		t.Errorf("after that: %d %s", a.status, a.body)
	}
}
