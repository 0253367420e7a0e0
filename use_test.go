package till

import (
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream"
)

func TestAnAnswerIsChargedAtTheDearerOfTheModelsAskedForAndAnswering(t *testing.T) {
	t.Parallel()
	prices := upstream.BuiltInPrices()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	const usage = `"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}`
	const mini, full = 1000*250 + 100*2000, 1000*1250 + 100*10000
	for _, test := range []struct {
		name, asked, answer string
		permille            int64
		want                int64
	}{
		{"the same", "gpt-5-mini", `{"model":"gpt-5-mini",` + usage, 1000, mini},
		{"a snapshot", "gpt-5-mini", `{"model":"gpt-5-mini-2025-08-07",` + usage, 1000, mini},
		{"a dearer one", "gpt-5-mini", `{"model":"gpt-5",` + usage, 1000, full},
		{"a cheaper one", "gpt-5", `{"model":"gpt-5-mini",` + usage, 1000, full},
		{"an unknown one", "gpt-5-mini", `{"model":"gpt-9",` + usage, 1000, mini},
		{"none", "gpt-5-mini", `{` + usage, 1000, mini},
		{"flex, as the answer says", "gpt-5-mini", `{"service_tier":"flex",` + usage, 1000, mini / 2},
		{"flex was asked for and not given", "gpt-5-mini", `{"service_tier":"default",` + usage, 1000, mini},
		{"cheaper, as the answer says, though nobody asked", "gpt-5-mini", `{"service_tier":"flex",` + usage, 1000, mini},
		{"what the client sent comes back", "gpt-5-mini", `{"metadata":{"service_tier":"flex","model":"gpt-5-nano"},` + usage, 1000, mini},
		{"what the client sent comes back last", "gpt-5-mini", strings.TrimSuffix(`{"model":"gpt-5",`+usage, "}") + `,"metadata":{"service_tier":"flex","model":"gpt-5-nano"}}`, 1000, full},
		{"priority was not asked for and given", "gpt-5-mini", `{"service_tier":"priority",` + usage, 1000, 2 * mini},
		{"priority", "gpt-5-mini", `{"service_tier":"priority",` + usage, 2000, 2 * mini},
	} {
		price, ok := prices.Find("openai", test.asked, now)
		if !ok {
			t.Fatal(test.asked)
		}
		u := &use{
			estimate: &upstream.Estimate{Model: test.asked, Permille: test.permille, Flex: strings.HasPrefix(test.name, "flex")}, price: price, priced: true, prices: prices,
			provider: "openai", began: now, now: func() time.Time { return now }, meter: upstream.NewMeter(false), whole: true,
		}
		u.meter.Write([]byte(test.answer))
		u.meter.Close()
		if tokens, nano, measured := u.used(200); tokens != 1100 || nano != test.want || !measured {
			t.Errorf("%s: %d tokens, %d nano-dollars, measured %v; want %d", test.name, tokens, nano, measured, test.want)
		}
	}
}
