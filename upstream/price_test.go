package upstream

import (
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

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
		price, ok := p.Find("openai", model)
		if got := ""; ok {
			if got = price.Model; got != want {
				t.Errorf("%q is priced as %q, want %q", model, got, want)
			}
		} else if want != "" {
			t.Errorf("%q has no price", model)
		}
	}
	if _, ok := p.Find("anthropic", "gpt-5"); ok {
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
		if price, ok := p.Find("openai", model); !ok || price.Rates != want {
			t.Errorf("%s: %+v", model, price)
		}
	}
	if _, ok := p.Find("openai", "gpt-5-2025-08-07"); ok {
		t.Error("a replaced model still stands for its snapshots, at the old price")
	}
	if price, _ := BuiltInPrices().Find("openai", "gpt-5"); price.Input != 1_250_000 {
		t.Error("the built-in table has changed")
	}
	if p, err = p.WithPrice("openai", "tuned", 3, 12, 0.5); err != nil {
		t.Fatal(err)
	}
	if price, ok := p.Find("openai", "tuned"); !ok || price.Output != 12_000_000 {
		t.Errorf("tuned: %+v", price)
	}
	for name, file := range map[string]string{
		"no schema": `{"models":[]}`, "no JSON": `x`, "a misspelt field": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"ouput":1}]}`,
		"no output": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1}]}`, "below zero": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":-1,"output":1}]}`,
		"an open alias": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"alias_regex":"b"}]}`, "no id": `{"schema":"till.prices/1","models":[{"provider":"a","input":1,"output":1}]}`,
		"a tier above nothing": `{"schema":"till.prices/1","models":[{"provider":"a","id":"b","input":1,"output":1,"tiers":[{"input":2}]}]}`,
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
		{"what the upstream says", Usage{100, -1, -1, -1, 10, 77}, 77},
		{"more cached than there was", Usage{100, 1000, 50, -1, 0, -1}, 100 * 200},
	} {
		if got := p.Cost(test.u, 1000); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	if got := (&Price{Rates: Rates{Input: 1}}).Cost(Usage{1, -1, -1, -1, 0, -1}, 1000); got != 1 {
		t.Errorf("a picodollar costs %d nano-dollars, want 1", got)
	}
	e := &Estimate{Permille: 1000}
	if got := p.MaxCost(e, 100, 10); got != 100*2000+10*10000 {
		t.Errorf("a bound without a cache: %d", got)
	}
	if got := p.MaxCost(&Estimate{Permille: 2000, CachedHour: true, Cached: true}, 100, 10); got != 2*(100*4000+10*10000) {
		t.Errorf("a bound with a cache for an hour, at twice the price: %d", got)
	}
}

// TestNoCostIsAboveItsBound holds the arithmetic against that of big numbers,
// and what was used within a bound against the bound.
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
		if n := p.Affords(e, input, have); n >= 0 && n < math.MaxInt32 && p.MaxCost(e, input, n) > have {
			rt.Fatalf("%d tokens cost more than %d", n, have)
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
	} {
		price, ok := BuiltInPrices().Find(test.provider, test.model)
		if !ok {
			t.Errorf("%s/%s has no price", test.provider, test.model)
			continue
		}
		if got := price.Cost(metered(test.answer, test.stream, 10), 1000); got != test.want {
			t.Errorf("%s/%s: %d nano-dollars, want %d", test.provider, test.model, got, test.want)
		}
	}
}
