package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime/multipart"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func preset(t testing.TB, name string) *Preset {
	t.Helper()
	if name == "" {
		return &Preset{}
	}
	p, ok := Lookup(name)
	if !ok {
		t.Fatalf("no preset %s", name)
	}
	return p
}

func TestEveryModelThatARequestNamesIsFound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, preset, path, query, body string
		want                            string // separated by spaces
		unnamed                         bool
	}{
		{name: "in the body", body: `{"model":"a","messages":[]}`, want: "a"},
		{name: "last in the body", body: ` { "messages" : [ { "content" : "\"model\":\"x\"" } ] , "model" : "a" } `, want: "a"},
		{name: "escaped", body: `{"mode\u006c":"gpt\u002d5"}`, want: "gpt-5"},
		{name: "none", body: `{"messages":[]}`, unnamed: true},
		{name: "null", body: `{"model":null}`, unnamed: true},
		{name: "no body", unnamed: true},
		{name: "only deeper", body: `{"metadata":{"model":"x"},"messages":[{"model":"y"}]}`, unnamed: true},
		{name: "a list of fallbacks", preset: "openrouter", body: `{"model":"a","models":["b","c"],"route":"fallback"}`, want: "a b c"},
		{name: "a list alone", preset: "openrouter", body: `{"models":["b","c"]}`, want: "b c"},
		{name: "fallbacks as objects", body: `{"model":"a","fallbacks":[{"model":"b"},"c"]}`, want: "a b c"},
		{name: "another model beside it", body: `{"model":"a","safety_model":"b","fallback_models":["c"]}`, want: "a b c"},
		{name: "only another model", body: `{"safety_model":"b"}`, want: "b", unnamed: true},
		{name: "of a tool", body: `{"model":"a","tools":[{"type":"image_generation","model":"b"},{"type":"function","function":{"name":"model"}}]}`, want: "a b"},
		{name: "of an advisor", preset: "anthropic", body: `{"model":"a","tools":[{"type":"advisor_20260301","name":"advisor","model":"b"}]}`, want: "a b"},
		{name: "of a provider's tool", body: `{"model":"a","tools":[{"type":"openrouter:fusion","parameters":{"model":"b","analysis_models":["c"]}}]}`, want: "a b c"},
		{name: "a function's parameter called model", body: `{"model":"a","tools":[{"type":"function","function":{"parameters":{"properties":{"model":{"type":"string"}}}}}]}`, want: "a"},
		{name: "of a plugin", preset: "openrouter", body: `{"model":"a","plugins":[{"id":"auto-router","allowed_models":["b"]}]}`, want: "a b"},
		{name: "in the path", preset: "gemini", path: "/v1beta/models/g-1:generateContent", body: `{"contents":[]}`, want: "g-1"},
		{name: "in path and body", preset: "gemini", path: "/v1beta/models/g-1:countTokens", body: `{"generateContentRequest":{"model":"models/g-2"}}`, want: "g-1 g-2"},
		{name: "in protobuf's other writing", preset: "gemini", path: "/v1beta/models/g-1:countTokens", body: `{"generate_content_request":{"model":"models/g-2"}}`, want: "g-1 g-2"},
		{name: "in a batch", preset: "gemini", path: "/v1beta/models/g-1:batchEmbedContents", body: `{"requests":[{"model":"models/g-2"},{"model":"g-3"}]}`, want: "g-1 g-2 g-3"},
		{name: "a tuned one", preset: "gemini", path: "/v1beta/tunedModels/t:generateContent", want: "tunedModels/t"},
		{name: "one that is looked at", preset: "openai", path: "/v1/models/gpt-5", want: "gpt-5"},
		{name: "with a slash", preset: "openrouter", path: "/api/v1/models/openai/gpt-5/endpoints", want: "openai/gpt-5/endpoints"},
		{name: "the list", preset: "openai", path: "/v1/models", unnamed: true},
		{name: "in the query, which does not name it", query: "a=1&model=q", body: `{"x":1}`, want: "q", unnamed: true},
		{name: "in an escaped query", query: "%6dodel=q", body: `{"model":"a"}`, want: "q a"},
	} {
		models, named, err := preset(t, test.preset).Models(&Call{Method: "POST", Path: test.path, Query: test.query, ContentType: "application/json", Body: []byte(test.body)})
		if err != nil || named == test.unnamed || strings.Join(models, " ") != test.want {
			t.Errorf("%s: %q, named %v, %v; want %q", test.name, models, named, err, test.want)
		}
	}
}

func TestBodiesThatTwoReadersReadDifferentlyAreRefused(t *testing.T) {
	t.Parallel()
	names := make([]string, maxModels)
	for i := range names {
		names[i] = strings.Repeat("b", i+1)
	}
	for name, body := range map[string]string{
		"twice":                    `{"model":"a","model":"b"}`,
		"twice, once escaped":      `{"model":"a","mod\u0065l":"b"}`,
		"another case":             `{"Model":"a"}`,
		"another case beside it":   `{"model":"a","MODEL":"b"}`,
		"a Kelvin sign":            `{"model":"a","modelſ":["b"]}`,
		"an underscore":            `{"model":"a","mode_l":"b"}`,
		"models in another case":   `{"model":"a","Models":["b"]}`,
		"tools twice":              `{"model":"a","tools":[],"tools":[{"model":"b"}]}`,
		"tools in another case":    `{"model":"a","Tools":[{"model":"b"}]}`,
		"a tool's model twice":     `{"model":"a","tools":[{"model":"a","model":"b"}]}`,
		"both of protobuf's":       `{"model":"a","generateContentRequest":{},"generate_content_request":{"model":"b"}}`,
		"a number":                 `{"model":5}`,
		"a list":                   `{"model":["a"]}`,
		"an object":                `{"model":{"a":1}}`,
		"a preset":                 `{"model":"a","preset":"p"}`,
		"two objects":              `{"model":"a"}{"model":"b"}`,
		"two objects on two lines": "{\"model\":\"a\"}\n{\"model\":\"b\"}",
		"a list of objects":        `[{"model":"a"}]`,
		"text":                     `"model"`,
		"cut off":                  `{"model":"a"`,
		"a byte order mark":        "\xef\xbb\xbf" + `{"model":"a"}`,
		"a comment":                `{"model":"a"/*,"model":"b"*/}`,
		"a comma too many":         `{"model":"a",}`,
		"single quotes":            `{'model':'a'}`,
		"not UTF-8":                "{\"model\":\"a\xff\"}",
		"UTF-16":                   "{\x00\"\x00",
		"a control character":      "{\"model\":\"a\x01\"}",
		"a hidden end":             `{"model":"a\u0000b"}`,
		"a space":                  `{"model":"a b"}`,
		"nothing":                  `{"model":""}`,
		"too long":                 `{"model":"` + strings.Repeat("a", 300) + `"}`,
		"too many":                 `{"model":"a","models":["` + strings.Join(names, `","`) + `"]}`,
		"too deep":                 `{"model":"a","x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
		"space alone":              " ",
	} {
		if models, _, err := preset(t, "openai").Models(&Call{ContentType: "application/json", Body: []byte(body)}); !errors.Is(err, ErrBody) {
			t.Errorf("%s: read as %q, %v", name, models, err)
		}
	}
	for name, c := range map[string]Call{
		"encoded":             {ContentType: "application/json", Encoding: "gzip"},
		"a form in the URL":   {ContentType: "application/x-www-form-urlencoded"},
		"plain text":          {ContentType: "text/plain"},
		"a broken type":       {ContentType: "application/json; charset"},
		"a form of no bounds": {ContentType: "multipart/form-data"},
		"in UTF-7":            {ContentType: "application/json; charset=utf-7"},
		"a broken query":      {Query: "model=%zz"},
	} {
		c.Body = []byte(`{"model":"a"}`)
		if models, _, err := preset(t, "openai").Models(&c); !errors.Is(err, ErrBody) {
			t.Errorf("%s: read as %q, %v", name, models, err)
		}
	}
}

// formOf writes a form as clients do.
func formOf(t testing.TB, fields ...string) (string, []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		if err := w.WriteField(fields[i], fields[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	file, err := w.CreateFormFile("file", "a model.wav")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write([]byte("RIFF\r\nname=\"model\"\r\n\r\nx")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

func TestTheModelOfAFormIsFoundOrRefused(t *testing.T) {
	t.Parallel()
	kind, body := formOf(t, "response_format", "json", "model", "whisper-1")
	p := preset(t, "openai")
	models, named, err := p.Models(&Call{ContentType: kind, Body: body})
	if err != nil || !named || !slices.Equal(models, []string{"whisper-1"}) {
		t.Errorf("%q, named %v, %v", models, named, err)
	}
	kind, body = formOf(t)
	if models, named, err := p.Models(&Call{ContentType: kind, Body: body}); err != nil || named || len(models) != 0 {
		t.Errorf("a form without: %q, named %v, %v", models, named, err)
	}
	for name, fields := range map[string][]string{
		"twice": {"model", "a", "model", "b"}, "another case": {"Model", "a"}, "beside another": {"model", "a", "MODEL", "b"},
		"an odd name": {"mo\\del", "a"}, "a name with a quote": {`model"; x="`, "a"}, "too long": {"model", strings.Repeat("a", 400)},
	} {
		kind, body := formOf(t, fields...)
		if models, _, err := p.Models(&Call{ContentType: kind, Body: body}); !errors.Is(err, ErrBody) {
			t.Errorf("%s: read as %q, %v", name, models, err)
		}
	}
	kind, whole := formOf(t, "model", "a")
	_, boundary, _ := strings.Cut(kind, "boundary=")
	for name, altered := range map[string]string{
		"words before":          "x\r\n" + string(whole),
		"words after":           string(whole) + "--" + boundary + "\r\n",
		"cut off":               string(whole[:len(whole)-8]),
		"a part with a header":  strings.Replace(string(whole), "Content-Disposition", "X-Model: b\r\nContent-Disposition", 1),
		"two dispositions":      strings.Replace(string(whole), "Content-Disposition", "Content-Disposition: form-data; name=\"b\"\r\nContent-Disposition", 1),
		"two names":             strings.Replace(string(whole), `name="model"`, `name="x"; name="model"`, 1),
		"another way of naming": strings.Replace(string(whole), `name="model"`, `name="x"; name*=utf-8''model`, 1),
		"a file for a model":    strings.Replace(string(whole), `name="model"`, `name="model"; filename="x"`, 1),
		"a boundary in a file":  strings.Replace(string(whole), "RIFF", "\n--"+boundary+"\nContent-Disposition: form-data; name=\"model\"\n\nb\n", 1),
		"bare line ends":        strings.ReplaceAll(string(whole), "\r\n", "\n"),
		"another encoding":      strings.Replace(string(whole), "\r\n\r\na", "\r\nContent-Transfer-Encoding: base64\r\n\r\na", 1),
	} {
		if models, _, err := p.Models(&Call{ContentType: kind, Body: []byte(altered)}); !errors.Is(err, ErrBody) {
			t.Errorf("%s: read as %q, %v", name, models, err)
		}
	}
}

func TestModelListsAreFiltered(t *testing.T) {
	t.Parallel()
	allowed := func(m string) bool { return m == "a" || m == "b" }
	for _, test := range []struct{ name, body, want string }{
		{"OpenAI", `{"object":"list","data":[{"id":"a","x":1.50},{"id":"c"},{"id":"b"}],"has_more":false}`, `{"object":"list","data":[{"id":"a","x":1.50},{"id":"b"}],"has_more":false}`},
		{"Gemini", `{"models":[{"name":"models/a"},{"name":"models/c"}],"nextPageToken":"t"}`, `{"models":[{"name":"models/a"}],"nextPageToken":"t"}`},
		{"Ollama", `{"models":[{"name":"a","model":"a"},{"name":"c","model":"c"}]}`, `{"models":[{"name":"a","model":"a"}]}`},
		{"OpenRouter", `{"data":[{"name":"A: c","id":"a"},{"name":"a","id":"c"}]}`, `{"data":[{"name":"A: c","id":"a"}]}`},
		{"a bare list", ` [{"id":"a"},{"id":"c"},"b","c",5,null]`, `[{"id":"a"},"b"]`},
		{"nothing allowed", `{"data":[{"id":"c"}]}`, `{"data":[]}`},
		{"nothing to filter", `{"version":"0.9"}`, `{"version":"0.9"}`},
		{"an empty object", `{}`, `{}`},
	} {
		got, err := FilterModels([]byte(test.body), allowed)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %s, %v; want %s", test.name, got, err, test.want)
		}
	}
	for _, body := range []string{"", "x", `"a"`, `[{"id":"a"}`, `{"data":[}`, "\xff"} {
		if got, err := FilterModels([]byte(body), allowed); err == nil {
			t.Errorf("%q becomes %s", body, got)
		}
	}
}

// FuzzModels compares the walker with encoding/json: the models that encoding/json
// sees are always among those that the walker finds.
func FuzzModels(f *testing.F) {
	for _, s := range []string{`{"model":"a"}`, `{"a":[1,{"b":"\"}"}],"model":"x\u0041"}`, `{"models":["a",{"model":"b"}]}`,
		`{"tools":[{"model":"b"}],"model":"a"}`, `{"Model":"a"}`, ` {"model":null,"x":-1.5e3,"y":true} `, `{"model":"a","model":"b"}`, `{"mod`} {
		f.Add([]byte(s))
	}
	p := preset(f, "openai")
	f.Fuzz(func(t *testing.T, body []byte) {
		models, named, err := p.Models(&Call{ContentType: "application/json", Body: body})
		if err != nil {
			return
		}
		var seen struct {
			Model *string `json:"model"`
		}
		if len(body) == 0 {
			return
		}
		if !utf8.Valid(body) || json.Unmarshal(body, &seen) != nil {
			t.Fatalf("%q is read, but encoding/json does not read it", body)
		}
		if seen.Model != nil && (!named || !slices.Contains(models, *seen.Model)) {
			t.Errorf("%q names %q, found %q", body, *seen.Model, models)
		}
	})
}

func FuzzForm(f *testing.F) {
	_, body := formOf(f, "model", "a")
	f.Add(body, "x")
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\r\n--x--\r\n"), "x")
	p := preset(f, "openai")
	f.Fuzz(func(t *testing.T, body []byte, boundary string) {
		c := &Call{ContentType: "multipart/form-data; boundary=\"" + boundary + "\"", Body: body}
		models, named, err := p.Models(c)
		if err == nil && named != (len(models) > 0) {
			t.Errorf("%q: %q, named %v", body, models, named)
		}
	})
}

func FuzzFilterModels(f *testing.F) {
	f.Add([]byte(`{"data":[{"id":"a"},{"id":"b"}]}`))
	f.Add([]byte(`[{"name":"models/a"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := FilterModels(body, func(m string) bool { return m == "a" })
		if err == nil && !json.Valid(out) {
			t.Errorf("%q becomes %q", body, out)
		}
	})
}

// TestAModelThatIsNamedTwiceIsOne: Gemini's SDK names it in the path and in each
// request of a batch (@google/genai 2.32.0), of which there may be a hundred.
func TestAModelThatIsNamedTwiceIsOne(t *testing.T) {
	t.Parallel()
	one := `{"model":"models/e-1","content":{"parts":[{"text":"hi"}]},"taskType":"RETRIEVAL_QUERY"}`
	batch := `{"requests":[` + strings.Repeat(one+",", 99) + one + `]}`
	for _, test := range []struct {
		preset, path, body string
		models             int
	}{
		{"gemini", "/v1beta/models/e-1:embedContent", one, 1},
		{"gemini", "/v1beta/models/e-1:batchEmbedContents", batch, 1},
		{"gemini", "/v1beta/models/e-1:batchEmbedContents", strings.Replace(batch, "e-1", "e-2", 1), 2},
		{"gemini", "/v1beta/models/e-2:embedContent", one, 2},
		{"gemini", "/v1beta/models/e-1:generateContent", `{"model":"models/e-1","contents":[]}`, 1},
		{"openrouter", "/api/v1/chat/completions", `{"model":"m","models":["m","m"],"messages":[]}`, 1},
		{"openrouter", "/api/v1/chat/completions", `{"model":"m","models":["m","n"],"messages":[]}`, 2},
	} {
		p := preset(t, test.preset)
		c := &Call{Method: "POST", Path: test.path, ContentType: "application/json", Body: []byte(test.body)}
		models, named, err := p.Models(c)
		if err != nil || !named || len(models) != test.models {
			t.Errorf("%s %.80s: %v, %v", test.path, test.body, models, err)
		}
		if _, err := p.Estimate(c); (err == nil) != (test.models == 1) || err != nil && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s %.80s: %v, and it names %d", test.path, test.body, err, test.models)
		}
	}
}
