package upstream

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func counting(t *testing.T, vendor, path, query, body string) (*Counting, string) {
	t.Helper()
	p, ok := Lookup(vendor)
	if !ok {
		t.Fatal(vendor)
	}
	c := &Call{Method: "POST", Path: path, Query: query, Body: []byte(body)}
	e, err := p.Estimate(c)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	q := p.Counting(c, e)
	if q == nil {
		return nil, ""
	}
	b, err := io.ReadAll(q.Body)
	if err != nil || int64(len(b)) != q.Size {
		t.Errorf("%d bytes, said are %d, %v", len(b), q.Size, err)
	}
	return q, string(b)
}

// TestACountIsAskedForInTheVendorsOwnForm: the forms are those of the vendors'
// references, and the endpoints refuse unknown members.
func TestACountIsAskedForInTheVendorsOwnForm(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ vendor, path, query, body, asks, want string }{
		{"anthropic", "/v1/messages", "beta=true", `{"model":"claude-sonnet-5-5","max_tokens":10,"stream":true,"temperature":1,"system":"s","messages":[{"role":"user","content":"hi"}],"metadata":{"user_id":"u"},"tools":[{"name":"f","input_schema":{}}],"thinking":{"type":"enabled","budget_tokens":5},"tool_choice":{"type":"auto"}}`,
			"/v1/messages/count_tokens?beta=true", `{"model":"claude-sonnet-5-5","system":"s","messages":[{"role":"user","content":"hi"}],"tools":[{"name":"f","input_schema":{}}],"thinking":{"type":"enabled","budget_tokens":5},"tool_choice":{"type":"auto"}}`},
		{"openai", "/v1/responses", "", `{"model":"gpt-6-sol","stream":true,"max_output_tokens":10,"instructions":"i","input":[{"role":"user","content":"hi"}],"store":false,"include":null,"prompt_cache_key":"k","reasoning":{"effort":"low"},"text":{"verbosity":"low"},"tools":null}`,
			"/v1/responses/input_tokens?", `{"model":"gpt-6-sol","instructions":"i","input":[{"role":"user","content":"hi"}],"reasoning":{"effort":"low"},"text":{"verbosity":"low"}}`},
		{"gemini", "/v1beta/models/gemini-2.5-flash:streamGenerateContent", "alt=sse", `{"contents":[{"parts":[{"text":"hi"}]}],"systemInstruction":{"parts":[{"text":"s"}]},"safetySettings":[],"generationConfig":{"maxOutputTokens":5}}`,
			"/v1beta/models/gemini-2.5-flash:countTokens?", `{"generateContentRequest":{"model":"models/gemini-2.5-flash","contents":[{"parts":[{"text":"hi"}]}],"systemInstruction":{"parts":[{"text":"s"}]},"generationConfig":{"maxOutputTokens":5}}}`},
		{"anthropic", "/v1/messages", "", `{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERi0"}}]}]}`,
			"/v1/messages/count_tokens?", `{"model":"claude-sonnet-5-5","messages":[{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERi0"}}]}]}`},
		{"anthropic", "/v1/messages", "", `{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"https://example.com/a.pdf"}}]}]}`, "", ""},
		{"anthropic", "/v1/messages", "", `{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://example.com/a.png"}}]}]}`, "", ""},
		{"openai", "/v1/responses", "", `{"model":"gpt-6-sol","input":[{"role":"user","content":[{"type":"input_image","image_url":"https://example.com/a.png"}]}]}`, "", ""},
		{"openai", "/v1/responses", "", `{"model":"gpt-6-sol","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AAAA"}]}]}`,
			"/v1/responses/input_tokens?", `{"model":"gpt-6-sol","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AAAA"}]}]}`},
		{"openai", "/v1/chat/completions", "", `{"model":"gpt-6-sol","messages":[]}`, "", ""},
		{"openai", "/v1/responses", "", `{"model":"gpt-6-sol","input":[{"type":"reasoning","id":"r","summary":[]}]}`, "", ""},
		{"gemini", "/v1beta/models/gemini-embedding-001:embedContent", "", `{"content":{"parts":[{"text":"hi"}]}}`, "", ""},
		{"gemini", "/v1beta/openai/chat/completions", "", `{"model":"gemini-2.5-flash","messages":[]}`, "", ""},
		{"deepseek", "/anthropic/v1/messages", "", `{"model":"deepseek-flash","messages":[],"max_tokens":1}`, "", ""},
		{"openrouter", "/api/v1/responses", "", `{"model":"openai/gpt-5","input":"hi"}`, "", ""},
	} {
		q, body := counting(t, test.vendor, test.path, test.query, test.body)
		if (q == nil) != (test.want == "") {
			t.Errorf("%s %s: %+v", test.vendor, test.path, q)
			continue
		}
		if q != nil && (q.Path+"?"+q.Query != test.asks || body != test.want) {
			t.Errorf("%s %s asks %s?%s\n%s, want %s\n%s", test.vendor, test.path, q.Path, q.Query, body, test.asks, test.want)
		}
	}
}

func TestACountIsBelievedWhereItMakesSense(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("word ", 2000) // 10,000 bytes
	q, _ := counting(t, "anthropic", "/v1/messages", "", `{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[{"role":"user","content":"`+text+`"}]}`)
	for answer, want := range map[string]int64{
		`{"input_tokens":2000}`:                         2000 + 100 + 64,
		`{"context_management":{},"input_tokens":2010}`: 2010 + 101 + 64, // a part of a token counts as one
		`{"input_tokens":5}`:                            0, `{"input_tokens":156}`: 0, `{"input_tokens":158}`: 158 + 8 + 64,
		`{"input_tokens":0}`: -1, `{"input_tokens":-2000}`: -1, `{"input_tokens":2000.5}`: -1, `{"input_tokens":"2000"}`: -1,
		`{"input_tokens":99999999999999999999}`: -1, `{"totalTokens":2000}`: -1, `[2000]`: -1, ``: -1, `{`: -1, "\xff": -1,
	} {
		if n := q.Bound([]byte(answer)); n != want {
			t.Errorf("%s: %d, want %d", answer, n, want)
		}
	}
}

// FuzzCounting checks that the body is one JSON object of members that the endpoint
// accepts, whatever the request is.
func FuzzCounting(f *testing.F) {
	f.Add(`{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}`)
	f.Add(`{"max_tokens":10 , "model" : "claude-sonnet-5-5" ,"system":null, "messages":[],"stream":true}`)
	f.Add(`{"\u006dodel":"m","messages":[]}`)
	f.Fuzz(func(t *testing.T, body string) {
		p, _ := Lookup("anthropic")
		c := &Call{Method: "POST", Path: "/v1/messages", Body: []byte(body)}
		e, err := p.Estimate(c)
		if err != nil || e == nil {
			return
		}
		q := p.Counting(c, e)
		b, err := io.ReadAll(q.Body)
		if err != nil || int64(len(b)) != q.Size {
			t.Fatalf("%d bytes, said are %d, %v", len(b), q.Size, err)
		}
		var members, sent map[string]json.RawMessage
		if err := json.Unmarshal(b, &members); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if err := json.Unmarshal([]byte(body), &sent); err != nil {
			t.Fatal(err)
		}
		for name, value := range members {
			if !anthropicCounted[name] || string(sent[name]) != string(value) {
				t.Errorf("%s asks for %s: %s", body, name, value)
			}
		}
	})
}
