package upstream

import (
	"strings"
	"testing"
)

// TestABeginningHoldsWhereAllElseIsTheSame, except for fields that change nothing
// that a model reads.
func TestABeginningHoldsWhereAllElseIsTheSame(t *testing.T) {
	t.Parallel()
	const messages = `"messages":[{"role":"user","content":"hi"}]`
	anthropic := func(fields string) string { return `{"model":"m","max_tokens":5,` + fields + messages + `}` }
	base := anthropic(`"system":"s",`)
	for _, test := range []struct {
		name, path, body string
		same, none       bool
	}{
		{name: "a longer answer", body: strings.Replace(base, `"max_tokens":5`, `"max_tokens":500,"stream":true,"metadata":{"user_id":"u"},"temperature":0`, 1), same: true},
		{name: "messages first", body: `{` + messages + `,"model":"m","max_tokens":5,"system":"s"}`, same: true},
		{name: "null", body: anthropic(`"system":"s","tools":null,`), same: true},
		{name: "another system prompt", body: anthropic(`"system":"S",`)},
		{name: "none", body: anthropic(``)},
		{name: "thoughts", body: anthropic(`"system":"s","thinking":{"type":"adaptive"},`)},
		{name: "a tool", body: anthropic(`"system":"s","tools":[{"name":"t","input_schema":{}}],`)},
		{name: "another model", body: strings.Replace(base, `"m"`, `"n"`, 1)},
		{name: "another path", path: "/v1/v2/messages", body: base},
		{name: "edits of thoughts", body: anthropic(`"system":"s","context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},`)},
		{name: "edits of tools", body: anthropic(`"system":"s","context_management":{"edits":[{"type":"clear\u005ftool_uses_20250919"}]},`), none: true},
		{name: "a picture by its address", body: strings.Replace(base, `"hi"`, `[{"type":"image","source":{"type":"url","url":"https://x/y"}}]`, 1), none: true},
		{name: "no list", body: `{"model":"m","max_tokens":5,"messages":"hi"}`, none: true},
	} {
		rest := func(path, body string) (conversation, bool) {
			c := &Call{Method: "POST", Path: path, ContentType: "application/json", Body: []byte(body)}
			e, err := preset(t, "anthropic").Estimate(c)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			d := spareDigesters.Get().(*digester)
			defer spareDigesters.Put(d)
			return e.conversation(d, testSecret, preset(t, "anthropic"), c, "a")
		}
		path := test.path
		if path == "" {
			path = "/v1/messages"
		}
		a, okA := rest("/v1/messages", base)
		b, okB := rest(path, test.body)
		if !okA || okB == test.none || okB && (a.rest == b.rest) != test.same {
			t.Errorf("%s: %v, %v, the same is %v", test.name, okA, okB, a.rest == b.rest)
		}
	}
}

// TestClaudeCodesRequestsGoOn: the header in their system prompt changes with every request
// (claude-code#24168), and so do the cache marks.
func TestClaudeCodesRequestsGoOn(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	body := func(nonce string, messages ...string) string {
		return `{"model":"m","max_tokens":32000,"system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1.0; cch=` + nonce + `;"},
			{"type":"text","text":"` + long + `","cache_control":{"type":"ephemeral","ttl":"1h"}}],
			"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"messages":[` + strings.Join(messages, ",") + `]}`
	}
	marked := `{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]}`
	r, _ := m.ask("k", "anthropic", "/v1/messages", body("a1b2c", marked))
	m.Learn(r, 2100, "m", true)
	r, e := m.ask("k", "anthropic", "/v1/messages", body("ffff0", `{"role":"user","content":[{"type":"text","text":"hi"}]}`, `{"role":"assistant","content":"yes"}`, marked))
	if r.Input < 2100 || r.Input > 2900 || e.Input < 10_000 {
		t.Errorf("%d of %d", r.Input, e.Input)
	}
	// What stands in its place counts.
	long, _ := m.ask("k", "anthropic", "/v1/messages", body(strings.Repeat("f", 300), marked))
	if short, _ := m.ask("k", "anthropic", "/v1/messages", body("a", marked)); long.Input < short.Input+299 {
		t.Errorf("a longer header: %d, a shorter: %d", long.Input, short.Input)
	}
}

func TestResponsesAndGeminiGoOn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ preset, path, before, turn, next, after string }{
		{"openai", "/v1/responses", `{"model":"m","instructions":"` + long + `","input":[`, `{"role":"user","content":"hi"}`,
			`,{"type":"function_call","name":"f","arguments":"{}","call_id":"c"},{"type":"function_call_output","call_id":"c","output":"x"}`, `]}`},
		{"gemini", "/v1beta/models/m:generateContent", `{"contents":[`, `{"role":"user","parts":[{"text":"` + long + `"}]}`,
			`,{"role":"model","parts":[{"text":"yes"}]},{"parts":[{"text":"more"}]}`, `],"generationConfig":{"maxOutputTokens":9}}`},
		{"openai", "/v1/chat/completions", `{"model":"m","messages":[`, `{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},{"type":"text","text":"` + long + `"}]}`,
			`,{"role":"assistant","content":"yes"},{"role":"user","content":"more"}`, `]}`},
		{"anthropic", "/v1/messages", `{"model":"m","max_tokens":5,"messages":[`, `{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"` + long + `"}},{"type":"text","text":"` + long + `"}]}`,
			`,{"role":"assistant","content":"yes"},{"role":"user","content":"more"}`, `]}`},
	} {
		m := newRemembering(t)
		r, _ := m.ask("k", test.preset, test.path, test.before+test.turn+test.after)
		m.Learn(r, 3000, "m", true)
		if r, e := m.ask("k", test.preset, test.path, test.before+test.turn+test.next+test.after); r.Input < 3000 || r.Input > 3400 || e.Input < 10_000 {
			t.Errorf("%s%s: %d of %d", test.preset, test.path, r.Input, e.Input)
		}
	}
	m := newRemembering(t)
	r, _ := m.claude("k", long)
	m.Learn(r, 2000, "m", true)
	r, _ = m.ask("k", "anthropic", "/v1/messages", `{"model":"m","max_tokens":5,"messages":[`+strings.Join(turns(long, "yes"), ",")+`,{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}]}]}`)
	if r.Input >= 0 {
		t.Errorf("a document that was never counted is bounded by %d", r.Input)
	}
}
