package upstream

import (
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var today = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// priced is what the built-in table says of a model.
func priced(t interface{ Fatal(...any) }, provider, model string, at time.Time) *Price {
	price, ok := BuiltInPrices().Find(provider, model, at)
	if !ok {
		t.Fatal(provider, model, "has no price")
	}
	return price
}

func TestTheBuiltInTableIsWhole(t *testing.T) {
	t.Parallel()
	all := BuiltInPrices().All()
	providers := make(map[string]bool)
	for _, p := range all {
		providers[p.Provider] = true
		if _, ok := Lookup(p.Provider); !ok {
			t.Errorf("%s/%s: there is no such preset", p.Provider, p.Model)
		}
		if p.AsOf == "" || p.Source == "" || p.Confidence == "" {
			t.Errorf("%s/%s has no date, source or confidence", p.Provider, p.Model)
		}
		if p.Input == 0 && p.Output == 0 || p.CachedInput > p.Input {
			t.Errorf("%s/%s: odd rates %+v", p.Provider, p.Model, p.Rates)
		}
	}
	if len(all) < 200 || len(providers) != 12 || BuiltInPrices().AsOf == "" {
		t.Errorf("%d models of %d providers, as of %q", len(all), len(providers), BuiltInPrices().AsOf)
	}
}

func TestModelsAreFoundByNameOrSnapshotNeverByABeginning(t *testing.T) {
	t.Parallel()
	p := BuiltInPrices()
	for model, want := range map[string]string{
		"gpt-5": "gpt-5", "gpt-5-2025-08-07": "gpt-5", "gpt-5-pro": "gpt-5-pro", "gpt-5-mini": "gpt-5-mini",
		"gpt-5-turbo-max": "", "gpt-5-": "", "GPT-5": "", "gpt-": "", "": "",
	} {
		price, ok := p.Find("openai", model, today)
		if got := ""; ok {
			if got = price.Model; got != want {
				t.Errorf("%q is priced as %q, want %q", model, got, want)
			}
		} else if want != "" {
			t.Errorf("%q has no price", model)
		}
	}
	if _, ok := p.Find("anthropic", "gpt-5", today); ok {
		t.Error("another provider's model has a price")
	}
}

func TestAnOperatorsPricesAddAndReplace(t *testing.T) {
	t.Parallel()
	p, err := BuiltInPrices().With(strings.NewReader(`{"schema":"till.prices/1","models":[
		{"provider":"openai","id":"gpt-5","input":7,"output":9,"cached_input":1},
		{"provider":"openai","id":"my-model","alias_regex":"^my-model-\\d+$","input":0.3,"output":0}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]Rates{
		"gpt-5": {Input: 7_000_000, Output: 9_000_000, CachedInput: 1_000_000}, "my-model-12": {Input: 300_000},
	} {
		if price, ok := p.Find("openai", model, today); !ok || price.Rates != want {
			t.Errorf("%s: %+v", model, price)
		}
	}
	if _, ok := p.Find("openai", "gpt-5-2025-08-07", today); ok {
		t.Error("a replaced model still stands for its snapshots, at the old price")
	}
	if price, _ := BuiltInPrices().Find("openai", "gpt-5", today); price.Input != 1_250_000 {
		t.Error("the built-in table has changed")
	}
	if p, err = p.WithPrice("openai", "tuned", 3, 12, 0.5, 0); err != nil {
		t.Fatal(err)
	}
	if price, ok := p.Find("openai", "tuned", today); !ok || price.Output != 12_000_000 {
		t.Errorf("tuned: %+v", price)
	}
	for name, file := range map[string]string{
		"no schema": `{"models":[]}`, "no JSON": `x`, "a misspelt field": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"ouput":1}]}`,
		"no output": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1}]}`, "below zero": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":-1,"output":1}]}`,
		"an open alias": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"alias_regex":"b"}]}`, "no id": `{"schema":"till.prices/1","models":[{"provider":"a","input":1,"output":1}]}`,
		"a window below zero":     `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"context_window":-1}]}`,
		"an answer below zero":    `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"max_output_tokens":-1}]}`,
		"a window beyond reason":  `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"context_window":4611686018427387904}]}`,
		"an answer beyond reason": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"max_output_tokens":4611686018427387904}]}`,
		"a tier above nothing":    `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"tiers":[{"input":2}]}]}`,
	} {
		if _, err := BuiltInPrices().With(strings.NewReader(file)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestCostsAreRoundedUpAndTiersHoldForTheWholeRequest(t *testing.T) {
	t.Parallel()
	p := &Price{Provider: "anthropic", Rates: Rates{Input: 2_000_000, Output: 10_000_000, CachedInput: 200_000, CacheWrite: 2_500_000, CacheWrite1: 4_000_000},
		Tiers: []Tier{{Above: 1000, Rates: Rates{Input: 4_000_000, Output: 15_000_000}}}}
	for _, test := range []struct {
		name string
		u    Usage
		want int64
	}{
		{"plain", Usage{100, -1, -1, -1, 10, -1}, 100*2000 + 10*10000},
		{"from a cache", Usage{100, 60, -1, -1, 10, -1}, 40*2000 + 60*200 + 10*10000},
		{"to a cache", Usage{100, 50, 40, 10, 10, -1}, 10*2000 + 50*200 + 30*2500 + 10*4000 + 10*10000},
		{"a longer input", Usage{1001, -1, -1, -1, 10, -1}, 1001*4000 + 10*15000},
		{"less, as an upstream says that need not know", Usage{100, -1, -1, -1, 10, 77}, 100*2000 + 10*10000},
		{"more, as an upstream says", Usage{100, -1, -1, -1, 10, 1e9}, 1e9},
		{"a longer input, written for an hour", Usage{2000, 0, 2000, 2000, 0, -1}, 2000 * 8000},
		{"a longer input, written", Usage{2000, 0, 2000, 0, 0, -1}, 2000 * 5000},
		{"more cached than there was", Usage{100, 1000, 50, -1, 0, -1}, 100 * 200},
	} {
		if got := p.Cost(test.u, 1000); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	if got := (&Price{Rates: Rates{Input: 1}}).Cost(Usage{1, -1, -1, -1, 0, -1}, 1000); got != 1 {
		t.Errorf("a picodollar costs %d nano-dollars, want 1", got)
	}
	if got := (&Price{Provider: "openrouter", Rates: p.Rates}).Cost(Usage{100, -1, -1, -1, 10, 77}, 1000); got != 77 {
		t.Errorf("what OpenRouter says: %d", got)
	}
	e := &Estimate{Permille: 1000}
	if got := p.MaxCost(e, 100, 10); got != 100*2000+10*10000 {
		t.Errorf("a bound without a cache: %d", got)
	}
	if got := p.MaxCost(&Estimate{Permille: 2000, CachedHour: true, Cached: true}, 100, 10); got != 2*(100*4000+10*10000) {
		t.Errorf("a bound with a cache for an hour, at twice the price: %d", got)
	}
}

// TestNoCostIsAboveItsBound compares the arithmetic with that of big numbers, and the
// cost of usage within a bound with the bound's.
func TestNoCostIsAboveItsBound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		rate := rapid.Int64Range(0, 1e11)
		r := Rates{rate.Draw(rt, "input"), rate.Draw(rt, "output"), 0, rate.Draw(rt, "write"), rate.Draw(rt, "write for an hour")}
		r.CachedInput = rapid.Int64Range(0, r.Input).Draw(rt, "cached")
		p := &Price{Provider: rapid.SampledFrom([]string{"anthropic", "openai"}).Draw(rt, "provider"), Rates: r}
		e := &Estimate{Permille: rapid.SampledFrom([]int64{1000, 1100, 2000}).Draw(rt, "permille"), Cached: true, CachedHour: true}
		input, output := rapid.Int64Range(0, 1e7).Draw(rt, "in"), rapid.Int64Range(0, 1e6).Draw(rt, "out")
		bound := p.MaxCost(e, input, output)
		switch {
		case r.CacheWrite1 > 0:
		case p.Provider == "openai":
			r.CacheWrite1 = (5*r.Input + 1) / 2
		case r.CacheWrite > 0:
			r.CacheWrite1 = 2 * r.Input
		}
		exact := new(big.Int).Add(new(big.Int).Mul(big.NewInt(input), big.NewInt(max(r.Input, r.CacheWrite, r.CacheWrite1))), new(big.Int).Mul(big.NewInt(output), big.NewInt(r.Output)))
		exact.Mul(exact, big.NewInt(e.Permille))
		exact.Add(exact, big.NewInt(999_999)).Div(exact, big.NewInt(1_000_000))
		if want := min(exact.Uint64(), math.MaxInt64/4); uint64(bound) != want {
			rt.Fatalf("bound %d, want %d", bound, want)
		}
		u := unreported
		u.Input = rapid.Int64Range(0, input).Draw(rt, "used in")
		u.CachedInput = rapid.Int64Range(-1, u.Input).Draw(rt, "used cached")
		u.CacheWrite = rapid.Int64Range(-1, u.Input).Draw(rt, "used written")
		u.CacheWrite1h = rapid.Int64Range(-1, u.Input).Draw(rt, "used written for an hour")
		u.Output = rapid.Int64Range(0, output).Draw(rt, "used out")
		if cost := p.Cost(u, e.Permille); cost > bound {
			rt.Fatalf("%+v costs %d, the bound is %d", u, cost, bound)
		}
		have := rapid.Int64Range(0, 1e15).Draw(rt, "have")
		n := p.Affords(e, input, have)
		if n >= 0 && p.MaxCost(e, input, n) > have {
			rt.Fatalf("%d tokens cost more than %d", n, have)
		}
		if n < math.MaxInt32-1 && p.MaxCost(e, input, n+1) <= have {
			rt.Fatalf("%d tokens are affordable of %d, and one more is", n, have)
		}
	})
}

func TestFixturesCostWhatTheTableSaysToTheNanodollar(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		provider, model, answer string
		stream                  bool
		want                    int64
	}{
		{"openai", "gpt-5", `{"usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200,"prompt_tokens_details":{"cached_tokens":400}}}`, false, 600*1250 + 400*125 + 200*10000},
		{"openai", "gpt-5-2025-08-07", "data: {\"response\":{\"usage\":{\"input_tokens\":1000,\"output_tokens\":200}}}\n\n", true, 1000*1250 + 200*10000},
		{"openai", "gpt-6-luna", `{"usage":{"prompt_tokens":10,"completion_tokens":10}}`, false, 10*100 + 10*500},
		{"anthropic", "claude-sonnet-5-5", `{"usage":{"input_tokens":1000,"cache_read_input_tokens":500,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_1h_input_tokens":100},"output_tokens":200}}`, false,
			1000*2000 + 500*100 + 200*2500 + 100*4000 + 200*10000},
		{"gemini", "gemini-3.1-pro-preview", `{"usageMetadata":{"promptTokenCount":250000,"candidatesTokenCount":100,"thoughtsTokenCount":50,"totalTokenCount":250150}}`, false, 250000*4000 + 150*18000},
		{"xai", "grok-4.6", `{"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":160}}`, false, 100*2000 + 60*6000},
		{"xai", "grok-4.6", `{"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":160,"cost_in_usd_ticks":7}}`, false, 1},
		{"openai", "gpt-5", `{"object":"text_completion","choices":[{"text":"x"}],"usage":{"prompt_tokens":8,"completion_tokens":4,"total_tokens":12}}`, false, 8*1250 + 4*10000},
		{"openai", "gpt-5", "event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"model\":\"gpt-5\",\"usage\":{\"input_tokens\":10,\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":7,\"output_tokens_details\":{\"reasoning_tokens\":5},\"total_tokens\":17}}}\n\n", true, 10*1250 + 7*10000},
		{"openai", "text-embedding-3-small", `{"object":"list","data":[],"usage":{"prompt_tokens":1000,"total_tokens":1000}}`, false, 1000 * 20},
		{"anthropic", "claude-haiku-5-5", "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-haiku-5-5\",\"usage\":{\"input_tokens\":100,\"cache_read_input_tokens\":0,\"cache_creation_input_tokens\":0,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":40}}\n\n", true, 100*100 + 40*500},
		{"anthropic", "claude-haiku-5-5", `{"usage":{"input_tokens":90000,"cache_read_input_tokens":20000,"output_tokens":10}}`, false, 90000*500 + 20000*50 + 10*2500}, // the tier counts the cache, too
		{"gemini", "gemini-2.5-flash", `{"usageMetadata":{"promptTokenCount":100,"cachedContentTokenCount":40,"candidatesTokenCount":10,"thoughtsTokenCount":5,"toolUsePromptTokenCount":20,"totalTokenCount":135}}`, false, 80*300 + 40*30 + 15*2500},
		{"gemini", "gemini-2.5-flash", `[{"usageMetadata":{"promptTokenCount":100}},{"usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":10,"totalTokenCount":110}}]`, false, 100*300 + 10*2500},
		{"gemini", "gemini-2.5-flash", "data: {\"event_type\":\"interaction.complete\",\"interaction\":{\"usage\":{\"total_input_tokens\":100,\"total_output_tokens\":10,\"total_thought_tokens\":5,\"total_cached_tokens\":0,\"total_tool_use_tokens\":0}}}\n\n", true, 100*300 + 15*2500},
		{"deepseek", "deepseek-v4-pro", `{"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}}`, false, 36*1320 + 64*44 + 10*3960},
		{"openrouter", "openai/gpt-6-sol", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15,\"cost\":0.00093}}\n\n", true, 930000},
		{"groq", "openai/gpt-oss-120b", "data: {\"choices\":[{}],\"x_groq\":{\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":10,\"total_tokens\":110}}}\n\n", true, 100*150 + 10*600},
		{"mistral", "mistral-large-2512", `{"model":"mistral-large-2512","usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}`, false, 100*500 + 10*1500},
		{"cohere", "command-a-03-2025", "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"usage\":{\"billed_units\":{\"input_tokens\":5,\"output_tokens\":3},\"tokens\":{\"input_tokens\":71,\"output_tokens\":3}}}}\n\n", true, 5*2500 + 3*10000},
	} {
		price, ok := BuiltInPrices().Find(test.provider, test.model, today)
		if !ok {
			t.Errorf("%s/%s has no price", test.provider, test.model)
			continue
		}
		if got := price.Cost(metered(test.answer, test.stream, 10), 1000); got != test.want {
			t.Errorf("%s/%s: %d nano-dollars, want %d", test.provider, test.model, got, test.want)
		}
	}
}

func TestInputThatHoldsMoreThanTextIsHeldAndChargedAtItsPrice(t *testing.T) {
	t.Parallel()
	p := priced(t, "gemini", "gemini-2.5-flash", today)
	gemini, _ := Lookup("gemini")
	for part, want := range map[string]int64{
		`{"text":"hi"}`: 300_000,
		`{"inlineData":{"mimeType":"image/png","data":"AAAA"}}`: 300_000,
		`{"inlineData":{"mimeType":"audio/wav","data":"AAAA"}}`: 1_000_000,
		`{"inlineData":{"mimeType":"video/mp4","data":"AAAA"}}`: 1_000_000,
	} {
		e, err := gemini.Estimate(&Call{Method: "POST", Path: "/v1beta/models/gemini-2.5-flash:generateContent", ContentType: "application/json",
			Body: []byte(`{"contents":[{"parts":[` + part + `]}],"generationConfig":{"maxOutputTokens":10}}`)})
		if err != nil {
			t.Errorf("%s: %v", part, err)
			continue
		}
		if got := p.For(e); got.Input != want || want > p.Input && got.MaxCost(e, 1_000_000, 0) != 1e9 {
			t.Errorf("%s: input costs %d picodollars, want %d", part, got.Input, want)
		}
	}
}

func TestAPriceLineKeepsWhatItCannotSay(t *testing.T) {
	t.Parallel()
	old := priced(t, "anthropic", "claude-haiku-5-5", today)
	p, err := BuiltInPrices().WithPrice("anthropic", "claude-haiku-5-5", 0.2, 1, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err = p.WithPrice("anthropic", "claude-new", 3, 15, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	price, _ := p.Find("anthropic", "claude-haiku-5-5", today)
	if price.CacheWrite != 2*old.CacheWrite || len(price.Tiers) != len(old.Tiers) || price.Tiers[0].Input != 2*old.Tiers[0].Input || price.Tiers[0].Output != 2*old.Tiers[0].Output {
		t.Errorf("%+v from %+v", price, old)
	}
	if price, _ = p.Find("anthropic", "claude-new", today); price.CacheWrite != 3_750_000 || price.CacheWrite1 != 6_000_000 {
		t.Errorf("a new model of Anthropic: %+v", price)
	}
}

// TestPicturesCostMoreThanTextWithAnEmbeddingOfCoheres: 0.47 a million tokens of pictures
// beside 0.12 of text (cohere.com/pricing, Embed 4, as
// developer.puter.com/tutorials/cohere-api-pricing has it of June 2026).
func TestPicturesCostMoreThanTextWithAnEmbeddingOfCoheres(t *testing.T) {
	t.Parallel()
	p := priced(t, "cohere", "embed-v4.0", pricedAt)
	for members, want := range map[string]int64{
		`"texts":["hi"]`: 120_000,
		`"inputs":[{"content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]`: 470_000,
	} {
		e, err := estimate(t, "cohere", "/v2/embed", `{"model":"embed-v4.0",`+members+`}`)
		if err != nil {
			t.Errorf("%s: %v", members, err)
		} else if got := p.For(e).Input; got != want {
			t.Errorf("%s: input costs %d picodollars, want %d", members, got, want)
		}
	}
}

// TestAPriceFileThatIsWrongSaysWhere is about files that are written by hand: the
// error names the field as it is in the file, and no type of this program.
func TestAPriceFileThatIsWrongSaysWhere(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		`{"schema":"till.prices/1","models":{}}`: "models may not be of the kind object",
		`{"schema":1,"models":[]}`:               "schema may not be of the kind number",
		`{"schema":"till.prices/1","models":[{"provider":"openai","id":"m","input":"3.00","output":12}]}`: "models.input may not be of the kind string",
		`[]`:                             "the whole of it may not be of the kind array",
		`{"schema":"till.prices/1","mod`: "as JSON",
		``:                               "as JSON",
	} {
		if _, err := BuiltInPrices().With(strings.NewReader(file)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "Go ") {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
}

// TestAllOfARequestWithPicturesIsChargedAtTheirRate, also what is written to a cache or read
// from it, whatever the length: which of the input were pictures is not reported.
func TestAllOfARequestWithPicturesIsChargedAtTheirRate(t *testing.T) {
	t.Parallel()
	prices, err := BuiltInPrices().With(strings.NewReader(`{"schema":"till.prices/1","models":[
		{"provider":"openai","id":"seer","input":1,"output":1,"cached_input":0.1,"cache_write":1.25,"input_image":4,
		"tiers":[{"above_input_tokens":5000,"input":2,"output":2,"cached_input":0.2,"cache_write":2.5}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	price, ok := prices.Find("openai", "seer", today)
	if !ok {
		t.Fatal("it has no price")
	}
	e := &Estimate{Model: "seer", Pictures: true, Permille: 1000, Asked: 1000}
	price = price.For(e)
	for _, u := range []Usage{
		{Input: 1000, Nanodollars: -1},
		{Input: 1000, CachedInput: 1000, Nanodollars: -1},
		{Input: 1000, CacheWrite: 1000, Nanodollars: -1},
		{Input: 1000, CacheWrite: 1000, CacheWrite1h: 1000, Nanodollars: -1},
		{Input: 9000, CachedInput: 9000, Nanodollars: -1},
		{Input: 9000, CacheWrite: 9000, Nanodollars: -1},
	} {
		if cost, least := price.Cost(u, 1000), u.Input*4_000; cost < least {
			t.Errorf("%+v costs %d nano-dollars, want at least %d", u, cost, least)
		}
	}
}
