package upstream

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tiktoken-go/tokenizer"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// vocabularies are real ones: of today's models, of yesterday's, and one that
// has a token for hardly any letter but English ones.
var vocabularies = sync.OnceValue(func() (all []tokenizer.Codec) {
	for _, name := range []tokenizer.Encoding{tokenizer.O200kBase, tokenizer.Cl100kBase, tokenizer.R50kBase} {
		codec, err := tokenizer.Get(name)
		if err != nil {
			panic(err)
		}
		all = append(all, codec)
	}
	return all
})

// countTokens is the most that any vocabulary makes of a text, in any of the
// forms that tokenizers bring it to.
func countTokens(t interface{ Fatal(...any) }, text string) (most int64) {
	return countBy(t, text, vocabularies())
}

// countLines is that of what is printed by lines: the oldest vocabulary, of
// models that know no tools, has none for several spaces.
func countLines(t interface{ Fatal(...any) }, text string) (most int64) {
	return countBy(t, text, vocabularies()[:2])
}

func countBy(t interface{ Fatal(...any) }, text string, by []tokenizer.Codec) (most int64) {
	forms := []string{text, norm.NFC.String(text), norm.NFKC.String(text)}
	for i, s := range forms {
		if i > 0 && s == forms[i-1] {
			continue
		}
		for _, v := range by {
			n, err := v.Count(s)
			if err != nil {
				t.Fatal(err)
			}
			most = max(most, int64(n))
		}
	}
	return most
}

// chatml is a prompt as the most common template makes it.
func chatml(messages []map[string]any) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "<|im_start|>%s\n%s<|im_end|>\n", m["role"], m["content"])
	}
	return b.String() + "<|im_start|>assistant\n"
}

// TestABoundIsNeverBelowWhatATokenizerCounts for a conversation and its tools,
// however written, at every vendor.
func TestABoundIsNeverBelowWhatATokenizerCounts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var messages []map[string]any
		var written []string
		for range rapid.IntRange(1, 4).Draw(t, "messages") {
			text, often := hostileText(t), rapid.SampledFrom([]int{0, 5, 100}).Draw(t, "often")
			messages = append(messages, map[string]any{"role": "user", "content": text})
			written = append(written, `{"role":"user","content":`+escaped(text, often)+`}`)
		}
		schema := map[string]any{"type": "object", "properties": map[string]any{"x": drawJSON(t, 4)}}
		tools := []any{map[string]any{"type": "function", "function": map[string]any{"name": "f", "description": hostileText(t), "parameters": schema}}}
		list, err := json.Marshal(tools)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := json.MarshalIndent(tools, "", "    ")
		if err != nil {
			t.Fatal(err)
		}
		said := countTokens(t, chatml(messages))
		for name, shown := range map[string]int64{"openai": countTokens(t, printed(t, tools)), "together": countLines(t, string(lines)), "ollama": countLines(t, string(lines))} {
			p, _ := Lookup(name)
			body := `{"model":"m","messages":[` + strings.Join(written, ",") + `],"tools":` + string(list) + `}`
			e, err := p.Estimate(&Call{Method: "POST", Path: "/v1/chat/completions", Body: []byte(body)})
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			// What is added for tools and by servers is for what is not shown here.
			if bound := e.Input - toolsTokens - p.ServerInput(); bound < said+shown {
				t.Fatalf("%s: %s: bound %d, and there are %d and %d tokens", name, body, bound, said, shown)
			}
		}
	})
}

// printed is JSON as Python prints it.
func printed(t *rapid.T, v any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		t.Fatal(err)
	}
	var spaced strings.Builder
	inside, escaped := false, false
	for _, c := range strings.TrimSuffix(b.String(), "\n") {
		spaced.WriteRune(c)
		switch {
		case escaped:
			escaped = false
		case inside && c == '\\':
			escaped = true
		case c == '"':
			inside = !inside
		case !inside && (c == ',' || c == ':'):
			spaced.WriteByte(' ')
		}
	}
	return spaced.String()
}

// TestDeepToolsAreHeldAsTemplatesPrintThem: Llama 3.1's prints them with an
// indentation of four. The first two are the worst cases that were found.
func TestDeepToolsAreHeldAsTemplatesPrintThem(t *testing.T) {
	t.Parallel()
	nested := func(depth int) string { return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth) }
	for name, schema := range map[string]string{
		"many ones":   `{"enum":[` + strings.TrimSuffix(strings.Repeat("1,", 4000), ",") + `]}`,
		"deep nests":  `{"enum":[` + strings.TrimSuffix(strings.Repeat(nested(80)+",", 15), ",") + `]}`,
		"very deep":   nested(150),
		"deep lists":  strings.Repeat("[", 200) + strings.Repeat("]", 200),
		"numbers":     `{"enum":[` + strings.TrimSuffix(strings.Repeat("1e15,", 1000), ",") + `]}`,
		"HTML":        `{"description":"` + strings.Repeat("<>&'", 500) + `"}`,
		"quotes":      `{"description":"` + strings.Repeat(`\"\n`, 500) + `"}`,
		"empty":       `{"enum":[` + strings.TrimSuffix(strings.Repeat("{},", 1000), ",") + `]}`,
		"short names": `{` + strings.TrimSuffix(strings.Repeat(`"":0,`, 1000), ",") + `}`,
	} {
		tools := `[{"type":"function","function":{"name":"f","parameters":` + schema + `}}]`
		var value any
		if err := json.Unmarshal([]byte(tools), &value); err != nil {
			t.Fatal(err)
		}
		lines, err := json.MarshalIndent(value, "", "    ")
		if err != nil {
			t.Fatal(err)
		}
		e, err := estimate(t, "together", "/v1/chat/completions", `{"model":"m","messages":[],"tools":`+tools+`}`)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if tokens := countLines(t, string(lines)); e.Input < tokens {
			t.Errorf("%s: bound %d, and there are %d tokens", name, e.Input, tokens)
		}
	}
}

// TestOrdinaryToolsAreNotHeldForMuchMore than their text is.
func TestOrdinaryToolsAreNotHeldForMuchMore(t *testing.T) {
	t.Parallel()
	var tools []string
	for i := range 12 {
		tools = append(tools, fmt.Sprintf(`{"type":"function","function":{"name":"tool_%d","description":"Reads a file of the project and returns its lines, with their numbers.",`+
			`"parameters":{"type":"object","properties":{"path":{"type":"string","description":"Where the file is, from the root of the project."},"from":{"type":"integer","description":"The first line."}},"required":["path"]}}}`, i))
	}
	list := "[" + strings.Join(tools, ",") + "]"
	for name, permille := range map[string]int64{"openai": 1300, "anthropic": 1300, "together": 1900} {
		path := map[string]string{"anthropic": "/v1/messages"}[name]
		if path == "" {
			path = "/v1/chat/completions"
		}
		plain, err := estimate(t, name, path, `{"model":"m","messages":[]}`)
		if err != nil {
			t.Fatal(err)
		}
		e, err := estimate(t, name, path, `{"model":"m","messages":[],"tools":`+list+`}`)
		if err != nil {
			t.Fatal(err)
		}
		if more := e.Input - plain.Input - toolsTokens; more > int64(len(list))*permille/1000 {
			t.Errorf("%s: %d tokens for tools of %d bytes", name, more, len(list))
		}
	}
}

// TestToolsAreHeldAsTemplatesPrintThem: Llama 3.1's prints them with an indentation of four
// spaces. The counts were made with its tokenizer.
func TestToolsAreHeldAsTemplatesPrintThem(t *testing.T) {
	t.Parallel()
	ones := strings.TrimSuffix(strings.Repeat("1,", 8000), ",")
	nests := strings.TrimSuffix(strings.Repeat(strings.Repeat(`[`, 80)+strings.Repeat(`]`, 80)+",", 60), ",")
	for _, test := range []struct {
		name, enum string
		least      int64
	}{{"numbers", ones, 32_187}, {"nests", nests, 30_427}} {
		for _, preset := range []string{"together", "fireworks", "groq", "vllm", "ollama"} {
			path := map[string]string{"fireworks": "/inference/v1", "groq": "/openai/v1"}[preset] + "/chat/completions"
			e, err := estimate(t, preset, path, `{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"enum":[`+test.enum+`]}}}]}`)
			if err != nil || e.Input < test.least {
				t.Errorf("%s at %s: %+v, %v; want at least %d tokens", test.name, preset, e, err, test.least)
			}
		}
	}
}
