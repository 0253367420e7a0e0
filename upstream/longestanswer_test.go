package upstream

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// vendorRule is what a vendor refuses in a bound.
type vendorRule struct {
	// least is the shortest bound, at the Responses API and elsewhere.
	responses, least int64
	// shared says that prompt and bound together must fit into the window.
	shared bool
	source string
}

var vendorRules = map[string]vendorRule{
	"openai":     {16, 1, false, "the description of max_output_tokens in openai-openapi; a window's input is counted for itself since o1"},
	"anthropic":  {1, 1, false, "docs: budget_tokens of thinking is at least 1,024 and below max_tokens; a window that is full ends the answer"},
	"gemini":     {1, 1, false, "ai.google.dev: inputTokenLimit and outputTokenLimit stand beside each other"},
	"openrouter": {16, 1, true, "OpenHands#9937: refused when the bound is the window"},
	"mistral":    {1, 1, true, "openclaw#53006 and #53177: 422 when max_tokens reaches the window"},
	"groq":       {1, 1, true, "not evidenced, and held to the stricter rule"},
	"together":   {1, 1, true, "litellm#4934: inputs and max_new_tokens must be at most the window"},
	"fireworks":  {1, 1, false, "docs: context_length_exceeded_behavior shortens the bound unless told otherwise"},
	"deepseek":   {1, 1, true, "docs: input and output share the window"},
	"xai":        {1, 1, true, "not evidenced, and held to the stricter rule"},
	"cohere":     {1, 1, true, "docs: the window is that of both"},
}

// accepts checks a bound for a prompt of that many tokens.
func (r vendorRule) accepts(p *Price, responses bool, prompt, bound int64) error {
	least := r.least
	if responses {
		least = r.responses
	}
	switch {
	case bound < least:
		return fmt.Errorf("%d is below %d", bound, least)
	case p.MaxOutput > 0 && bound > p.MaxOutput:
		return fmt.Errorf("%d is above %d, the model's own", bound, p.MaxOutput)
	case r.shared && p.Context > 0 && prompt+bound > p.Context:
		return fmt.Errorf("%d behind a prompt of %d do not fit into %d", bound, prompt, p.Context)
	}
	return nil
}

// endpointsOf are the paths of a vendor's text, with a body of a prompt, and
// where a bound stands in it.
func endpointsOf(provider, model string) map[string][2]string {
	chat := `{"model":"` + model + `","messages":[{"role":"user","content":"%s"}]%s}`
	switch provider {
	case "openai":
		return map[string][2]string{"/v1/chat/completions": {chat, `,"max_completion_tokens":`}, "/v1/responses": {`{"model":"` + model + `","input":"%s"%s}`, `,"max_output_tokens":`}}
	case "anthropic":
		return map[string][2]string{"/v1/messages": {chat, `,"max_tokens":`}}
	case "gemini":
		return map[string][2]string{"/v1beta/models/" + model + ":generateContent": {`{"contents":[{"parts":[{"text":"%s"}]}]%s}`, `,"generationConfig":{"maxOutputTokens":`}}
	case "cohere":
		return map[string][2]string{"/v2/chat": {chat, `,"max_tokens":`}}
	}
	return map[string][2]string{"/v1/chat/completions": {chat, `,"max_tokens":`}}
}

// TestNoWrittenBoundIsRefused by the vendor, for any row of the table: with and
// without a bound from the client, for prompts of all lengths.
func TestNoWrittenBoundIsRefused(t *testing.T) {
	t.Parallel()
	for _, price := range BuiltInPrices().All() {
		name := price.Provider + "/" + price.Model
		rule, ok := vendorRules[price.Provider]
		if !ok || strings.Contains(price.Model, "embed") || strings.Contains(price.Model, "research") {
			if price.Provider != "perplexity" && !ok {
				t.Errorf("%s has no rule", name)
			}
			continue
		}
		p := preset(t, price.Provider)
		for path, body := range endpointsOf(price.Provider, price.Model) {
			for _, words := range []int{1, 20_000} {
				// A word and a space are one token and six bytes.
				prompt := int64(words) + p.ServerInput()/2
				if price.Context > 0 && prompt > price.Context*4/5 {
					continue
				}
				text := strings.Repeat("token ", words)
				c := &Call{Method: "POST", Path: path, Body: fmt.Appendf(nil, body[0], text, "")}
				e, err := p.Estimate(c)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				n, _ := e.Longest(price, e.Input)
				if err := rule.accepts(price, strings.HasSuffix(path, "/responses"), prompt, n); err != nil {
					t.Errorf("%s %s, a prompt of %d words: %v", name, path, words, err)
				}
				if price.Context > 50_000 && n < min(4000, price.MaxOutput) {
					t.Errorf("%s %s, a prompt of %d words: answers are cut to %d", name, path, words, n)
				}
				var sent map[string]any
				if err := json.Unmarshal(asSent(e, n), &sent); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			// What the client states is left to it and the vendor.
			closing := ""
			if price.Provider == "gemini" {
				closing = "}"
			}
			e, err := p.Estimate(&Call{Method: "POST", Path: path, Body: fmt.Appendf(nil, body[0], "hi", body[1]+"1000"+closing)})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if n, known := e.Longest(price, e.Input); n != 1000 || !known {
				t.Errorf("%s: stated 1,000, and %d is written", name, n)
			}
		}
		// Long prompts, whose bound is several times what they are.
		for _, share := range []int64{2, 3, 4, 5, 6, 7} {
			e := &Estimate{Stated: -1, shared: !p.Unshared, usual: usualOutput}
			prompt := price.Context * share / 8
			for _, times := range []int64{1, 2, 5, 8} {
				n, _ := e.Longest(price, prompt*times)
				if err := rule.accepts(price, false, prompt, n); err != nil {
					t.Errorf("%s, a prompt of %d tokens, held as %d: %v", name, prompt, prompt*times, err)
				}
			}
		}
	}
}

// TestAnAnswersBoundWhereLittleIsKnown: a model without a row, and incomplete rows.
func TestAnAnswersBoundWhereLittleIsKnown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		price *Price
		input int64
		want  int64
		known bool
	}{
		{nil, 1000, 16_384, false},
		{&Price{}, 1000, 16_384, false},
		{&Price{Context: 8192}, 1200, 6992, true}, // as an operator's row says it
		{&Price{Context: 8192}, 50_000, 1024, true},
		{&Price{Context: 1_000_000}, 1200, 16_384, true},
		{&Price{MaxOutput: 4000}, 50_000, 4000, true},
		{&Price{Context: 262_144, MaxOutput: 262_144}, 1500, 260_644, true},
		{&Price{Context: 262_144, MaxOutput: 262_144}, 400_000, 16_384, true},
	} {
		e, err := estimate(t, "together", "/v1/chat/completions", `{"model":"m","messages":[]}`)
		if err != nil {
			t.Fatal(err)
		}
		if n, known := e.Longest(test.price, test.input); n != test.want || known != test.known {
			t.Errorf("%+v, an input of %d: %d, %v", test.price, test.input, n, known)
		}
	}
}

// TestOllamaIsHeldToItsContext as documented; loading a model uses nothing.
func TestOllamaIsHeldToItsContext(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path, body string
		longest    int64 // -1: it uses none
	}{
		{"/api/chat", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`, ollamaContext},
		{"/api/generate", `{"model":"m","prompt":"hi"}`, ollamaContext},
		{"/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`, ollamaContext},
		{"/api/chat", `{"model":"m","messages":[{"role":"user","content":"hi"}],"options":{"num_ctx":4096}}`, 4096},
		{"/api/generate", `{"model":"m","prompt":"hi","options":{"num_ctx":131072,"num_predict":-1}}`, 131072},
		{"/api/generate", `{"model":"m","prompt":"hi","options":{"num_ctx":131072,"num_predict":200}}`, 200},
		{"/api/generate", `{"model":"m","prompt":"hi","options":{"num_ctx":null}}`, ollamaContext},
		{"/api/generate", `{"model":"m"}`, -1},
		{"/api/generate", `{"model":"m","prompt":"","stream":false,"keep_alive":0}`, -1},
		{"/api/generate", `{"model":"m","prompt":null,"keep_alive":"10m","options":{"num_ctx":4096}}`, -1},
		{"/api/chat", `{"model":"m"}`, -1},
		{"/api/chat", `{"model":"m","messages":[ ],"keep_alive":0}`, -1},
		{"/api/generate", `{"model":"m","prompt":" "}`, ollamaContext},
		{"/api/generate", `{"model":"m","prompt":"","images":["AAAA"]}`, ollamaContext},
		{"/api/generate", `{"model":"m","prompt":"","suffix":"x"}`, ollamaContext},
		{"/api/generate", `{"model":"m","messages":[],"system":"x"}`, ollamaContext},
	} {
		e, err := estimate(t, "ollama", test.path, test.body)
		if err != nil {
			t.Errorf("%s: %v", test.body, err)
			continue
		}
		n := int64(-1)
		if e != nil {
			n, _ = e.Longest(nil, e.Input)
		}
		if n != test.longest {
			t.Errorf("%s %s: %d, want %d", test.path, test.body, n, test.longest)
		}
	}
	// What its own client asks before the first prompt costs nothing.
	for _, line := range []string{"HEAD /", "POST /api/show", "GET /api/tags", "GET /api/version", "GET /api/ps"} {
		method, path, _ := strings.Cut(line, " ")
		p := preset(t, "ollama")
		if !p.IsFree(method, p.Canonical(path)) {
			t.Errorf("%s is not free", line)
		}
	}
}
