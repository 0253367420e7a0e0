package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestPricesHoldBetweenTheirDates(t *testing.T) {
	t.Parallel()
	p, err := BuiltInPrices().With(strings.NewReader(`{"schema":"till.prices/1","models":[
		{"provider":"openai","id":"m","alias_regex":"^m-\\d+$","input":1,"output":1,"until":"2026-12-31"},
		{"provider":"openai","id":"m","input":2,"output":2,"from":"2027-01-01","until":"2027-01-31"},
		{"provider":"openai","id":"m","input":3,"output":3,"from":"2027-03-01"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]int64{
		"2020-01-01T00:00:00Z": 1, "2026-12-30T23:59:59Z": 1, "2026-12-31T00:00:00Z": 2, "2026-12-31T23:59:59Z": 2, "2027-01-01T00:00:00Z": 2, "2027-01-31T23:59:59Z": 2,
		"2027-02-01T00:00:00Z": 0, "2027-03-01T00:00:00Z": 3, "2099-03-01T00:00:00Z": 3,
	} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"m", "m-1"} {
			price, ok := p.Find("openai", name, now)
			if ok != (want != 0) || ok && price.Input != want*1_000_000 {
				t.Errorf("%s at %s: %+v, want %d", name, at, price, want)
			}
		}
	}
	// The vendor may bill a request when it ends, or have another clock.
	for _, change := range []struct{ before, after, at, want string }{
		{`"input":5,"output":9,"cached_input":1`, `"input":4,"output":10`, "2026-12-31T12:00:00Z", "5 10 4"},
		{`"input":5,"output":9,"cached_input":1`, `"input":4,"output":10,"cached_input":2`, "2027-01-01T00:04:59Z", "5 10 2"},
		{`"input":5,"output":9,"cached_input":1`, `"input":4,"output":10,"cached_input":2`, "2027-01-01T00:05:00Z", "4 10 2"},
		{`"input":1,"output":9,"tiers":[{"above_input_tokens":1000,"input":7}]`, `"input":4,"output":10`, "2026-12-31T12:00:00Z", "4 10 4"},
	} {
		p, err := BuiltInPrices().With(strings.NewReader(`{"schema":"till.prices/1","models":[{"provider":"openai","id":"m","until":"2026-12-31",` + change.before + `},{"provider":"openai","id":"m","from":"2027-01-01",` + change.after + `}]}`))
		if err != nil {
			t.Fatal(err)
		}
		now, err := time.Parse(time.RFC3339, change.at)
		if err != nil {
			t.Fatal(err)
		}
		price, ok := p.Find("openai", "m", now)
		if !ok {
			t.Fatal(change.at)
		}
		r := price.rates(1000)
		if got := fmt.Sprint(r.Input/1_000_000, r.Output/1_000_000, r.orInput(r.CachedInput)/1_000_000); got != change.want {
			t.Errorf("%s, then %s, at %s: %s, want %s", change.before, change.after, change.at, got, change.want)
		}
		if got := price.rates(1001).Input; strings.Contains(change.before, "tiers") && got != 7_000_000 {
			t.Errorf("a long input costs %d", got)
		}
	}
	for name, lines := range map[string]string{
		"two at a time":     `{"provider":"openai","id":"m","input":1,"output":1,"until":"2026-12-31"},{"provider":"openai","id":"m","input":1,"output":1,"from":"2026-12-31"}`,
		"twice":             `{"provider":"openai","id":"m","input":1,"output":1},{"provider":"openai","id":"m","input":1,"output":1}`,
		"no date":           `{"provider":"openai","id":"m","input":1,"output":1,"until":"soon"}`,
		"an end before":     `{"provider":"openai","id":"m","input":1,"output":1,"from":"2026-12-31","until":"2026-12-30"}`,
		"no peak":           `{"provider":"openai","id":"m","input":1,"output":1,"off_peak":{"permille":500,"utc_offset_minutes":0,"weekday_peaks":[]}}`,
		"a peak that turns": `{"provider":"openai","id":"m","input":1,"output":1,"off_peak":{"permille":500,"utc_offset_minutes":0,"weekday_peaks":["18:00-09:00"]}}`,
		"a dearer off-peak": `{"provider":"openai","id":"m","input":1,"output":1,"off_peak":{"permille":2000,"utc_offset_minutes":0,"weekday_peaks":["08:00-09:00"]}}`,
	} {
		if _, err := BuiltInPrices().With(strings.NewReader(`{"schema":"till.prices/1","models":[` + lines + `]}`)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestAPromotionEnds: ai.google.dev (latest-model, pricing), the page of gpt-5.6-sol at
// developers.openai.com, and docs.apiyi.com (live/2026-12) have the prices and the dates.
func TestAPromotionEnds(t *testing.T) {
	t.Parallel()
	prices := BuiltInPrices()
	type price struct{ input, output int64 } // in thousandths of a dollar per million
	for _, test := range []struct {
		provider, model, last string
		before, after         price
	}{
		{"gemini", "gemini-4-argon", "2026-11-30", price{2000, 10_000}, price{4000, 20_000}},
		{"openai", "gpt-5.6-sol", "2026-11-30", price{4000, 20_000}, price{5000, 30_000}},
		{"openai", "gpt-5.6-sol-2026-07-09", "2026-11-30", price{4000, 20_000}, price{5000, 30_000}},
		{"openai", "gpt-daybreak-blue-latest", "2026-11-30", price{4000, 20_000}, price{5000, 30_000}},
		{"gemini", "gemini-3.6-flash", "2026-12-31", price{750, 3750}, price{1500, 7500}},
		{"gemini", "gemini-3.7-flash", "2026-12-31", price{750, 3750}, price{1500, 7500}},
		{"gemini", "gemini-3.8-flash", "2026-12-31", price{750, 3750}, price{1500, 7500}},
		// What OpenRouter passes on is held at what its maker takes.
		{"openrouter", "openai/gpt-5.6-sol", "2026-11-30", price{4000, 20_000}, price{5000, 30_000}},
		{"openrouter", "google/gemini-3.8-flash", "2026-12-31", price{825, 4125}, price{1500, 7500}},
	} {
		last, err := time.Parse(time.DateOnly, test.last)
		if err != nil {
			t.Fatal(err)
		}
		end := last.AddDate(0, 0, 1)
		for at, want := range map[time.Time]price{end.Add(-longestRequest - time.Second): test.before, end.Add(-time.Second): test.after, end: test.after, end.AddDate(1, 0, 0): test.after} {
			found, ok := prices.Find(test.provider, test.model, at)
			if !ok {
				t.Errorf("%s has no price on %v", test.model, at)
				continue
			}
			p := prices.Routed(found, at)
			if got := (price{p.Input / 1000, p.Output / 1000}); got != want {
				t.Errorf("%s/%s on %v: %+v, want %+v", test.provider, test.model, at, got, want)
			}
			long := p.rates(300_000)
			if p.Provider == "openai" && (long.Input != 2*p.Input || long.Output != p.Output*3/2 || long.CachedInput != p.Input/5 || long.CacheWrite != p.Input*5/2) {
				t.Errorf("%s with a long input on %v: %+v", test.model, at, long)
			}
		}
	}
}

// TestTheLongestAnswerIsTheVendorsAlsoAfterAPromotion: the successor of a price is made from
// its row, whose collector knew half of it
// (https://ai.google.dev/gemini-api/docs/generate-content/latest-model).
func TestTheLongestAnswerIsTheVendorsAlsoAfterAPromotion(t *testing.T) {
	t.Parallel()
	for _, day := range []string{"2026-11-15", "2026-12-15"} {
		at, err := time.Parse(time.DateOnly, day)
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := BuiltInPrices().Find("gemini", "gemini-4-argon", at); !ok || p.MaxOutput != 65_536 {
			t.Errorf("on %s: %+v", day, p)
		}
	}
}

// TestModelsOfChatGPTHaveTheirOwnLimits: OpenAI documents 400,000 and 128,000 for
// chat-latest (developers.openai.com/api/docs/models/chat-latest), but a window and answers
// as short as GPT-4o's for the versions that had a number (BerriAI/litellm#18928).
func TestModelsOfChatGPTHaveTheirOwnLimits(t *testing.T) {
	t.Parallel()
	for model, want := range map[string][2]int64{"gpt-5-chat-latest": {128_000, 16_384}, "chat-latest": {400_000, 128_000}, "gpt-5": {400_000, 128_000}, "gpt-5-pro": {400_000, 272_000}} {
		if p := priced(t, "openai", model, pricedAt); p.Context != want[0] || p.MaxOutput != want[1] {
			t.Errorf("%s: %d, %d", model, p.Context, p.MaxOutput)
		}
	}
}

// TestNoRowOfTheTableIsOdd: what no vendor asks for is a collector's mistake.
func TestNoRowOfTheTableIsOdd(t *testing.T) {
	t.Parallel()
	prices := BuiltInPrices()
	for _, p := range prices.All() {
		name := p.Provider + "/" + p.Model
		if !p.Until.IsZero() {
			next := prices.byModel[name].at(p.Until.Add(clockDoubt))
			if next == nil {
				t.Errorf("%s: no price follows the one that ends on %v", name, p.Until)
			} else if next.Input < p.Input || next.Output < p.Output || next.CachedInput < p.CachedInput || next.CacheWrite < p.CacheWrite || len(next.Tiers) != len(p.Tiers) {
				t.Errorf("%s: %+v follows %+v", name, next.Rates, p.Rates)
			}
		}
		if p.Output > 0 && p.Output < p.Input {
			t.Errorf("%s: an answer costs less than a prompt", name)
		}
		if p.Image > 0 && p.Image <= p.Input || p.Media > 0 && p.Media <= p.Input {
			t.Errorf("%s: pictures or sound cost no more than text, and are listed", name)
		}
		if p.MaxOutput > p.Context && p.Context > 0 {
			t.Errorf("%s: answers of %d tokens in a window of %d", name, p.MaxOutput, p.Context)
		}
		before := Tier{0, p.Rates}
		for _, tier := range append([]Tier{before}, p.Tiers...) {
			r, last := tier.Rates, before.Rates
			if r.Input < last.Input || r.Output < last.Output || r.CachedInput < last.CachedInput || r.CacheWrite < last.CacheWrite || tier.Above < before.Above {
				t.Errorf("%s: a longer input costs less: %+v after %+v", name, tier, before)
			}
			if r.CachedInput > r.Input {
				t.Errorf("%s: input from a cache costs more than other input: %+v", name, tier)
			}
			if r.CacheWrite > 0 && r.CacheWrite < r.Input || r.CacheWrite1 > 0 && r.CacheWrite1 < r.CacheWrite {
				t.Errorf("%s: what is written to a cache costs less than what is not, or is kept longer for less: %+v", name, tier)
			}
			if written := p.Provider == "openai" && r.CacheWrite > 0 || p.Provider == "anthropic"; written && r.CacheWrite*4 != r.Input*5 {
				t.Errorf("%s: a cache write costs 1.25 times the input: %+v", name, tier)
			}
			before = tier
		}
		if p.Provider == "anthropic" && p.CacheWrite1 != 2*p.Input {
			t.Errorf("%s: an hour in the cache costs twice the input: %+v", name, p.Rates)
		}
		if p.Provider == "openai" && strings.HasSuffix(p.Model, "-pro") && p.CachedInput > 0 {
			t.Errorf("%s: nothing is said about cached input of models that are called pro", name)
		}
		for _, other := range prices.All() {
			dated := p.alias != nil && other.Provider == p.Provider && p.alias.MatchString(other.Model)
			if dated && other.Model != "gpt-4o-2024-05-13" && other.Rates != p.Rates {
				t.Errorf("%s costs %+v, and %s %+v", name, p.Rates, other.Model, other.Rates)
			}
		}
	}
	if n := len(prices.At(today)); n != len(prices.byModel) {
		t.Errorf("%d prices of %d models hold today", n, len(prices.byModel))
	}
}

func TestOffPeakIsCheaperOnlyWhereNoMomentMayBeAPeak(t *testing.T) {
	t.Parallel()
	p := priced(t, "deepseek", "deepseek-v4-pro", today)
	// Weekdays 09-12 and 14-18 in Beijing are 01-04 and 06-10 UTC.
	for _, test := range []struct {
		from, to string
		want     int64
	}{
		{"2026-11-24T02:00:00Z", "2026-11-24T02:00:10Z", 1000}, // Tuesday
		{"2026-11-24T05:00:00Z", "2026-11-24T05:00:10Z", 500},
		{"2026-11-24T05:50:00Z", "2026-11-24T05:54:00Z", 500},
		{"2026-11-24T05:54:00Z", "2026-11-24T05:56:00Z", 1000}, // clocks differ
		{"2026-11-24T10:06:00Z", "2026-11-25T00:54:00Z", 500},
		{"2026-11-24T11:00:00Z", "2026-11-25T11:00:00Z", 1000}, // a day long
		{"2026-11-28T02:00:00Z", "2026-11-29T02:00:10Z", 500},  // Saturday, Sunday
		{"2026-11-29T23:00:00Z", "2026-11-30T02:00:10Z", 1000}, // into Monday
	} {
		from, err1 := time.Parse(time.RFC3339, test.from)
		to, err2 := time.Parse(time.RFC3339, test.to)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if got := p.discount(from, to); got != test.want {
			t.Errorf("%s to %s: %d, want %d", test.from, test.to, got, test.want)
		}
	}
}
