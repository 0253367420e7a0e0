package till

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/till-proxy/till/upstream"
)

// reportedAnswer is an answer as an upstream gave it, and the request.
type reportedAnswer struct {
	source string // the public report or the vendor's page that describes it
	name   string
	preset string
	path   string // "": /v1/chat/completions
	model  string // "": gpt-6-sol
	asks   string // further members of the request
	stream bool
	answer string
	left   bool   // the client went away after what there is of it
	host   string // that answers

	multiply int64 // the operator's factor; 0: none

	in, out int64 // tokens; held: as many as were held
	nano    int64 // sum: what they cost at most, or at the price where the input is known
}

const (
	held    = -1
	sum     = -1
	heldIn  = 1000
	heldOut = 100
)

func (a *reportedAnswer) use(t *testing.T) (*usage, *upstream.Preset) {
	t.Helper()
	preset, ok := upstream.Lookup(a.preset)
	if !ok {
		t.Fatalf("no preset %q", a.preset)
	}
	if a.multiply > 0 {
		var err error
		if preset, err = preset.With(upstream.Options{Multiply: a.multiply}); err != nil {
			t.Fatal(err)
		}
	}
	path, model := a.path, a.model
	if path == "" {
		path = "/v1/chat/completions"
	}
	if model == "" {
		model = "gpt-6-sol"
	}
	body := `{"model":"` + model + `"` + a.asks
	if preset.Dialect == upstream.Gemini {
		body = `{"contents":[]`
	}
	if a.stream && preset.Dialect != upstream.Gemini {
		body += `,"stream":true`
	}
	e, err := preset.Estimate(&upstream.Call{Method: "POST", Path: path, ContentType: "application/json", Body: []byte(body + `}`)})
	if err != nil {
		t.Fatalf("%s: %v", a.name, err)
	}
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	u := &usage{estimate: e, prices: upstream.BuiltInPrices(), provider: a.preset, began: now, now: func() time.Time { return now },
		input: heldIn, natural: heldOut, output: -1}
	if e.Stated == 0 {
		u.natural = 0
	}
	u.price, u.priced = u.prices.Find(a.preset, model, now)
	return u, preset
}

// reads lets a client read the answer in pieces, and returns what it got.
func (a *reportedAnswer) reads(t *testing.T, u *usage, preset *upstream.Preset, header http.Header, n int) string {
	t.Helper()
	return a.answers(t, 200, u, preset, header, n)
}

// answers is reads of an answer with a status.
func (a *reportedAnswer) answers(t *testing.T, status int, u *usage, preset *upstream.Preset, header http.Header, n int) string {
	t.Helper()
	answer := io.Reader(strings.NewReader(a.answer))
	if a.left {
		answer = io.MultiReader(answer, iotest.ErrReader(io.ErrUnexpectedEOF))
	}
	res := &http.Response{
		StatusCode: status, Header: header, Body: io.NopCloser(answer), ContentLength: -1,
		Request: &http.Request{URL: &url.URL{Host: a.host}},
	}
	u.meterAnswer(res, preset, false)
	var got bytes.Buffer
	piece := make([]byte, n)
	for {
		k, err := res.Body.Read(piece)
		got.Write(piece[:k])
		if err != nil {
			return got.String()
		}
	}
}

func data(events ...string) string {
	return "data: " + strings.Join(events, "\n\ndata: ") + "\n\n"
}

// TestAnswersOfTheWorldAreChargedWhatTheyUsed covers what public reports and vendors'
// pages describe, with the correct figures. gpt-6-sol costs 2 dollars a million, cached
// 0.2, written 2.5, and 10 for output.
func TestAnswersOfTheWorldAreChargedWhatTheyUsed(t *testing.T) {
	t.Parallel()
	const (
		text     = `{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Some words of an answer."},"finish_reason":null}],"usage":null}`
		usage    = `{"id":"x","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}`
		right    = 10*2000 + 5*10000
		start    = `{"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}`
		estimate = `{"type":"message_start","message":{"usage":{"input_tokens":12,"cache_creation_input_tokens":0,"output_tokens":0}}}`
		delta    = `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Some words."}}`
		end      = `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}`
		claude   = 10*2000 + 5*10000 // claude-sonnet-5-5 costs the same
	)
	chat := func(usage string) string {
		return `{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Some words of an answer."},"finish_reason":"stop"}],"usage":` + usage + `}`
	}
	message := func(usage string) string {
		return `{"type":"message","content":[{"type":"text","text":"Some words."}],"usage":` + usage + `}`
	}
	failed := func(usage string) string {
		return `{"error":{"message":"The server had an error"},"usage":` + usage + `}`
	}
	withoutText := func(usage string) string {
		return `{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"content_filter"}],"usage":` + usage + `}`
	}
	anthropic := reportedAnswer{preset: "anthropic", path: "/v1/messages", model: "claude-sonnet-5-5", asks: `,"max_tokens":100`}
	hour := anthropic
	hour.asks += `,"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]`
	as := func(base reportedAnswer, source, name string, stream bool, answer string, in, out, nano int64) reportedAnswer {
		base.source, base.name, base.stream, base.answer = source, name, stream, answer
		base.in, base.out, base.nano = in, out, nano
		return base
	}
	openai := reportedAnswer{preset: "openai"}
	openrouter := reportedAnswer{preset: "openrouter", path: "/api/v1/chat/completions", model: "openai/gpt-5-mini"}
	ollama := reportedAnswer{preset: "ollama", path: "/api/chat", model: "llama3.2", asks: `,"messages":[{"role":"user","content":"hi"}]`}
	cohere := reportedAnswer{preset: "cohere", path: "/v1/chat", model: "command-a-03-2025"}
	embed := reportedAnswer{preset: "openai", path: "/v1/embeddings", model: "text-embedding-3-small", asks: `,"input":"hello"`}
	gemini := reportedAnswer{preset: "gemini", path: "/v1beta/models/gemini-2.5-flash:streamGenerateContent", model: "gemini-2.5-flash"}
	left := func(a reportedAnswer) reportedAnswer { a.left = true; return a }

	for _, test := range []reportedAnswer{
		// What cannot be true.
		as(openai, "stella#2520, sub2api#6906", "nothing was used, and text came", true, data(text, `{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}`, "[DONE]"), held, held, sum),
		as(openai, "sub2api#6906", "nothing was used, and text came, in one", false, chat(`{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`), held, held, sum),
		as(openai, "OmniRoute#4615", "a prompt of nothing", false, chat(`{"prompt_tokens":0,"completion_tokens":10}`), held, 10, sum),
		as(openai, "auto_ai_router#142", "an answer of nothing", false, chat(`{"prompt_tokens":10,"completion_tokens":0,"total_tokens":10}`), 10, held, sum),
		as(openai, "auto_ai_router#142", "null, and the total is the prompt", false, chat(`{"prompt_tokens":10,"completion_tokens":null,"total_tokens":10}`), 10, held, sum),
		as(openai, "auto_ai_router#142", "null, and the total says it", false, chat(`{"prompt_tokens":10,"completion_tokens":null,"total_tokens":15}`), 10, 5, right),
		as(openai, "auto_ai_router#142", "one token for a long text", false, strings.Replace(chat(`{"prompt_tokens":10,"completion_tokens":1}`), "Some words", strings.Repeat("Some words", 100), 1), 10, held, sum),
		as(openai, "openai vocabularies", "one token of 128 spaces", false, strings.Replace(chat(`{"prompt_tokens":10,"completion_tokens":1}`), "Some words of an answer.", strings.Repeat(" ", 128), 1), 10, 1, 30_000),
		as(openai, "vercel/ai#11487", "reasoning beside the output, and no total", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":50}}`), 10, 55, 10*2000+55*10_000),
		as(openai, "Kilo-Org/kilocode#9168, anomalyco/opencode#26073", "more reasoning than output, and the total agrees with the output", false, chat(`{"prompt_tokens":10,"completion_tokens":50,"total_tokens":60,"completion_tokens_details":{"reasoning_tokens":60}}`), 10, 60, 10*2000+60*10_000),
		as(openai, "vercel/ai#18614", "more reasoning than output, and the total agrees with the reasoning", false, chat(`{"prompt_tokens":10,"completion_tokens":60,"total_tokens":71,"completion_tokens_details":{"reasoning_tokens":61}}`), 10, 61, 10*2000+61*10_000),
		as(openai, "SGLang's UsageInfo", "reasoning within the output", false, chat(`{"prompt_tokens":10,"completion_tokens":50,"total_tokens":60,"reasoning_tokens":50}`), 10, 50, 10*2000+50*10_000),
		as(openai, "vercel/ai#11487", "reasoning in an output of nothing", false, withoutText(`{"prompt_tokens":10,"completion_tokens":0,"completion_tokens_details":{"reasoning_tokens":50}}`), held, held, sum),
		as(openai, "vercel/ai#11487", "reasoning in an output of nothing, after a report that says less", true, data(text, usage, `{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":0,"completion_tokens_details":{"reasoning_tokens":50}}}`, "[DONE]"), held, held, sum),
		as(openai, "xAI's consumption page", "more reasoning than output, and a larger total says how much both are", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":65,"completion_tokens_details":{"reasoning_tokens":50}}`), 10, 55, 10*2000+55*10_000),
		as(openai, "a total that has no room for the reasoning", "beside some output", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":25,"completion_tokens_details":{"reasoning_tokens":50}}`), held, held, sum),
		as(openai, "a total that has no room for the reasoning", "beside an output of nothing", false, withoutText(`{"prompt_tokens":10,"completion_tokens":0,"total_tokens":11,"completion_tokens_details":{"reasoning_tokens":50}}`), held, held, sum),
		as(openai, "xAI's consumption page", "an output of nothing, and a total with the reasoning", false, withoutText(`{"prompt_tokens":10,"completion_tokens":0,"total_tokens":60,"completion_tokens_details":{"reasoning_tokens":50}}`), 10, 50, 10*2000+50*10_000),
		as(openai, "content filters", "no text and no output", false, withoutText(`{"prompt_tokens":10,"completion_tokens":0,"total_tokens":10}`), 10, 0, 20_000),
		as(openai, "platform.openai.com/docs/api-reference/chat", "a call is content", false, `{"choices":[{"message":{"content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}}],"usage":{"prompt_tokens":10,"completion_tokens":0}}`, 10, held, sum),
		as(gemini, "ai.google.dev/api/generate-content", "a call is content, as an object", false, `{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"a":1}}}]}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":0,"totalTokenCount":10}}`, 10, held, sum),
		as(openai, "openrouter.ai/docs/use-cases/reasoning-tokens", "thoughts are content", true, data(`{"choices":[{"delta":{"content":"","reasoning":"Hm."}}]}`, `{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":0}}`), 10, held, sum),
		as(anthropic, "auto_ai_router#142", "the beginning says nothing, and nobody mends it", true, data(`{"type":"message_start","message":{"usage":{"input_tokens":0,"output_tokens":0}}}`, delta, end, `{"type":"message_stop"}`), held, 5, sum),
		as(anthropic, "GLM, Kimi", "the beginning says nothing, and the end says all", true, data(`{"type":"message_start","message":{"usage":{"input_tokens":0,"output_tokens":0}}}`, delta, `{"type":"message_delta","usage":{"input_tokens":10,"output_tokens":5}}`), 10, 5, claude),
		as(anthropic, "ai-dynamo/dynamo stream_converter.rs", "the beginning estimates more than the end says", true, data(estimate, delta, `{"type":"message_delta","usage":{"input_tokens":10,"cache_creation_input_tokens":0,"output_tokens":5}}`, `{"type":"message_stop"}`), 12, 5, 12*2000+5*10_000),
		left(as(anthropic, "ai-dynamo/dynamo stream_converter.rs", "the beginning estimates, and the client leaves", true, data(estimate, delta), held, held, sum)),
		as(anthropic, "ai-dynamo/dynamo stream_converter.rs", "the beginning estimates, and the end says nothing of the input", true, data(estimate, delta, end, `{"type":"message_stop"}`), held, 5, sum),
		as(anthropic, "ai-dynamo/dynamo stream_converter.rs", "the beginning estimates, and the end says an input of 0", true, data(estimate, delta, `{"type":"message_delta","usage":{"input_tokens":0,"output_tokens":5}}`, `{"type":"message_stop"}`), held, 5, sum),
		as(anthropic, "ai-dynamo/dynamo stream_converter.rs", "the beginning estimates less than the end says", true, data(estimate, delta, `{"type":"message_delta","usage":{"input_tokens":20,"output_tokens":5}}`, `{"type":"message_stop"}`), 20, 5, 20*2000+5*10_000),
		left(as(anthropic, "ai-dynamo/dynamo stream_converter.rs", "the beginning estimates, the next report says the same, and the client leaves", true, data(estimate, delta, `{"type":"message_delta","usage":{"input_tokens":12,"output_tokens":1}}`, delta), 12, held, sum)),
		as(anthropic, "envoyproxy/ai-gateway#1631", "the end says nothing of the input", true, data(start, delta, `{"type":"message_delta","usage":{"input_tokens":0,"output_tokens":5}}`, `{"type":"message_stop"}`), 10, 5, claude),
		as(anthropic, "vllm#40912", "the end says how much of the beginning's was cached", true, data(`{"type":"message_start","message":{"usage":{"input_tokens":1000,"output_tokens":0}}}`, delta, `{"type":"message_delta","usage":{"input_tokens":100,"cache_read_input_tokens":900,"cache_creation_input_tokens":0,"output_tokens":5}}`, `{"type":"message_stop"}`), 1000, 5, 100*2000+900*100+5*10_000),
		as(ollama, "ollama#2068, ollama#3427", "a cached prompt is not counted", false, `{"model":"m","message":{"role":"assistant","content":"Some words."},"done":true,"eval_count":5}`, held, 5, sum),

		as(openai, "a server that is broken", "a number that is none spoils the other", false, chat(`{"prompt_tokens":-5,"completion_tokens":5}`), held, held, sum),
		as(openai, "a server that is broken", "words", false, chat(`{"prompt_tokens":"some","completion_tokens":5}`), held, held, sum),
		as(openai, "a server that is broken", "beyond reason", false, chat(`{"prompt_tokens":10,"completion_tokens":99999999999999999999999}`), held, held, sum),
		as(openai, "a server that is broken", "a fraction", false, chat(`{"prompt_tokens":10.5,"completion_tokens":5}`), held, held, sum),

		// OpenRouter's cost. gpt-5-mini is 0.25 and 2.
		as(openrouter, "openrouter.ai/docs/use-cases/byok", "own key, and nobody says what it took", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":null}}`), 10, 5, 12_500),
		as(openrouter, "openrouter.ai/docs/use-cases/byok", "not the own key", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"cost":0.0001,"is_byok":false,"cost_details":{"upstream_inference_cost":0.000125}}`), 10, 5, 100_000),
		as(openrouter, "openrouter.ai/docs/use-cases/byok", "own key: a fee, and what the provider takes", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"cost":0.0002,"is_byok":true,"cost_details":{"upstream_inference_cost":0.0001}}`), 10, 5, 300_000),
		as(openrouter, "openrouter.ai/docs/use-cases/usage-accounting", "a cost of nothing", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"cost":0}`), 10, 5, 12_500),

		// Cached tokens.
		as(openai, "docs.litellm.ai/docs/completion/prompt_caching", "inside the prompt", false, chat(`{"prompt_tokens":180000,"completion_tokens":100,"total_tokens":180100,"cache_read_input_tokens":179000,"prompt_tokens_details":{"cached_tokens":179000}}`), 180_000, 100, 1000*2000+179_000*200+100*10_000),
		as(openai, "litellm#39505", "a zero beside them", false, chat(`{"prompt_tokens":500,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":240},"cache_creation_input_tokens":0}`), 500, 5, 260*2000+240*200+5*10_000),
		as(openai, "litellm#39505", "inside, as the total says", false, chat(`{"input_tokens":500,"output_tokens":5,"total_tokens":505,"cache_read_input_tokens":240}`), 500, 5, 260*2000+240*200+5*10_000),
		as(openai, "litellm#39505", "beside, as the total says", false, chat(`{"prompt_tokens":500,"completion_tokens":5,"total_tokens":745,"cache_read_input_tokens":240}`), 740, 5, 500*2000+240*200+5*10_000),
		as(openai, "new-api, which writes both names", "beside, and a prompt of nothing under another name", false, chat(`{"prompt_tokens":0,"completion_tokens":0,"input_tokens":500,"output_tokens":5,"cache_read_input_tokens":240}`), 740, 5, 500*2000+240*200+5*10000),
		as(openai, "docs.aws.amazon.com TokenUsage, opencode#38427", "beside, whatever the total", false, chat(`{"inputTokens":500,"outputTokens":5,"totalTokens":505,"cacheReadInputTokens":240}`), 740, 5, 500*2000+240*200+5*10000),
		as(openai, "litellm#39505", "more than the prompt, so beside", false, chat(`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"cache_read_input_tokens":240}`), 250, 5, 10*2000+240*200+5*10_000),
		as(anthropic, "docs.anthropic.com prompt-caching", "beside the input", false, `{"type":"message","content":[{"type":"text","text":"Some words."}],"usage":{"input_tokens":500,"cache_creation_input_tokens":0,"cache_read_input_tokens":240,"output_tokens":5}}`, 740, 5, 500*2000+240*100+5*10_000),
		as(anthropic, "docs.anthropic.com prompt-caching", "all of it cached", false, message(`{"input_tokens":0,"cache_read_input_tokens":20000,"output_tokens":5}`), 20_000, 5, 20_000*100+5*10_000),
		as(anthropic, "OmniRoute#4615", "one cached token, and an input of nothing", false, message(`{"input_tokens":0,"cache_read_input_tokens":1,"output_tokens":5}`), held, 5, sum),
		as(openai, "OmniRoute#4615", "one cached token in Anthropic's name, and a prompt of nothing", false, chat(`{"prompt_tokens":0,"completion_tokens":5,"cache_read_input_tokens":1}`), held, 5, sum),
		as(anthropic, "anthropic-sdk-python Usage, whose sum may be null", "written, without the sum", false, message(`{"input_tokens":500,"cache_creation":{"ephemeral_5m_input_tokens":900,"ephemeral_1h_input_tokens":100},"output_tokens":5}`), 1500, 5, 500*2000+900*2500+100*4000+5*10_000),
		as(hour, "anthropic-sdk-java#353", "written, and the parts are 0", false, message(`{"input_tokens":500,"cache_creation_input_tokens":1000,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":5}`), 1500, 5, 500*2000+1000*4000+5*10_000),
		as(hour, "docs.anthropic.com prompt-caching", "written, for minutes though an hour was asked for as well", false, message(`{"input_tokens":500,"cache_creation_input_tokens":1000,"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":0},"output_tokens":5}`), 1500, 5, 500*2000+1000*2500+5*10_000),
		as(openai, "LiteLLM CacheCreationTokenDetails", "written, in LiteLLM's names", false, chat(`{"prompt_tokens":1000,"completion_tokens":5,"total_tokens":1005,"prompt_tokens_details":{"cached_tokens":0,"cache_creation_tokens":900,"cache_creation_token_details":{"ephemeral_5m_input_tokens":800,"ephemeral_1h_input_tokens":100}}}`), 1000, 5, 100*2000+800*2500+100*5000+5*10_000),

		// Iterations that the counts leave out.
		as(anthropic, "platform.claude.com/docs/en/build-with-claude/compaction-threshold", "a summary in between", false, message(`{"input_tokens":23,"output_tokens":10,"iterations":[{"type":"compaction","input_tokens":180,"output_tokens":35},{"type":"message","input_tokens":23,"output_tokens":10}]}`), 203, 45, 203*2000+45*10_000),
		as(anthropic, "ccusage/ccusage#1552", "an attempt that another model took over", true, data(start, delta, `{"type":"message_delta","usage":{"input_tokens":10,"cache_read_input_tokens":1000,"cache_creation_input_tokens":0,"output_tokens":60,"iterations":[{"type":"message","input_tokens":10,"cache_read_input_tokens":900,"cache_creation_input_tokens":100,"output_tokens":5},{"type":"fallback_message","input_tokens":10,"cache_read_input_tokens":1000,"cache_creation_input_tokens":0,"output_tokens":60}]}}`, `{"type":"message_stop"}`), 2020, 65, 20*2000+1900*100+100*2500+65*10_000),
		as(anthropic, "anthropic-sdk-typescript BetaUsage", "none", false, message(`{"input_tokens":10,"output_tokens":5,"iterations":[{"type":"message","input_tokens":10,"output_tokens":5}]}`), 10, 5, claude),
		as(anthropic, "a server that is broken", "one that is no number", false, message(`{"input_tokens":10,"output_tokens":5,"iterations":[{"type":"message","input_tokens":-10,"output_tokens":5}]}`), held, held, sum),
		as(openai, "litellm#40090, models.dev#5235", "written, in Alibaba's names", false, chat(`{"prompt_tokens":1000,"completion_tokens":5,"total_tokens":1005,"prompt_tokens_details":{"cached_tokens":0,"cache_creation_input_tokens":900,"cache_type":"ephemeral"}}`), 1000, 5, 100*2000+900*2500+5*10_000),
		as(openai, "QuantumNous/new-api#2744, Helicone/helicone#5652", "more than the prompt under OpenAI's name, so beside", false, chat(`{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":20000}}`), 20_003, 5, 3*2000+20_000*200+5*10_000),
		as(openai, "QuantumNous/new-api#2744, Helicone/helicone#5652", "the same in a stream, and in the total", true, data(text, `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":20008,"prompt_tokens_details":{"cached_tokens":20000}}}`, "[DONE]"), 20_003, 5, 3*2000+20_000*200+5*10_000),
		as(openai, "QuantumNous/new-api#2744", "the same beside zeros under Anthropic's names", false, chat(`{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8,"input_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"prompt_tokens_details":{"cached_tokens":20000}}`), 20_003, 5, 3*2000+20_000*200+5*10_000),
		as(openai, "QuantumNous/new-api#2744", "the same under the names of both", false, chat(`{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8,"cache_read_input_tokens":20000,"prompt_tokens_details":{"cached_tokens":20000}}`), 20_003, 5, 3*2000+20_000*200+5*10_000),
		as(openai, "QuantumNous/new-api, InputTokenDetails", "more written than the prompt, in new-api's name", false, chat(`{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":100,"cached_creation_tokens":20000}}`), 20_103, 5, 3*2000+100*200+20_000*2500+5*10_000),
		as(openai, "QuantumNous/new-api, InputTokenDetails", "written, in new-api's name", false, chat(`{"prompt_tokens":1000,"completion_tokens":5,"total_tokens":1005,"prompt_tokens_details":{"cached_tokens":0,"cached_creation_tokens":900}}`), 1000, 5, 100*2000+900*2500+5*10_000),
		as(reportedAnswer{preset: "openai", asks: `,"n":2`}, "sgl-project/sglang usage_processor", "that of each of two answers, added up, so the input is not known", false, chat(`{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110,"prompt_tokens_details":{"cached_tokens":196}}`), held, 10, 1000*2500+10*10_000),
		as(reportedAnswer{preset: "openai", asks: `,"n":2`}, "QuantumNous/new-api#2744", "more than the prompt where two answers were asked for, and one came", false, chat(`{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":20000}}`), held, 5, 1000*2500+5*10_000),
		as(reportedAnswer{preset: "openai"}, "ai.google.dev/api/generate-content", "more in a cache than the prompt under Gemini's names, beside what tools read", false, `{"candidates":[{"content":{"parts":[{"text":"Some words."}]}}],"usageMetadata":{"promptTokenCount":100,"toolUsePromptTokenCount":2000,"cachedContentTokenCount":900,"candidatesTokenCount":5,"totalTokenCount":2105}}`, 2100, 5, 1200*2000+900*200+5*10_000),
		as(reportedAnswer{preset: "openai"}, "symfony/ai#2343", "in Mistral's name", false, chat(`{"prompt_tokens":500,"completion_tokens":5,"num_cached_tokens":240}`), 500, 5, 260*2000+240*200+5*10_000),

		// Ends: the client hangs up there.
		left(as(anthropic, "recorded streams in public code, pi#5592", "padded", true, "event: message_start\n"+data(start, delta, end)+"event: message_stop\ndata: {\"type\":\"message_stop\"               }\n\n", 10, 5, claude)),
		left(as(openai, "opencodex#1188, freellmapi#1087", "without a space", true, data(text, usage)+"data:[DONE]\n\n", 10, 5, right)),
		left(as(openai, "opencodex#1188", "and something behind it", true, data(text, usage, "[DONE]")+": bye\n\n", 10, 5, right)),
		left(as(openai, "opencodex#1188", "without a line end", true, data(text, usage)+"data: [DONE]", 10, 5, right)),
		left(as(reportedAnswer{preset: "openai", path: "/v1/responses"}, "platform.openai.com/docs/api-reference/responses-streaming", "cancelled", true, "event: response.cancelled\n"+data(`{"type":"response.cancelled","response":{"status":"cancelled","usage":{"input_tokens":10,"output_tokens":5}}}`), 10, 5, right)),
		left(as(reportedAnswer{preset: "openai", path: "/v1/responses"}, "agentic-api#168", "the type comes last", true, data(`{"response":{"usage":{"input_tokens":10,"output_tokens":5}},"type":"response.completed"}`), 10, 5, right)),
		left(as(reportedAnswer{preset: "openai", path: "/v1/responses"}, "platform.openai.com/docs/api-reference/responses-streaming", "not the last", true, data(`{"type":"response.in_progress","response":{"usage":{"input_tokens":10,"output_tokens":5}}}`), held, held, sum)),
		left(as(openai, "opencodex#1188", "before the end", true, data(text, usage), held, held, sum)),

		// Errors in an answer that began normally.
		as(ollama, "ollama server/routes.go", "in words, in one", true, `{"error":"llama runner process has terminated"}`+"\n", 0, 0, 0),
		as(openrouter, "openrouter.ai/docs/errors, Fastllm-proxy#28", "in one", false, `{"error":{"code":502,"message":"Provider returned error"},"user_id":"u"}`, 0, 0, 0),
		as(openrouter, "openrouter.ai/docs/errors", "after text, in the stream", true, ": OPENROUTER PROCESSING\n\n"+data(text, `{"id":"x","error":{"code":502,"message":"gone"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}`, "[DONE]"), 0, 0, 0),
		left(as(openrouter, "openrouter.ai/docs/features/zero-completion-insurance", "after text, and the client hangs up", true, data(text, `{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}`), 0, 0, 0)),
		as(openrouter, "openrouter.ai/docs/features/zero-completion-insurance", "after text, and it says what it cost", true, data(text, `{"error":{"code":502},"choices":[]}`, `{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":0.001}}`, "[DONE]"), 10, 5, 1_000_000),
		as(openrouter, "openrouter.ai/docs/features/zero-completion-insurance", "after text, and it says what was used", true, data(text, `{"error":{"code":502},"choices":[]}`, `{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}`, "[DONE]"), 10, 5, 12_500),
		as(reportedAnswer{preset: "openrouter", path: "/api/v1/chat/completions", model: "openai/gpt-5-mini", asks: `,"n":2`}, "openrouter.ai/docs/features/zero-completion-insurance", "in one of two answers", true, data(text, `{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}`, "[DONE]"), held, held, sum),
		as(embed, "an empty one, as Go writes a field that is never left out", "in embeddings without usage", false, `{"error":"","data":[{"embedding":[0.1,0.2]}]}`, held, held, sum),
		as(openai, "an empty one, as Go writes a field that is never left out", "in an answer", false, strings.Replace(chat(`{"prompt_tokens":10,"completion_tokens":5}`), "{", `{"error":"",`, 1), 10, 5, right),
		as(openrouter, "openrouter.ai/docs/errors", "nothing was said", true, data(text, "[DONE]"), held, held, sum),
		as(openai, "CherryHQ/cherry-studio#11287", "MiniMax's, with zeros for its usage", false, `{"id":"x","choices":null,"usage":{"total_tokens":0,"total_characters":0},"base_resp":{"status_code":1002,"status_msg":"rate limit"}}`, 0, 0, 0),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, in a stream", true, data(`{"choices":null,"base_resp":{"status_code":1008,"status_msg":"insufficient balance"}}`), 0, 0, 0),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, about what was written", false, `{"choices":null,"usage":{"total_tokens":0},"base_resp":{"status_code":1027,"status_msg":"output sensitive"}}`, held, held, sum),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, about what was asked", false, `{"choices":null,"usage":{"total_tokens":0},"base_resp":{"status_code":1026,"status_msg":"input sensitive"}}`, 0, 0, 0),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, about the key", false, `{"base_resp":{"status_code":2049,"status_msg":"invalid API key"}}`, 0, 0, 0),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, of an unknown kind", false, `{"choices":null,"usage":{"total_tokens":0},"base_resp":{"status_code":1000,"status_msg":"unknown error"}}`, held, held, sum),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, after a time", true, data(`{"choices":null,"base_resp":{"status_code":1001,"status_msg":"request timeout"}}`), held, held, sum),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, with a code that its page does not list", false, `{"error":{"message":"x"},"base_resp":{"status_code":"failed"}}`, held, held, sum),
		as(openai, "platform.minimax.io/docs/api-reference/errorcode", "MiniMax's, after text", true, data(text, `{"base_resp":{"status_code":1024,"status_msg":"internal error"}}`), held, held, sum),
		as(openai, "platform.minimax.io/docs/api-reference/text-chat", "none of MiniMax's", false, strings.Replace(chat(`{"prompt_tokens":10,"completion_tokens":5}`), "{", `{"base_resp":{"status_code":0,"status_msg":""},`, 1), 10, 5, right),
		as(openai, "an object that Go writes whole", "at once, with zeros for its usage", false, `{"error":{"message":"The server had an error"},"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}`, 0, 0, 0),
		as(openai, "an object that Go writes whole", "with a usage of null", false, `{"error":{"message":"The server had an error"},"usage":null}`, 0, 0, 0),
		as(openai, "vercel/ai#11487", "with reasoning in an output of nothing", false, failed(`{"prompt_tokens":0,"completion_tokens":0,"completion_tokens_details":{"reasoning_tokens":5000}}`), held, held, sum),
		as(openai, "vercel/ai#11487", "with reasoning in an output of nothing, before the error", false, `{"usage":{"prompt_tokens":0,"completion_tokens":0,"completion_tokens_details":{"reasoning_tokens":5000}},"error":{"message":"x"}}`, held, held, sum),
		as(anthropic, "OmniRoute#4615", "with cached tokens alone", false, failed(`{"input_tokens":0,"cache_read_input_tokens":200,"output_tokens":0}`), held, held, sum),
		as(openai, "a server that is broken", "with cached tokens and nothing else", false, failed(`{"cached_tokens":500}`), held, held, sum),
		as(anthropic, "a server that is broken", "with an iteration that is no number", false, failed(`{"input_tokens":0,"output_tokens":0,"iterations":[{"input_tokens":-1}]}`), held, held, sum),
		as(anthropic, "a server that is broken", "with an iteration that is no number, before the error", false, `{"usage":{"input_tokens":0,"output_tokens":0,"iterations":[{"input_tokens":-1}]},"error":{"message":"x"}}`, held, held, sum),
		as(openai, "a server that is broken", "with an iteration that is no number, in an event of its own", true, data(`{"usage":{"input_tokens":0,"output_tokens":0,"iterations":[{"input_tokens":-1}]}}`, `{"error":{"message":"x"}}`), held, held, sum),
		as(reportedAnswer{preset: "openai", asks: `,"n":2`}, "pi#2017", "after the use of one of several choices", true, data(`{"choices":[{"index":0,"usage":{"prompt_tokens":10,"completion_tokens":5}}]}`, `{"error":{"message":"x"}}`), held, held, sum),
		as(anthropic, "docs.anthropic.com errors", "overloaded at once", true, "event: error\n"+data(`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`), 0, 0, 0),
		as(anthropic, "docs.anthropic.com errors", "overloaded after a while", true, data(start, delta, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`), 10, held, sum),
		as(openai, "coder/aibridge", "at once", true, data(`{"error":{"message":"The server had an error","type":"server_error"}}`), 0, 0, 0),
		as(openai, "coder/aibridge", "after text", true, data(text, `{"error":{"message":"The server had an error","type":"server_error"}}`), held, held, sum),
		as(openai, "coder/aibridge", "after text, and it says what was used", true, data(text, usage, `{"error":{"message":"x"}}`), 10, 5, right),
		as(reportedAnswer{preset: "openai", path: "/v1/responses"}, "prism fixtures", "failed at once", true, data(`{"type":"response.created","response":{"error":null,"reasoning":{"effort":null},"text":{"format":{"type":"text"}},"usage":null}}`, `{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"},"usage":null}}`), 0, 0, 0),
		as(ollama, "ollama docs errors", "after words", true, "{\"message\":{\"content\":\"Some\"},\"done\":false}\n{\"error\":\"an error was encountered\"}\n", held, held, sum),
		as(openai, "what a client sent", "no error", false, `{"choices":[{"message":{"content":"Some words."}}],"metadata":{"error":{"x":1}},"error":null}`, held, held, sum),

		// Shapes.
		as(openai, "claude-code-router-next#45", "events of another type", true, data(text, usage, "[DONE]"), 10, 5, right),
		as(openai, "ollama#1728", "lines, though one text was asked for", false, `{"choices":[{"delta":{"content":"Some words."}}]}`+"\n"+usage+"\n", 10, 5, right),
		as(openai, "ollama#1728", "lines, of which the first says less", false, strings.Replace(usage, "5", "1", 1)+"\n"+usage+"\n", 10, 5, right),
		as(openai, "ollama#1728", "lines, of which the last is cut off", false, usage+"\n"+usage[:len(usage)-9], held, held, sum),
		as(openai, "litellm#28024", "with a point", false, chat(`{"prompt_tokens":10.0,"completion_tokens":5.0,"total_tokens":15.0}`), 10, 5, right),
		as(openai, "RFC 8259, section 7", "names written as escapes", false, strings.NewReplacer("usage", `us\u0061ge`, "prompt_tokens", `prompt\u005ftokens`).Replace(chat(`{"prompt_tokens":10,"completion_tokens":5}`)), 10, 5, right),
		as(openai, "litellm#28024", "with an exponent", false, chat(`{"prompt_tokens":1e1,"completion_tokens":0.5e1}`), 10, 5, right),
		as(openai, "strings", "as text", false, chat(`{"prompt_tokens":"10","completion_tokens":"5"}`), 10, 5, right),
		as(openai, "pi#2017", "in a choice (Moonshot)", true, data(text, `{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}]}`, "[DONE]"), 10, 5, right),
		as(reportedAnswer{preset: "openai", asks: `,"n":2`}, "pi#2017", "in one of several choices", false, `{"choices":[{"index":0,"message":{"content":"x"},"usage":{"prompt_tokens":10,"completion_tokens":5}},{"index":1,"message":{"content":"x"}}]}`, held, held, sum),
		as(embed, "embeddings", "a total alone", false, `{"object":"list","data":[{"object":"embedding","embedding":[0.1]}],"usage":{"total_tokens":4}}`, 4, 0, 80),
		as(embed, "openai-python#1490, which asks for base64 by default", "a total alone, and base64", false, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAEAAAEBA"}],"usage":{"total_tokens":4}}`, 4, 0, 80),
		as(embed, "openai-python#1490, which asks for base64 by default", "a prompt alone, and base64", false, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAEAAAEBA"}],"usage":{"prompt_tokens":4}}`, 4, 0, 80),
		as(openai, "platform.openai.com/docs/api-reference/chat", "a prompt alone, and what the client called an embedding", false, `{"metadata":{"embedding":"x"},"choices":[{"message":{"content":"Some words."}}],"usage":{"prompt_tokens":10}}`, held, held, sum),
		as(reportedAnswer{preset: "openai", path: "/v1/responses"}, "platform.openai.com/docs/api-reference/responses", "a prompt alone, and a tool's parameter of that name", false, `{"object":"response","tools":[{"type":"function","name":"f","parameters":{"properties":{"embedding":{"type":"string"}}}}],"output":[{"type":"message","content":[{"type":"output_text","text":"Some words."}]}],"usage":{"input_tokens":10}}`, held, held, sum),
		as(openai, "OmniRoute#4615", "a prompt of nothing, and one cached token", false, chat(`{"prompt_tokens":0,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}`), held, 5, sum),
		as(reportedAnswer{preset: "openai", asks: `,"n":2`}, "QuantumNous/new-api#2744", "a stream's first report without the cached tokens", true, data(text, `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}`, `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":20000}}}`, "[DONE]"), held, 5, 1000*2500+5*10_000),
		as(openai, "embeddings", "a total alone, of an answer in words", false, chat(`{"total_tokens":15}`), held, held, sum),
		as(openai, "html.spec.whatwg.org server-sent-events", "several lines of data", true, "data: {\"choices\":[],\ndata: \"usage\":\ndata: {\"prompt_tokens\":10,\ndata:\"completion_tokens\":5}}\n\ndata: [DONE]\n\n", 10, 5, right),
		as(openai, "html.spec.whatwg.org server-sent-events", "carriage returns", true, strings.ReplaceAll(data(text, usage, "[DONE]"), "\n", "\r"), 10, 5, right),
		as(openai, "html.spec.whatwg.org server-sent-events", "a byte order mark", true, "\xef\xbb\xbf"+data(usage, "[DONE]"), 10, 5, right),
		as(cohere, "docs.cohere.com/v1/reference/chat-stream", "Cohere's first version", true, "{\"is_finished\":false,\"event_type\":\"stream-start\"}\n{\"is_finished\":false,\"event_type\":\"text-generation\",\"text\":\"Some words.\"}\n{\"is_finished\":true,\"event_type\":\"stream-end\",\"response\":{\"text\":\"Some words.\",\"meta\":{\"billed_units\":{\"input_tokens\":10.0,\"output_tokens\":5.0}}},\"finish_reason\":\"COMPLETE\"}\n", 10, 5, 10*2500+5*10_000),
		as(cohere, "docs.cohere.com/v1/reference/chat-stream", "and as events", true, data(`{"event_type":"text-generation","text":"Some words."}`, `{"event_type":"stream-end","response":{"meta":{"billed_units":{"input_tokens":10,"output_tokens":5}}}}`), 10, 5, 10*2500+5*10_000),
		as(openai, "vLLM logprobs", "no number beside it", false, `{"choices":[{"message":{"content":"Some words."},"logprobs":{"content":[{"logprob":-Infinity},{"logprob":NaN}]}}],"usage":{"prompt_tokens":10,"completion_tokens":5}}`, 10, 5, right),
		// gemini-2.5-flash 0.3 and 2.5.
		as(gemini, "half a letter", "in the last event", true, data(`{"candidates":[{"content":{"parts":[{"text":"Some"}]}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1}}`, "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"w\xc3\"}]}}],\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":5}}"), 10, 5, 10*300+5*2500),
		as(gemini, "half an event", "the last, at the end of the stream", true, data(`{"candidates":[{"content":{"parts":[{"text":"Some"}]}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1}}`)+"data: {\"candidates\":[{\"content\":{\"parts\":[{\"te", 10, held, sum),
		as(ollama, "ollama docs generate", "160,000 ids behind it", false, `{"model":"m","response":"Some words.","done":true,"context":[`+strings.Repeat("123456, ", 160_000)+`1],"prompt_eval_count":10,"eval_count":5}`, 10, 5, 0),
		as(reportedAnswer{preset: "openai", path: "/v1/responses"}, "platform.openai.com/docs/api-reference/responses-streaming", "instructions echoed", true, data(`{"type":"response.completed","response":{"instructions":"`+strings.Repeat("Be good. ", 150_000)+`","output":[{"content":[{"type":"output_text","text":"Some words."}]}],"usage":{"input_tokens":10,"output_tokens":5}}}`), 10, 5, right),
		as(reportedAnswer{preset: "ollama", path: "/api/embed", model: "all-minilm", asks: `,"input":"x"`}, "ollama docs embed", "30 vectors of 4096", false, `{"model":"m","embeddings":[`+strings.TrimSuffix(strings.Repeat("["+strings.Repeat("0.0123456789,", 4095)+"1],", 30), ",")+`],"prompt_eval_count":240}`, 240, 0, 0),
	} {
		for _, n := range []int{1, 11, 1000, 32 << 10} {
			if n < 1000 && len(test.answer) > 1<<20 {
				continue
			}
			u, preset := test.use(t)
			test.reads(t, u, preset, http.Header{}, n)
			tokens, nano, _ := u.used(200)
			in, out, want := test.in, test.out, test.nano
			if out == held {
				out = u.natural * u.estimate.Answers
			}
			if in == held {
				in = heldIn
			}
			switch {
			case !u.priced:
				want = 0
			case want == sum && test.in == held:
				want = u.price.MaxCost(u.estimate, in, out)
			case want == sum:
				want = u.cost(upstream.Usage{Input: in, Output: out, Nanodollars: -1})
			}
			if tokens != in+out || nano != want {
				t.Errorf("%s: %s, by %d bytes: %d tokens, %d nano-dollars; want %d+%d, %d", test.source, test.name, n, tokens, nano, in, out, want)
			}
		}
	}
}

// TestAnAnswerFromOpenRoutersCacheCostsNothing: "All billable usage counters are reported
// as 0" (openrouter.ai/docs/guides/features/response-caching).
func TestAnAnswerFromOpenRoutersCacheCostsNothing(t *testing.T) {
	t.Parallel()
	const (
		none = `{"choices":[{"message":{"content":"Some words."}}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"cost":0}}`
		some = `{"choices":[{"message":{"content":"Some words."}}],"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":0.001}}`
	)
	for _, test := range []struct {
		name, preset, cache, answer string
		tokens, nano                int64
	}{
		{"from the cache", "openrouter", "HIT", none, 0, 0},
		{"from the cache, and it cost something", "openrouter", "HIT", some, 15, 1_000_000},
		{"not from the cache", "openrouter", "MISS", none, heldIn + heldOut, heldIn*250 + heldOut*2000},
		{"without a word about a cache", "openrouter", "", none, heldIn + heldOut, heldIn*250 + heldOut*2000},
		{"another vendor", "openai", "HIT", none, heldIn + heldOut, heldIn*250 + heldOut*2000},
	} {
		a := reportedAnswer{preset: test.preset, model: map[string]string{"openrouter": "openai/gpt-5-mini", "openai": "gpt-5-mini"}[test.preset], answer: test.answer}
		u, preset := a.use(t)
		header := http.Header{}
		if test.cache != "" {
			header.Set("X-OpenRouter-Cache-Status", test.cache)
		}
		a.answers(t, 200, u, preset, header, 1000)
		if tokens, nano, _ := u.used(200); tokens != test.tokens || nano != test.nano {
			t.Errorf("%s: %d tokens, %d nano-dollars; want %d, %d", test.name, tokens, nano, test.tokens, test.nano)
		}
	}
}

// TestAnAnswerThatIsPackedThoughNobodyAskedIsMeasured, and the event that the client
// did not ask for is removed from it as well.
func TestAnAnswerThatIsPackedThoughNobodyAskedIsMeasured(t *testing.T) {
	t.Parallel()
	const text = `{"choices":[{"delta":{"content":"Some words."}}]}`
	plain := data(text, `{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}`, "[DONE]")
	packed := string(encode(t, []byte(plain), "gzip"))
	for _, test := range []struct {
		encoding, answer, want string
		tokens                 int64
	}{
		{"gzip", packed, data(text, "[DONE]"), 15},
		{"br", packed, packed, heldIn + heldOut},
		{"", plain, data(text, "[DONE]"), 15},
		{"gzip", plain, "", heldIn + heldOut},  // agentgateway#1620; no client can read it
		{"", packed, packed, heldIn + heldOut}, // raptor#547
	} {
		encoding := test.encoding
		for _, n := range []int{1, 1000} {
			a := reportedAnswer{preset: "openai", name: encoding, stream: true, answer: test.answer}
			u, preset := a.use(t)
			header := http.Header{"Content-Encoding": {encoding}}
			if encoding == "" {
				header = http.Header{}
			}
			got := a.reads(t, u, preset, header, n)
			if tokens, _, _ := u.used(200); got != test.want || tokens != test.tokens {
				t.Errorf("%q, by %d bytes: %d tokens, and the client gets %q", encoding, n, tokens, got)
			}
			if encoding == "gzip" && len(header) > 0 {
				t.Errorf("its header says %v", header)
			}
		}
	}
	cut := reportedAnswer{preset: "openai", stream: true, answer: packed[:len(packed)-9]}
	u, preset := cut.use(t)
	cut.reads(t, u, preset, http.Header{"Content-Encoding": {"gzip"}}, 1000)
	if u.readToEnd {
		t.Error("what was cut off is taken for whole")
	}
}
