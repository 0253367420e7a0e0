package upstream

import (
	"strings"
	"testing"
	"time"
)

// TestWhatIsKeptForTwelveHoursCostsMore: $5 a million at OpenAI, beside an input of $2 and
// cache writes of $2.50 (developers.openai.com/api/docs/models/gpt-6.2-sol). The answer
// says how much was kept for how long (openai-ruby, models/responses/response_usage.rb).
func TestWhatIsKeptForTwelveHoursCostsMore(t *testing.T) {
	t.Parallel()
	price := priced(t, "openai", "gpt-6-sol", pricedAt)
	const chat, responses = "/v1/chat/completions", "/v1/responses"
	for _, test := range []struct{ path, body string }{
		{chat, `"messages":[{"role":"user","content":"x"}],"prompt_cache_options":{"ttl":"TTL"}`},
		{chat, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"mode":"explicit","ttl":"TTL"}}]}]`},
		{chat, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"ttl":"TTL"}},{"type":"text","text":"x","prompt_cache_breakpoint":{"ttl":"30m"}}]}]`},
		{chat, `"messages":[],"tools":[{"type":"function","function":{"name":"f"},"prompt_cache_breakpoint":{"ttl":"TTL"}}]`},
		{responses, `"input":"x","prompt_cache_options":{"mode":"explicit","ttl":"TTL"}`},
		{responses, `"input":[{"role":"user","content":[{"type":"input_text","text":"x","prompt_cache_breakpoint":{"ttl":"TTL"}}]}]`},
		{responses, `"input":[{"type":"function_call_output","call_id":"c","output":[{"type":"input_text","text":"x","prompt_cache_breakpoint":{"ttl":"TTL"}}]}]`},
		{responses, `"input":[{"type":"additional_tools","tools":[{"type":"function","name":"f","prompt_cache_breakpoint":{"ttl":"TTL"}}]}]`},
	} {
		for ttl, rate := range map[string]int64{"30m": 2500, "12h": 5000, `1\u0032h`: 5000} { // nano-dollars a token
			body := `{"model":"gpt-6-sol",` + strings.ReplaceAll(test.body, "TTL", ttl) + `}`
			e, err := estimate(t, "openai", test.path, body)
			if err != nil {
				t.Errorf("%s: %v", body, err)
			} else if held := price.MaxCost(e, 1000, 0); held != 1000*rate {
				t.Errorf("%s: %d held for 1,000 tokens, want %d", body, held, 1000*rate)
			}
		}
	}
	for answer, want := range map[string]Usage{
		`{"usage":{"input_tokens":1000,"output_tokens":10,"input_tokens_details":{"cached_tokens":100,"cache_write_tokens":800,"cache_write_tokens_details":{"ttl_12h_tokens":500,"ttl_30m_tokens":300}}}}`:             {1000, 100, 800, 500, 10, -1},
		`{"usage":{"prompt_tokens":1000,"completion_tokens":10,"prompt_tokens_details":{"cache_write_tokens":300,"cache_write_tokens_details":{"ttl_12h_tokens":500,"ttl_30m_tokens":300}}}}`:                           {1000, -1, 800, 500, 10, -1},
		`{"usage":{"input_tokens":1000,"output_tokens":10,"input_tokens_details":{"cached_tokens":100,"cache_write_tokens":800,"cache_write_tokens_details":{"ttl_12h_tokens":0,"ttl_30m_tokens":800}}}}`:               {1000, 100, 800, 0, 10, -1},
		`{"usage":{"input_tokens":1000,"output_tokens":10,"input_tokens_details":{"cached_tokens":100,"cache_write_tokens":0,"cache_write_tokens_details":{"ttl_12h_tokens":9000000000000000,"ttl_30m_tokens":null}}}}`: {1000, 100, 9_000_000_000_000_000, 9_000_000_000_000_000, 10, -1},
	} {
		if got := metered(answer, false, 100); got != want {
			t.Errorf("%s: %+v, want %+v", answer, got, want)
		}
	}
	if got := price.Cost(Usage{1000, 100, 800, 500, 10, -1}, 1000); got != 100*2000+100*200+300*2500+500*5000+10*10_000 {
		t.Errorf("it costs %d nano-dollars", got)
	}
	for asked, want := range map[bool]int64{false: -1, true: 800} { // an answer that does not say it
		if got := (&Estimate{CachedHour: asked}).Reported(Usage{1000, 100, 800, -1, 10, -1}).CacheWrite1h; got != want {
			t.Errorf("asked for %v: %d tokens are kept for long", asked, got)
		}
	}
	if got := (&Estimate{CachedHour: true}).Reported(Usage{1000, 100, 800, 0, 10, -1}).CacheWrite1h; got != 0 {
		t.Errorf("an answer that says 0: %d tokens are kept for long", got)
	}
	for _, other := range []struct {
		p    Price
		want int64
	}{
		{Price{Provider: "openrouter", Model: "openai/gpt-6-sol", Rates: Rates{Input: 2_000_000, CacheWrite: 2_500_000}}, 5_000_000},
		{Price{Provider: "openrouter", Model: "anthropic/claude-opus-5.5", Rates: Rates{Input: 4_000_000, CacheWrite: 5_000_000}}, 8_000_000},
		{Price{Provider: "openai", Model: "gpt-new", Rates: Rates{Input: 3}}, 8}, // 7.5
		{Price{Provider: "openrouter", Model: "openai/gpt-5.5", Rates: Rates{Input: 4}}, 10},
		{Price{Provider: "openrouter", Model: "anthropic/claude-new", Rates: Rates{Input: 4}}, 8},
		{Price{Provider: "openrouter", Model: "x-ai/grok", Rates: Rates{Input: 4}}, 0},
	} {
		if got := other.p.rates(1000).CacheWrite1; got != other.want {
			t.Errorf("%s: %d picodollars for what is kept for long", other.p.Model, got)
		}
	}
}

// TestWhatIsPaidForACacheBesideTheInputIsHeld: OpenRouter takes "input token price +
// (cache storage price x (5 minutes / 60 minutes))" for what it writes to Google's caches,
// and lists the second alone (openrouter.ai/docs/features/prompt-caching).
func TestWhatIsPaidForACacheBesideTheInputIsHeld(t *testing.T) {
	t.Parallel()
	for model, want := range map[string]int64{"google/gemini-2.5-flash": 383_333, "google/gemini-2.5-pro": 1_625_000} {
		price := priced(t, "openrouter", model, pricedAt)
		e, err := estimate(t, "openrouter", "/api/v1/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}]}`)
		if err != nil {
			t.Fatal(err)
		}
		if held := price.MaxCost(e, 100_000, 0); held < want*100 {
			t.Errorf("%s: %d held for 100,000 tokens that are written to a cache", model, held)
		}
		u := Usage{100_000, 0, 100_000, -1, 0, -1}
		if cost := price.Cost(u, 1000); cost < want*100 {
			t.Errorf("%s: they cost %d", model, cost)
		}
	}
}

func TestAPriceLineMaySayWhatCacheWritesCost(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		provider, model           string
		cached, written           float64
		wantCached, wantW, wantW1 int64 // picodollars, at 4 and 20 dollars
	}{
		// litellm#40090: Alibaba bills writes at 125 percent, under names of its own.
		{"vllm", "qwen3", 0.4, 5, 400_000, 5_000_000, 8_000_000},
		{"openai", "mine", 0.4, 0, 400_000, 0, 10_000_000},
		{"openai", "gpt-6-sol", 0.4, 5, 400_000, 5_000_000, 10_000_000},
		{"anthropic", "claude-mine", 0.4, 6, 400_000, 6_000_000, 8_000_000},
		{"anthropic", "claude-mine", 0.4, 0, 400_000, 5_000_000, 8_000_000},
		{"anthropic", "claude-sonnet-5-5", 0.4, 4.5, 400_000, 4_500_000, 8_000_000},
	} {
		p, err := BuiltInPrices().WithPrice(test.provider, test.model, 4, 20, test.cached, test.written)
		if err != nil {
			t.Fatal(err)
		}
		price, _ := p.Find(test.provider, test.model, now)
		r := price.rates(1000)
		if r.CachedInput != test.wantCached || r.CacheWrite != test.wantW || r.CacheWrite1 != test.wantW1 {
			t.Errorf("%+v: %+v", test, r)
		}
	}
}
