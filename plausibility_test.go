package till

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// reporting is how an upstream reports its use: a correct usage object, and the paths
// of the numbers in it that are charged or that others are derived from.
type reporting struct {
	preset, path, model string
	asks                string
	answer              string // %s: the report
	stream              string // the same as a stream; "" if there is none
	usage               string
	fields              []string
}

var reportings = map[string]reporting{
	"chat completions": {
		preset: "openai", answer: `{"choices":[{"message":{"content":"Some words."}}],"usage":%s}`,
		stream: data(`{"choices":[{"delta":{"content":"Some words."}}]}`, `{"choices":[],"usage":%s}`, "[DONE]"),
		usage:  `{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}`,
		fields: []string{"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details.cached_tokens", "prompt_tokens_details.audio_tokens",
			"completion_tokens_details.reasoning_tokens", "completion_tokens_details.audio_tokens", "prompt_tokens_details.cache_write_tokens", "cost"},
	},
	"responses": {
		preset: "openai", path: "/v1/responses", answer: `{"object":"response","output":[{"content":[{"type":"output_text","text":"Some words."}]}],"usage":%s}`,
		stream: data(`{"type":"response.output_text.delta","delta":"Some words."}`, `{"type":"response.completed","response":{"usage":%s}}`),
		usage:  `{"input_tokens":10,"output_tokens":5,"total_tokens":15}`,
		fields: []string{"input_tokens", "output_tokens", "total_tokens", "input_tokens_details.cached_tokens", "output_tokens_details.reasoning_tokens"},
	},
	"embeddings": {
		preset: "openai", path: "/v1/embeddings", model: "text-embedding-3-small", asks: `,"input":"hello"`,
		answer: `{"object":"list","data":[{"object":"embedding","embedding":[0.1]}],"usage":%s}`,
		usage:  `{"prompt_tokens":10,"total_tokens":10}`, fields: []string{"prompt_tokens", "total_tokens"},
	},
	"messages": {
		preset: "anthropic", path: "/v1/messages", model: "claude-sonnet-5-5", asks: `,"max_tokens":100`,
		answer: `{"type":"message","content":[{"type":"text","text":"Some words."}],"usage":%s}`,
		stream: data(`{"type":"message_start","message":{"usage":%[1]s}}`, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Some words."}}`,
			`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":%[1]s}`, `{"type":"message_stop"}`),
		usage:  `{"input_tokens":10,"output_tokens":5}`,
		fields: []string{"input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation.ephemeral_1h_input_tokens"},
	},
	"gemini": {
		preset: "gemini", path: "/v1beta/models/gemini-2.5-flash:streamGenerateContent", model: "gemini-2.5-flash",
		answer: `{"candidates":[{"content":{"parts":[{"text":"Some words."}]}}],"usageMetadata":%s}`,
		stream: data(`{"candidates":[{"content":{"parts":[{"text":"Some words."}]}}],"usageMetadata":%s}`),
		usage:  `{"promptTokenCount":10,"candidatesTokenCount":5,"totalTokenCount":15}`,
		fields: []string{"promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount", "cachedContentTokenCount"},
	},
	"cohere": {
		preset: "cohere", path: "/v1/chat", model: "command-a-03-2025", answer: `{"text":"Some words.","meta":{"billed_units":%s}}`,
		usage: `{"input_tokens":10,"output_tokens":5}`, fields: []string{"input_tokens", "output_tokens"},
	},
	"ollama": {
		preset: "ollama", path: "/api/chat", model: "llama3.2", asks: `,"messages":[{"role":"user","content":"hi"}]`,
		answer: `{"model":"m","message":{"role":"assistant","content":"Some words."},"done":true,"report":0,%s`,
		usage:  `{"prompt_eval_count":10,"eval_count":5}`, fields: []string{"prompt_eval_count", "eval_count"},
	},
	"openrouter": {
		preset: "openrouter", path: "/api/v1/chat/completions", model: "openai/gpt-5-mini", answer: `{"choices":[{"message":{"content":"Some words."}}],"usage":%s}`,
		usage:  `{"prompt_tokens":10,"completion_tokens":5,"cost":0.0001,"is_byok":true,"cost_details":{"upstream_inference_cost":0.0001}}`,
		fields: []string{"prompt_tokens", "completion_tokens", "cost", "cost_details.upstream_inference_cost"},
	},
	"xai": {
		preset: "xai", model: "grok-4.3", answer: `{"choices":[{"message":{"content":"Some words."}}],"usage":%s}`,
		usage:  `{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"cost_in_usd_ticks":100}`,
		fields: []string{"prompt_tokens", "completion_tokens", "total_tokens", "cost_in_usd_ticks"},
	},
}

// absurd is more than any request can use or cost.
var absurd = []string{"2147483648", "9007199254740991", "9007199254740993", "9223372036854775807", "1e15", "1e300", "999999.5", "-1", "-9223372036854775808"}

// with returns the report with another number at a path.
func (r *reporting) with(t *testing.T, path, number string) string {
	t.Helper()
	usage := make(map[string]any)
	if err := json.Unmarshal([]byte(r.usage), &usage); err != nil {
		t.Fatal(err)
	}
	in := usage
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		if in[name] == nil {
			in[name] = make(map[string]any)
		}
		in = in[name].(map[string]any)
	}
	in[names[len(names)-1]] = json.RawMessage(number)
	b, err := json.Marshal(usage)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestNoReportIsBookedThatCannotBeTrue: whatever number an upstream reports, no more
// tokens are charged than were held, and no more dollars than its model can cost. The
// same report with plausible numbers is charged as it says.
func TestNoReportIsBookedThatCannotBeTrue(t *testing.T) {
	t.Parallel()
	for name, r := range reportings {
		shapes := map[string]string{"plain": r.answer}
		if r.stream != "" {
			shapes["stream"] = r.stream
		}
		for shape, form := range shapes {
			charged := func(usage string) (tokens, nano int64, kinds record.TokenKinds, u *usage) {
				t.Helper()
				if strings.Contains(form, `"report":0,%s`) {
					usage = usage[1:] // its counts are in the answer itself
				}
				a := reportedAnswer{preset: r.preset, path: r.path, model: r.model, asks: r.asks, name: name, stream: shape == "stream", answer: strings.ReplaceAll(strings.ReplaceAll(form, "%[1]s", usage), "%s", usage)}
				u, preset := a.use(t)
				a.reads(t, u, preset, http.Header{}, 1000)
				tokens, nano, kinds = u.charge(200)
				return tokens, nano, kinds, u
			}
			if tokens, _, kinds, _ := charged(r.usage); tokens < 10 || tokens > 15 || kinds.Unmeasured > 0 {
				t.Fatalf("%s, %s: a report that is right is charged %d tokens, %+v", name, shape, tokens, kinds)
			}
			for _, field := range r.fields {
				for _, number := range absurd {
					tokens, nano, kinds, u := charged(r.with(t, field, number))
					most := u.bound(u.allowed())
					if tokens < 10 || tokens > most[record.Tokens] || nano < 0 || nano > max(most[record.Nanodollars], plausibleCost) || kinds.Sum() != tokens {
						t.Errorf("%s, %s, %s of %s: charged %d tokens and %d nano-dollars, %+v; held %d and %d",
							name, shape, field, number, tokens, nano, kinds, most[record.Tokens], most[record.Nanodollars])
					}
					if c, ok := u.contradicts(200); ok && c.Seen > 1<<30 {
						t.Errorf("%s, %s, %s of %s: it is learnt: %+v", name, shape, field, number, c)
					}
				}
			}
		}
	}
}

// TestAPlausibleReportIsAccepted even if it exceeds what was held: the key pays for it.
func TestAPlausibleReportIsAccepted(t *testing.T) {
	t.Parallel()
	now := time.Now()
	known, ok := upstream.BuiltInPrices().Find("openai", "gpt-6-sol", now)
	if !ok {
		t.Fatal("no price")
	}
	one := &upstream.Estimate{Answers: 1, Permille: 1000, Asked: 1000, Model: "gpt-6-sol"}
	for name, test := range map[string]struct {
		price        *upstream.Price
		estimate     upstream.Estimate
		widest       int64
		input        int64
		output, nano int64
		believed     bool
	}{
		"the whole window":               {known, *one, 100, known.Context, known.MaxOutput, -1, true},
		"a table that is older":          {known, *one, 100, 2 * known.Context, 2 * known.MaxOutput, -1, true},
		"more than two windows":          {known, *one, 100, 2*known.Context + 1, 1, -1, false},
		"more than two longest answers":  {known, *one, 100, 1, 2*known.MaxOutput + 1, -1, false},
		"what was held is wider":         {known, *one, 3 * known.Context, 5 * known.Context, 1, -1, true},
		"several answers":                {known, upstream.Estimate{Answers: 3, Permille: 1000, Model: "gpt-6-sol"}, 100, 1, 6 * known.MaxOutput, -1, true},
		"several rounds":                 {known, upstream.Estimate{Answers: 1, Rounds: 11, Permille: 1000, Model: "gpt-6-sol"}, 100, 20 * known.Context, 1, -1, true},
		"a model that nobody knows":      {nil, *one, 100, 2 * mostTokens, 2 * mostTokens, -1, true},
		"one token too many of it":       {nil, *one, 100, 2*mostTokens + 1, 1, -1, false},
		"a price without a window":       {&upstream.Price{Rates: upstream.Rates{Input: 1, Output: 1}}, *one, 100, 2 * mostTokens, 1, -1, true},
		"a window beyond all numbers":    {&upstream.Price{Context: math.MaxInt64, MaxOutput: math.MaxInt64}, *one, 100, 1 << 40, 1 << 40, -1, true},
		"what a search may cost":         {&upstream.Price{Context: 1000, MaxOutput: 1000}, *one, 100, 1, 1, plausibleCost, true},
		"more, of a model that is free":  {&upstream.Price{Context: 1000, MaxOutput: 1000}, *one, 100, 1, 1, plausibleCost + 1, false},
		"more, of a model that is dear":  {known, *one, 100, 1, 1, plausibleCost + 1, true},
		"more than any model could cost": {known, *one, 100, 1, 1, 1e15, false},
	} {
		u := &usage{estimate: &test.estimate, price: test.price, priced: test.price != nil, prices: upstream.BuiltInPrices(), input: 100, widest: test.widest, natural: 100, output: -1,
			began: now, meter: upstream.NewMeter(false)}
		got := u.plausible(upstream.Usage{Input: test.input, Output: test.output, CachedInput: -1, CacheWrite: -1, CacheWrite1h: -1, Nanodollars: test.nano})
		if got != test.believed {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestAnImplausibleReportIsLogged once an hour, with the way to fix it.
func TestAnImplausibleReportIsLogged(t *testing.T) {
	t.Parallel()
	log := new(bytes.Buffer)
	c, _ := newLearnt(t, t.TempDir())
	mine := localTarget(t, c, Upstream{})
	mine.advice = newAdvice(slog.New(slog.NewTextHandler(log, nil)))
	for range 3 {
		a := reportedAnswer{preset: "openai", answer: fmt.Sprintf(`{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":10,"completion_tokens":%d}}`, int64(math.MaxInt64))}
		u, preset := a.use(t)
		a.reads(t, u, preset, http.Header{}, 1000)
		x := &exchange{key: new(record.Key), target: mine, usage: u}
		x.reportImplausible()
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "reported_output=9223372036854775807") || !strings.Contains(log.String(), "max_output_tokens") {
		t.Errorf("said %d times: %s", n, log)
	}
}
