package upstream

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

func stripper(t testing.TB, preset string, names ...string) *Preset {
	t.Helper()
	return withOptions(t, preset, Options{StripTools: names})
}

// TestToolsAreTakenOutAndNothingElse checks, to the byte, each form in which a
// request may have a provider's own tool. The forms are those of the vendors' API
// references: platform.openai.com/docs/api-reference/responses/create,
// platform.claude.com/docs (web search tool), ai.google.dev/api/caching#Tool,
// openrouter.ai/docs (plugins).
func TestToolsAreTakenOutAndNothingElse(t *testing.T) {
	t.Parallel()
	const refused = "refused: "
	for _, test := range []struct{ preset, path, names, body, want string }{
		{"openai", "/v1/responses", "web_search", `{"model":"m", "tools" : [ {"type":"web_search"} , {"type":"function","name":"f"} ], "input":"x"}`,
			`{"model":"m", "tools" : [ {"type":"function","name":"f"} ], "input":"x"}`},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"function","name":"f"},{"type":"web_search"}, {"type":"web_search_2025_08_26"},{"type":"custom","name":"g"}]}`,
			`{"tools":[{"type":"function","name":"f"},{"type":"custom","name":"g"}]}`},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search_preview"},{"type":"mcp"}]}`, ""},
		{"openai", "/v1/responses", "web_search_preview mcp", `{"tools":[{"type":"mcp","tools":[]},{"type":"web_search_preview_2025_03_11"},{"type":"web_search"}],"input":"x"}`,
			`{"tools":[{"type":"web_search"}],"input":"x"}`},
		// A list that is left empty goes, with what vendors refuse without tools.
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search","external_web_access":true}],"tool_choice":"auto","parallel_tool_calls":true,"input":"x"}`, `{"input":"x"}`},
		{"openai", "/v1/responses", "web_search", `{"input":"x","tool_choice":"auto","tools":[{"type":"web_search"}]}`, `{"input":"x"}`},
		{"openai", "/v1/responses", "web_search code_interpreter", `{"include":["web_search_call.results","reasoning.encrypted_content","web_search_call.action.sources"],"input":"x","tools":[{"type":"web_search"}]}`,
			`{"include":["reasoning.encrypted_content"],"input":"x"}`},
		{"openai", "/v1/responses", "web_search", `{"include":["web_search_call.results"],"input":"x","tools":[{"type":"web_search"},{"type":"function"}]}`, `{"input":"x","tools":[{"type":"function"}]}`},
		{"openai", "/v1/responses", "web_search", `{"include":["code_interpreter_call.outputs"],"tools":[{"type":"web_search"},{"type":"function"}]}`,
			`{"include":["code_interpreter_call.outputs"],"tools":[{"type":"function"}]}`},
		// What insists on such a tool is not answered without it.
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search"},{"type":"function"}],"tool_choice":{"type":"web_search"}}`, refused + "insists"},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search"}],"tool_choice":"required"}`, refused + "insists"},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search"},{"type":"function"}],"tool_choice":"required"}`, `{"tools":[{"type":"function"}],"tool_choice":"required"}`},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search"},{"type":"function","name":"f"}],"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"web_search"},{"type":"function","name":"f"}]}}`,
			`{"tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]}}`},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search"},{"type":"function"}],"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"web_search"}]}}`, refused + "insists"},
		// Codex has tools in namespaces, and for some models in the input.
		{"openai", "/v1/responses", "web_search", `{"input":[{"role":"user","content":"x"},{"type":"additional_tools","role":"developer","tools":[{"type":"function","name":"f"},{"type":"namespace","name":"n","tools":[{"type":"web_search"},{"type":"function","name":"g"}]},{"type":"web_search"}]}],"tool_choice":"auto"}`,
			`{"input":[{"role":"user","content":"x"},{"type":"additional_tools","role":"developer","tools":[{"type":"function","name":"f"},{"type":"namespace","name":"n","tools":[{"type":"function","name":"g"}]}]}],"tool_choice":"auto"}`},
		{"openai", "/v1/responses", "web_search", `{"input":[{"type":"additional_tools","tools":[{"type":"web_search"}]},{"role":"user","content":"x"}]}`, `{"input":[{"role":"user","content":"x"}]}`},
		{"openai", "/v1/responses", "web_search", `{"input":[{"type":"additional_tools","tools":[{"type":"web_search"}]}]}`, refused + "nothing is left"},
		{"openai", "/v1/chat/completions", "web_search", `{"web_search_options":{},"messages":[]}`, `{"messages":[]}`},
		{"xai", "/v1/chat/completions", "web_search", `{"messages":[],"search_parameters":{"mode":"on"}}`, `{"messages":[]}`},
		{"openai", "/v1/chat/completions", "mcp", `{"web_search_options":{},"messages":[]}`, ""},
		// A tool of the client's that has such a name is the client's.
		{"openai", "/v1/chat/completions", "web_search", `{"tools":[{"type":"function","function":{"name":"web_search","parameters":{"type":"web_search"}}}]}`, ""},
		{"anthropic", "/v1/messages", "web_search", `{"tools":[{"name":"web_search","input_schema":{"type":"object"}}]}`, ""},
		{"anthropic", "/v1/messages", "web_search web_fetch", `{"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":5},{"name":"f","input_schema":{}},{"type":"web_fetch_20250910","name":"web_fetch"}],"tool_choice":{"type":"auto"}}`,
			`{"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"auto"}}`},
		{"anthropic", "/v1/messages", "web_search", `{"tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"f"}],"tool_choice":{"type":"tool","name":"web_search"}}`, refused + "insists"},
		{"anthropic", "/v1/messages", "web_search", `{"tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"f"}],"tool_choice":{"type":"tool","name":"f"}}`,
			`{"tools":[{"name":"f"}],"tool_choice":{"type":"tool","name":"f"}}`},
		{"gemini", "/v1beta/models/m:generateContent", "googleSearch", `{"contents":[],"tools":[{"googleSearch":{}},{"functionDeclarations":[]}]}`, `{"contents":[],"tools":[{"functionDeclarations":[]}]}`},
		{"gemini", "/v1beta/models/m:streamGenerateContent", "google_search url_context", `{"contents":[],"tools":[{"functionDeclarations":[],"googleSearch":{}, "urlContext":{}}]}`,
			`{"contents":[],"tools":[{"functionDeclarations":[]}]}`},
		{"gemini", "/v1beta/models/m:generateContent", "codeExecution", `{"tools":[{"code_execution":{}}],"toolConfig":{"functionCallingConfig":{"mode":"AUTO"}},"contents":[]}`, `{"contents":[]}`},
		{"openrouter", "/api/v1/chat/completions", "web", `{"plugins":[{"id":"web","max_results":1},{"id":"file-parser"}],"messages":[]}`, `{"plugins":[{"id":"file-parser"}],"messages":[]}`},
		{"openrouter", "/api/v1/chat/completions", "web openrouter:web_search", `{"tools":[{"type":"openrouter:web_search"}],"messages":[],"plugins":[{"id":"web"}]}`, `{"messages":[]}`},
		// What two readers could read in two ways.
		{"openai", "/v1/responses", "web_search", `{"tools":[],"tools":[{"type":"web_search"}]}`, refused + "twice"},
		{"openai", "/v1/responses", "web_search", `{"Tools":[{"type":"web_search"}]}`, refused + "write tools"},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"function","type":"web_search"}]}`, refused + "twice"},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"Type":"web_search"}]}`, refused + "write type"},
		{"openai", "/v1/responses", "web_search", `{"\u0074ools":[{"typ\u0065":"web\u005fsearch"}],"input":"x"}`, `{"input":"x"}`},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search"}]}`, refused + "nothing is left"},
		{"openai", "/v1/responses", "web_search", `{"tools":[{"type":"web_search"}`, refused + "one JSON object"},
		{"openai", "/v1/responses", "web_search", `{"tools":null,"input":"x"}`, ""},
		{"openai", "/v1/responses", "web_search", `{"tools":` + strings.Repeat(`[{"tools":`, 9) + `[{"type":"web_search"}]` + strings.Repeat(`}]`, 9) + `}`, refused + "nested"},
	} {
		p := stripper(t, test.preset, strings.Fields(test.names)...)
		if !p.Strips("POST", test.path) {
			t.Errorf("%s is not looked at", test.path)
		}
		// A buffer has room behind what was read.
		c := &Call{Method: "POST", Path: test.path, ContentType: "application/json", Body: append(make([]byte, 0, 2*len(test.body)), test.body...)}
		changed, err := p.Strip(c)
		got := string(c.Body)
		switch want, isRefused := strings.CutPrefix(test.want, refused); {
		case isRefused && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s %s: %v, %s\nwant a refusal that says %q", test.names, test.body, err, got, want)
		case isRefused:
		case err != nil:
			t.Errorf("%s %s: %v", test.names, test.body, err)
		case test.want == "" && (changed || got != test.body), test.want != "" && (!changed || got != test.want):
			t.Errorf("%s %s:\n got %s\nwant %s", test.names, test.body, got, test.want)
		}
	}
}

func TestOnlyRequestsOfModelsAreStripped(t *testing.T) {
	t.Parallel()
	p := stripper(t, "openai", "web_search")
	for _, test := range []struct {
		method, path string
		want         bool
	}{
		{"POST", "/v1/responses", true}, {"POST", "/v1/responses/", true}, {"POST", "/v1/Responses", true}, {"POST", "/v1/chat/completions", true},
		{"GET", "/v1/responses", false}, {"POST", "/v1/responses/input_tokens", false}, {"POST", "/v1/files", false}, {"POST", "/v1/audio/speech", false},
	} {
		if got := p.Strips(test.method, test.path); got != test.want {
			t.Errorf("%s %s: %v", test.method, test.path, got)
		}
	}
	if plain, _ := Lookup("openai"); plain.Strips("POST", "/v1/responses") {
		t.Error("without the option it is looked at, too")
	}
	for _, c := range []Call{
		{ContentType: "multipart/form-data; boundary=x"}, {ContentType: "text/plain"}, {Encoding: "gzip"}, {ContentType: "application/json; charset=utf-7"},
	} {
		c.Method, c.Path, c.Body = "POST", "/v1/responses", []byte(`{"tools":[{"type":"web_search"}]}`)
		if _, err := p.Strip(&c); !errors.Is(err, ErrBody) {
			t.Errorf("%q %q: %v", c.ContentType, c.Encoding, err)
		}
	}
}

func TestWhatIsStrippedNoLongerCosts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ preset, path, name, body string }{
		{"openai", "/v1/responses", "web_search", `{"model":"gpt-5","input":"x","tools":[{"type":"web_search"},{"type":"function","name":"f","parameters":{}}],"max_output_tokens":10}`},
		{"anthropic", "/v1/messages", "web_search", `{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search"}]}`},
		{"gemini", "/v1beta/models/m:generateContent", "googleSearch", `{"contents":[],"tools":[{"googleSearch":{}}]}`},
		{"openrouter", "/api/v1/chat/completions", "web", `{"model":"m","messages":[],"plugins":[{"id":"web"}]}`},
		{"openai", "/v1/chat/completions", "web_search", `{"model":"gpt-5","messages":[],"web_search_options":{}}`},
	} {
		p := stripper(t, test.preset, test.name)
		c := &Call{Method: "POST", Path: test.path, ContentType: "application/json", Body: []byte(test.body)}
		if _, err := p.Estimate(c); !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s before: %v", test.body, err)
		}
		if _, err := p.Strip(c); err != nil {
			t.Fatal(err)
		}
		if e, err := p.Estimate(c); err != nil || strings.Contains(string(asSent(e, 5)), test.name) {
			t.Errorf("%s after: %v", c.Body, err)
		}
	}
}

func FuzzStrip(f *testing.F) {
	f.Add([]byte(`{"tools":[{"type":"web_search"},{"type":"function"}],"tool_choice":"auto","input":[{"tools":[]}],"include":["web_search_call.x"]}`), false)
	f.Add([]byte(`{"tools":[{"googleSearch":{},"functionDeclarations":[]}],"toolConfig":{}}`), true)
	f.Add([]byte(` { "tools" : [ { "type" : "web_search" } , 1 , [ ] ] , "plugins" : [ ] } `), false)
	openai, gemini := stripper(f, "openai", "web_search", "mcp"), stripper(f, "gemini", "googleSearch")
	f.Fuzz(func(t *testing.T, body []byte, native bool) {
		p, path := openai, "/v1/responses"
		if native {
			p, path = gemini, "/v1beta/models/m:generateContent"
		}
		c := &Call{Method: "POST", Path: path, Body: slices.Clone(body)}
		changed, err := p.Strip(c)
		if err != nil {
			if string(c.Body) != string(body) {
				t.Errorf("%q was refused, and became %q", body, c.Body)
			}
			return
		}
		if len(body) == 0 {
			return
		}
		var before, after map[string]any
		if err := json.Unmarshal(body, &before); err != nil {
			return // encoding/json is stricter about depth
		}
		if err := json.Unmarshal(c.Body, &after); err != nil {
			t.Fatalf("%q became %q: %v", body, c.Body, err)
		}
		if changed != (string(c.Body) != string(body)) || len(c.Body) > len(body) {
			t.Errorf("%q became %q, changed %v", body, c.Body, changed)
		}
		tools, _ := after["tools"].([]any)
		for _, tool := range tools {
			o, _ := tool.(map[string]any)
			if kind, _ := o["type"].(string); !native && (kind == "web_search" || kind == "mcp") {
				t.Errorf("%q became %q", body, c.Body)
			}
			if _, is := o["googleSearch"]; native && is {
				t.Errorf("%q became %q", body, c.Body)
			}
		}
		for name, value := range before {
			if fold(name) == "tools" || slices.Contains([]string{"input", "toolchoice", "include", "paralleltoolcalls", "toolconfig", "websearchoptions", "searchparameters"}, fold(name)) {
				continue
			}
			a, err1 := json.Marshal(value)
			b, err2 := json.Marshal(after[name])
			if err1 != nil || err2 != nil || string(a) != string(b) {
				t.Errorf("%q became %q: %s is another", body, c.Body, name)
			}
		}
		twice := &Call{Method: "POST", Path: path, Body: slices.Clone(c.Body)}
		if again, err := p.Strip(twice); again || err != nil {
			t.Errorf("%q became %q, and then %q (%v)", body, c.Body, twice.Body, err)
		}
	})
}
