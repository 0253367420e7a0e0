package till

import (
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// TestNoAnswerCostsMoreThanItsHoldNorLessThanItIsBilled: whatever the price, built in
// or the operator's own, the region, the factor and the tier, an answer within the
// tokens that are held costs at most what is held in dollars, and never less than the
// vendor bills, which the test computes independently.
func TestNoAnswerCostsMoreThanItsHoldNorLessThanItIsBilled(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	table := upstream.BuiltInPrices()
	rows := table.All()
	rapid.Check(t, func(t *rapid.T) {
		row := rapid.SampledFrom(rows).Draw(t, "row")
		provider, model, prices := row.Provider, row.Model, table
		if provider == "perplexity" || strings.Contains(model, ":") {
			return
		}
		if rapid.Bool().Draw(t, "own line") {
			rate := func(name string) float64 { return float64(rapid.IntRange(0, 5000).Draw(t, name)) / 100 }
			var err error
			if prices, err = table.WithPrice(provider, model, rate("input"), rate("output"), rate("cached"), rate("written")); err != nil {
				t.Fatal(err)
			}
		}
		price, ok := prices.Find(provider, model, now)
		if !ok || price.OffPeak != nil {
			return // another test covers discounts
		}
		multiply := rapid.SampledFrom([]int64{1000, 1000, 1001, 1100, 1050, 333, 10_000}).Draw(t, "multiply")
		options := upstream.Options{Multiply: multiply, Hosts: []string{rapid.SampledFrom([]string{"x.example", "eu.api.openai.com", "us.api.x.ai"}).Draw(t, "host")}}
		if provider == "openai" && rapid.Bool().Draw(t, "the project decides") {
			options.ServiceTier = upstream.AutoTier
		}
		base, _ := upstream.Lookup(provider)
		preset, err := base.With(options)
		if err != nil {
			t.Fatal(err)
		}
		path := map[string]string{"anthropic": "/v1/messages", "gemini": "/v1beta/models/" + model + ":generateContent", "cohere": "/v2/chat"}[provider]
		body := `{"model":"` + model + `","max_tokens":100,"messages":[]`
		if provider == "gemini" {
			body = `{"contents":[]`
		} else if path == "" {
			path = "/v1/chat/completions"
		}
		asked, times := "", int64(1000) // permille that the vendor's own price is multiplied with
		if provider == "openai" {
			if asked = rapid.SampledFrom([]string{"", "default", "flex", "priority"}).Draw(t, "tier asked"); asked != "" {
				body += `,"service_tier":"` + asked + `"`
			}
		}
		marked := provider == "anthropic" && rapid.Bool().Draw(t, "cached")
		if marked {
			body += `,"cache_control":{"type":"ephemeral"}`
		}
		e, err := preset.Estimate(&upstream.Call{Method: "POST", Path: path, ContentType: "application/json", Body: []byte(body + "}")})
		if err != nil {
			return // a model that searches
		}
		u := &usage{estimate: e, price: prices.Routed(price, now).For(e), priced: true, prices: prices, provider: provider, began: now, now: func() time.Time { return now },
			input: rapid.Int64Range(1, 1_000_000).Draw(t, "held input"), natural: rapid.Int64Range(1, 200_000).Draw(t, "held output"), output: -1, meter: preset.Meter(false), readToEnd: true}

		in, out := rapid.Int64Range(1, u.input).Draw(t, "input"), rapid.Int64Range(1, u.natural).Draw(t, "output")
		cached := rapid.Int64Range(0, in).Draw(t, "read")
		written := int64(0)
		if provider != "anthropic" || marked {
			written = rapid.Int64Range(0, in-cached).Draw(t, "written")
		}
		usage := fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d}`, in, out, in+out, cached, written)
		unasked := false
		switch provider {
		case "openai":
			served := rapid.SampledFrom([]string{"", "auto", "default", "flex", "priority"}).Draw(t, "tier served")
			decides := options.ServiceTier == upstream.AutoTier && asked == ""
			switch {
			case served == "priority" || asked == "priority" && served != "default", decides && (served == "" || served == "auto"):
				times = 2000 // what was asked for, or may have been chosen, is charged where the answer does not deny it
				if strings.HasPrefix(model, "gpt-5.5") {
					times = 2500
				}
			case served == "flex" && asked == "flex":
				times = 500
			}
			unasked = served == "priority" && asked != "priority" && (asked != "" || options.ServiceTier == "")
			usage += `},"service_tier":"` + served + `"`
		case "anthropic":
			if geo := rapid.SampledFrom([]string{"", "us", "global"}).Draw(t, "geo"); geo == "us" {
				times = 1100
				usage += `,"inference_geo":"us"}`
			} else {
				usage += `,"inference_geo":"` + geo + `"}`
			}
		default:
			usage += "}"
		}
		u.meter.Write([]byte(`{"model":"` + model + `",` + usage + `}`))
		u.meter.Close()
		tokens, nano, measured := u.used(200)
		held := u.bound(u.natural)
		if !measured || tokens != in+out || tokens > held[record.Tokens] {
			t.Fatalf("measured %v, %d tokens of %d held", measured, tokens, held[record.Tokens])
		}
		if nano > held[record.Nanodollars] && !unasked {
			t.Errorf("charged %d, held %d", nano, held[record.Nanodollars])
		}

		r := u.price.Rates
		for _, tier := range u.price.Tiers {
			if in > tier.Above {
				r.Input, r.Output = max(r.Input, tier.Input), max(r.Output, tier.Output)
				r.CachedInput = max(r.CachedInput, tier.CachedInput)
			}
		}
		read := r.CachedInput
		if read == 0 {
			read = r.Input
		}
		plain := in - cached - written // cache writes are billed at no less than nothing
		bill := new(big.Int).Mul(big.NewInt(plain), big.NewInt(r.Input))
		bill.Add(bill, new(big.Int).Mul(big.NewInt(cached), big.NewInt(read)))
		bill.Add(bill, new(big.Int).Mul(big.NewInt(out), big.NewInt(r.Output)))
		for _, permille := range []int64{times, multiply} {
			bill.Mul(bill, big.NewInt(permille))
		}
		bill.Div(bill, big.NewInt(1000*1000*1000)) // permille twice, and picodollars
		if exact := written == 0 && options.Hosts[0] == "x.example"; exact && new(big.Int).Add(bill, big.NewInt(2+bill.Int64()/200)).Cmp(big.NewInt(nano)) < 0 {
			t.Errorf("%s/%s, asked %q: charged %d, billed %s", provider, model, asked, nano, bill) // factors are rounded to permille
		}
		if bill.Cmp(big.NewInt(nano)) > 0 {
			t.Errorf("%s/%s, asked %q: charged %d, billed %s (in %d, read %d, written %d, out %d, %d and %d permille)", provider, model, asked, nano, bill, in, cached, written, out, times, multiply)
		}
	})
}

// TestWhatARequestIsFittedToIsLeft: whatever is left, the request is held to no more
// than that, or to the least that it could be fitted to, which is then refused; and the
// bound that is written into it is the one that is held.
func TestWhatARequestIsFittedToIsLeft(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	prices := upstream.BuiltInPrices()
	rows := prices.All()
	rapid.Check(t, func(t *rapid.T) {
		row := rapid.SampledFrom(rows).Draw(t, "row")
		e := &upstream.Estimate{Model: row.Model, Answers: rapid.Int64Range(1, 5).Draw(t, "answers"), Permille: rapid.SampledFrom([]int64{1000, 1, 1155, 2500, 27_500}).Draw(t, "permille"),
			Stated: rapid.SampledFrom([]int64{-1, -1, 0, 1, 200, 5000}).Draw(t, "stated"), Thinking: rapid.SampledFrom([]int64{0, 0, 1024, 9000}).Draw(t, "thinking"), Cached: rapid.Bool().Draw(t, "cached")}
		e.Asked = e.Permille
		u := &usage{estimate: e, price: row, priced: rapid.Bool().Draw(t, "dollars"), prices: prices, began: now, now: func() time.Time { return now }, mayFit: rapid.Bool().Draw(t, "fit"),
			input: rapid.Int64Range(1, 1_000_000).Draw(t, "input"), output: -1}
		u.natural, _ = e.Longest(row, u.input)
		left := record.Amounts{record.Tokens: rapid.Int64Range(0, 2_000_000).Draw(t, "tokens"), record.Nanodollars: rapid.Int64Range(0, 5_000_000_000).Draw(t, "nano-dollars")}
		if !u.priced {
			left[record.Nanodollars] = 0
		}
		held := u.fit(left)
		written := u.output
		if written < 0 {
			written = e.Stated // by its client
		}
		if written < 0 || written > u.natural {
			t.Fatalf("an answer may have %d, of %d", written, u.natural)
		}
		if b := u.bound(written); b != held {
			t.Fatalf("%d may be answered, which is %v, and %v is held", written, b, held)
		}
		if !fitsInto(held, left) && written > u.least() && u.fits() {
			t.Fatalf("%v is held of %v, for %d tokens", held, left, written)
		}
		if longer := written + 1; fitsInto(held, left) && longer <= u.natural && fitsInto(u.bound(longer), left) {
			t.Fatalf("%d are given of %v, and %d would do", written, left, longer)
		}
	})
}
