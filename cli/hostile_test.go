package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

// hostile is a text that would mislead a terminal or its reader: it clears the
// screen, sets the title of the window, begins a new line, and reverses the text
// that follows.
const hostile = "a\x00\x07\x1b[2J\x1b]0;x\x07\b\nFAKE\r\tb\x7fc\u0085\u009b31m\u061c\u200b\u200e\u202e\u2028\u2029\u2066\u00ad\u3164\ufeff\U000e0041"

// impostor is a server that answers every call as openapi.json describes, with
// hostile text in every text.
func impostor(t *testing.T) string {
	t.Helper()
	w := newWorld(t)
	var doc struct {
		Paths      map[string]map[string]json.RawMessage
		Components struct{ Schemas map[string]shape }
	}
	if err := json.Unmarshal([]byte(w.Do("GET", "/openapi.json", "").Body), &doc); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, methods := range doc.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			var op struct {
				Responses map[string]struct {
					Content map[string]struct{ Schema shape }
				}
			}
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			// The others say no, or answer a call that was done before.
			status := slices.Min(slices.Collect(maps.Keys(op.Responses)))
			if _, creates := op.Responses["201"]; creates {
				status = "201"
			}
			answer := op.Responses[status]
			code, err := strconv.Atoi(status)
			if err != nil {
				t.Fatal(err)
			}
			mux.HandleFunc(strings.ToUpper(method)+" "+wire.BasePath+path, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(code)
				content, ok := answer.Content["application/json"]
				if !ok {
					_, _ = fmt.Fprintf(w, "{\"action\":\"\u009b\"}\n") // an export
					return
				}
				v := content.Schema.value(doc.Components.Schemas)
				if name := r.URL.Query().Get("name"); path == "/keys" && method == "get" && name == "two" {
					all := v.(map[string]any)
					all["keys"] = append(all["keys"].([]any), all["keys"].([]any)...)
				}
				if err := json.NewEncoder(w).Encode(v); err != nil {
					t.Error(err)
				}
			})
		}
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// shape is a schema in openapi.json.
type shape struct {
	Ref        string `json:"$ref"`
	Type       any
	Format     string
	Items      *shape
	AnyOf      []shape
	Properties map[string]shape
	More       any `json:"additionalProperties"`
}

// value returns a value that fits the schema.
func (s shape) value(named map[string]shape) any {
	switch {
	case s.Ref != "":
		return named[strings.TrimPrefix(s.Ref, "#/components/schemas/")].value(named)
	case len(s.AnyOf) > 0: // the second is that to a call done before
		return s.AnyOf[0].value(named)
	case s.Format == "date-time":
		return "2026-11-24T09:00:00Z"
	case s.Type == "boolean":
		return true
	case s.Type == "integer":
		return 5
	case s.Type == "array":
		return []any{s.Items.value(named)}
	case s.Type == "object" && s.More != nil && s.Properties == nil: // of texts or numbers
		kind, _ := s.More.(map[string]any)
		return map[string]any{hostile: shape{Type: kind["type"]}.value(named)}
	case s.Type == "object" && s.Properties == nil: // an entry of the audit log
		return map[string]any{"seq": 1, "time": "2026-11-24T09:00:00Z", "actor": hostile, "from": hostile, "action": hostile, "key": hostile, "changes": map[string]any{hostile: hostile}}
	case s.Type == "object":
		o := map[string]any{}
		for name, p := range s.Properties {
			switch name {
			case "next": // otherwise a list would never end
			case "ok":
				o[name] = false
			default:
				o[name] = p.value(named)
			}
		}
		return o
	}
	return hostile
}

// accuser is a server that refuses every call, with hostile text.
func accuser(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": hostile, "message": hostile}})
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// babbler is a server that is not till.
func babbler(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(hostile)) }))
	t.Cleanup(s.Close)
	return s.URL
}

// outputs lists, for every command, the ways in which it prints something. A
// command without a row fails the test.
var outputs = map[string][][]string{
	"create":       {{"--max-activations", "5"}, {"--max-activations", "5", "--name", "\u009b\u202e"}},
	"list":         {{}, {"--limit", "0"}, {"--upstream-key", "sk-real"}},
	"show":         {{"one"}, {"two"}, {"key_01M86CZR4HQ80C5C66DDK59VMG"}, {"x\u009b\u202e\x1b[2J"}},
	"suspend":      {{"one"}, {"two"}},
	"resume":       {{"one"}, {"two"}},
	"revoke":       {{"one"}, {"two"}, {"--all", "--dry-run"}, {"--all", "--yes"}},
	"rotate":       {{"one"}, {"two"}},
	"grant":        {{"one", "--activations", "5"}, {"two", "--activations", "5"}},
	"forget":       {{"one"}, {"two"}},
	"update":       {{"one", "--owner", "ops"}, {"two", "--owner", "ops"}},
	"env":          {{"one"}, {"two"}, {"one", "--upstream", "\x1b"}, {"one", "--base-url", "http://x\u009b"}},
	"stats":        {{}},
	"live":         {{}},
	"ready":        {{}},
	"nodes":        {{}},
	"nodes remove": {{"x\u009b"}, {"a"}},
	"prices":       {{}, {"x/\u009b"}},
	"repair":       {{"--forfeit", "--dry-run"}, {"--forfeit", "--yes"}, {"--clock"}},
	"backup":       {{"DIR/a\x1b\u009b\nFAKE"}},
	"migrate":      {{"--from", "badger:DIR/none\x1b\u009b\nFAKE", "--to", "postgres:postgres://\u009b@127.0.0.1:1/\x1b"}, {"--from", "\u009b"}},
	"restore":      {{"DIR/none\x1b\u009b\nFAKE", "--store", "DIR/store\u009b"}},
	"seal":         {{}},
	"seal rotate":  {{}},
	"stale":        {{}},
	"leak":         {{"DIR"}, {"DIR", "--offline"}, {"DIR", "--dry-run"}, {"DIR/none\u009b"}},
	"lockdown":     {{"--reason", "x\u009b"}, {"--status"}, {"--lift"}},
	"run":          {{"--max-activations", "5", "--", "true"}, {"--max-activations", "5", "--", "no-such\x1b\u009b"}},
	"doctor":       {{}, {"--config", "DIR/none\u009b\nFAKE"}},
	"top":          {{"--count", "1"}},
	"token create": {{"x\u009b", "--role", "ci"}},
	"token list":   {{}},
	"token revoke": {{"x\u009b"}, {"a"}},
	"audit":        {{}},
	"audit verify": {{}, {"DIR/file"}, {"DIR/none\x1b"}},
	"audit export": {{"DIR/new\u009b"}},
	"console":      {{}},
	"up":           {{"--print-config", "--data", "DIR/\x1b\u009b"}, {"--listen", "\u009b"}},
}

func TestWhatOthersChoseCannotSteerATerminal(t *testing.T) {
	t.Parallel()
	servers := map[string]string{"answers": impostor(t), "refuses": accuser(t), "babbles": babbler(t), "is away": "http://127.0.0.1:1/\u009b"}
	for path, cmd := range tree() {
		if path == "" || cmd.HasSubCommands() && !cmd.Runnable() || path == "token" {
			continue
		}
		lines, ok := outputs[path]
		if !ok {
			t.Errorf("%s has no row: say how it prints what others chose", path)
		}
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			for what, address := range servers {
				for _, line := range lines {
					for _, more := range [][]string{nil, {"--json"}} {
						dir := badlyNamed(t)
						args := strings.Fields(path)
						if path != "up" {
							args = append(args, "--address", address)
						}
						args = append(args, more...)
						for _, word := range line {
							args = append(args, strings.ReplaceAll(word, "DIR", dir))
						}
						tame(t, fmt.Sprintf("where the server %s: %q", what, args), till(t, args...))
					}
				}
			}
		})
	}
}

// TestAnAnswerThatLacksWhatIsNeededIsAnError: whatever listens at the address may answer
// with anything.
func TestAnAnswerThatLacksWhatIsNeededIsAnError(t *testing.T) {
	t.Parallel()
	needy := []string{"create", "rotate", "show", "suspend", "revoke", "grant", "update", "env", "console", "token create", "run", "lockdown", "repair"}
	for _, answer := range []string{`{}`, `[]`, `null`, `""`, `{"keys":[null]}`, `{"id":"key_01M86CZR4HQ80C5C66DDK59VMG","remaining_activations":5,"remaining_tokens":5}`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		t.Cleanup(s.Close)
		for path, lines := range outputs {
			if path == "up" || path == "top" {
				continue // the one calls nobody, and the other goes on until it is stopped
			}
			if slices.Contains(needy, path) {
				lines = append(slices.Clone(lines), append([]string{"--json"}, lines[0]...))
			}
			for _, line := range lines {
				args := append(strings.Fields(path), "--address", s.URL)
				for _, word := range line {
					word = strings.ReplaceAll(word, "DIR", t.TempDir())
					args = append(args, strings.ReplaceAll(word, "one", "key_01M86CZR4HQ80C5C66DDK59VMG"))
				}
				r := till(t, args...)
				asks := slices.Contains([]string{"create", "console", "token create", "lockdown", "repair"}, path) || slices.Contains(line, "one")
				if asks && len(answer) <= 4 && r.code == 0 {
					t.Errorf("%q, answered %s: it worked, and printed %s", args, answer, r.out)
				} else if asks && !slices.Contains([]string{"show", "env"}, path) && len(answer) <= 4 && !strings.Contains(r.err, s.URL) {
					t.Errorf("%q, answered %s: the address is not named: %s", args, answer, r.err)
				}
			}
		}
	}
}

// tame fails if something was printed that controls a terminal or that a reader
// cannot see.
func tame(t *testing.T, what string, r ran) {
	t.Helper()
	for _, text := range []string{r.out, r.err} {
		if !utf8.ValidString(text) {
			t.Errorf("%s: it is no UTF-8: %q", what, text)
		}
		for i, c := range text {
			own := c == '\n' || c == '\t' && strings.Contains(what, "--print-config")
			if deceptive(c) && !own {
				t.Errorf("%s: printed %U: …%q…", what, c, text[max(i-30, 0):min(i+30, len(text))])
				return
			}
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(strings.TrimSpace(line), "FAKE") {
				t.Errorf("%s: printed a line that somebody else wrote:\n%s", what, text)
			}
		}
	}
}

// badlyNamed makes a directory of files with hostile names, each of which holds a key.
func badlyNamed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	text, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "\x1b[2J\nFAKE\u009b\u202e.txt", "\xff\x9b.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("+++ b/\x1b\u009b\n"+text.Reveal()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestJSONHoldsWhatWasChosen: a program that reads the JSON gets the text that
// people see escaped.
func TestJSONHoldsWhatWasChosen(t *testing.T) {
	t.Parallel()
	var all wire.Listed
	r := till(t, "list", "--json", "--address", impostor(t))
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || all.Keys[0].Name != hostile {
		t.Errorf("%v: %s", err, r.out)
	}
}

func TestACharacterInTwoPiecesIsComplete(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	d := &display{Writer: &b}
	for _, c := range []byte("aé\u009b\U0001f600\xff.\n") {
		if n, err := d.Write([]byte{c}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	admintest.Equal(t, "the text", b.String(), "aé\\u009b\U0001f600\\xff.\n")
}
