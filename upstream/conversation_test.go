package upstream

import (
	"strings"
	"testing"
)

// TestABeginningHoldsWhereAllElseIsTheSame but for fields that change nothing of
// what is read.
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
		rest := func(path, body string) (talk, bool) {
			c := &Call{Method: "POST", Path: path, ContentType: "application/json", Body: []byte(body)}
			e, err := preset(t, "anthropic").Estimate(c)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			d := spareDigesters.Get().(*digester)
			defer spareDigesters.Put(d)
			return e.talk(d, testSecret, preset(t, "anthropic"), c, "a")
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
