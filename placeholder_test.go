package till

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestPlaceholdersAreFilledInAsCaddyDoes, but with the file at fault in the error,
// where Caddy only says that something is empty.
func TestPlaceholdersAreFilledInAsCaddyDoes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("TILL_TEST_PART", "env")
	for name, text := range map[string]string{
		"plain": "a", "line": "a\n", "windows": "a\r\n", "lines": "a\n\n", "spaces": " a ", "braces": "{env.TILL_TEST_PART}", "empty": "", "blank": " \n",
	} {
		file(t, filepath.Join(dir, name), text, 0o600)
	}
	for text, blames := range map[string]string{
		"literal": "", "{env.TILL_TEST_PART}": "", "{file.DIR/plain}": "", "{file.DIR/line}": "", "{file.DIR/windows}": "", "{file.DIR/lines}": "", "{file.DIR/spaces}": "",
		"{file.plain}": "", "{file.DIR/plain}{file.DIR/line}": "", "x-{env.TILL_TEST_PART}-{file.line}-y": "", "{file.DIR/braces}": "", `\{file.plain\}`: "", "{file.plain": "",
		"{file.DIR/empty}": "DIR/empty is empty", "{file.DIR/blank}": "DIR/blank is empty", "{file.DIR/none}": "DIR/none: no such file", "{file.DIR}": "DIR is a directory",
		"{file.plain}{file.DIR/none}": "DIR/none", "{env.TILL_TEST_NONE}": "env.TILL_TEST_NONE} is empty; name a file, {file./path}", "{nonsense}": "{nonsense}; name a file, {file./path}",
	} {
		text, blames = strings.ReplaceAll(text, "DIR", dir), strings.ReplaceAll(blames, "DIR", dir)
		s := &fileSource{paths: filesIn(text), maxSize: maxSecretFile}
		files, _ := s.read()
		got, err := files.resolve(text)
		if (err != nil) != (blames != "") || err != nil && !strings.Contains(err.Error(), blames) {
			t.Errorf("%s: %v, want %q", text, err, blames)
		}
		if want, wrong := caddy.NewReplacer().ReplaceOrErr(text, true, true); wrong == nil && err == nil && got != want {
			t.Errorf("%s is %q, and to Caddy %q", text, got, want)
		}
	}
}
