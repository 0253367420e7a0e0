package upstream

import (
	"cmp"
	"strings"
	"testing"
)

func TestWhoeverAnswersARoutedRequestIsHeldFor(t *testing.T) {
	t.Parallel()
	prices := BuiltInPrices()
	for _, test := range []struct {
		model         string
		input, output int64 // picodollars, at least
	}{
		{"moonshotai/kimi-k3", 3_000_000, 16_000_000}, // 3 and 15 at Fireworks, 0.192 and 16 at the cheapest
		{"openai/gpt-oss-120b", 150_000, 600_000},
		{"openai/gpt-6-sol", 2_000_000, 10_000_000},
	} {
		price, ok := prices.Find("openrouter", test.model, pricedAt)
		if !ok {
			t.Fatal(test.model)
		}
		before := *price
		routed := prices.Routed(price, pricedAt)
		if routed.Input < test.input || routed.Output < test.output {
			t.Errorf("%s: held at %d and %d", test.model, routed.Input, routed.Output)
		}
		if price.Input != before.Input || price.Output != before.Output || len(price.Tiers) != len(before.Tiers) {
			t.Errorf("%s: the table was changed", test.model)
		}
	}
	own, err := prices.WithPrice("openrouter", "moonshotai/kimi-k3", 1, 2, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	price, _ := own.Find("openrouter", "moonshotai/kimi-k3", pricedAt)
	if routed := own.Routed(price, pricedAt); routed.Input != 1_000_000 || routed.Output != 2_000_000 {
		t.Errorf("an operator's own price: held at %d and %d", routed.Input, routed.Output)
	}
	vendor, _ := prices.Find("openai", "gpt-5-mini", pricedAt)
	if prices.Routed(vendor, pricedAt) != vendor {
		t.Error("a vendor's own price was changed")
	}
}

// TestARoutedModelFindsWhoeverElseServesIt: vendors write one name in several ways
// (Together's moonshotai/Kimi-K3, Fireworks' glm-5p3, Mistral's zai-glm-5-3, Groq's
// llama-3.3-70b-versatile, as the table has them), and OpenRouter may choose any of them.
func TestARoutedModelFindsWhoeverElseServesIt(t *testing.T) {
	t.Parallel()
	partners := map[string][]string{
		"deepseek/deepseek-v4-flash":        {}, // others serve later versions
		"deepseek/deepseek-v4-pro":          {"deepseek/deepseek-v4-pro"},
		"google/gemini-3.8-flash":           {"gemini/gemini-3.8-flash"},
		"meta-llama/llama-3.3-70b-instruct": {"groq/llama-3.3-70b-versatile"},
		"minimax/minimax-m3":                {"fireworks/accounts/fireworks/models/minimax-m3", "together/MiniMaxAI/MiniMax-M3"},
		"moonshotai/kimi-k3":                {"fireworks/accounts/fireworks/models/kimi-k3", "together/moonshotai/Kimi-K3"},
		"openai/gpt-oss-120b":               {"groq/openai/gpt-oss-120b", "together/openai/gpt-oss-120b"},
		"z-ai/glm-5.3":                      {"fireworks/accounts/fireworks/models/glm-5p3", "mistral/zai-glm-5-3", "together/zai-org/GLM-5.3"},
	}
	prices := BuiltInPrices()
	for _, row := range prices.All() {
		if row.Provider != "openrouter" || row.Confidence != "low" {
			continue
		}
		maker, name, _ := strings.Cut(row.Model, "/")
		want, listed := partners[row.Model]
		if !listed {
			if maker == "anthropic" {
				name = strings.ReplaceAll(name, ".", "-")
			}
			want = []string{cmp.Or(map[string]string{"google": "gemini", "mistralai": "mistral", "x-ai": "xai"}[maker], maker) + "/" + name}
		}
		delete(partners, row.Model)
		routed := prices.Routed(row, pricedAt)
		for _, key := range want {
			other := prices.byModel[key].at(pricedAt)
			if other == nil {
				t.Errorf("%s: there is no row %s", row.Model, key)
			} else if bareName(key) != bareName(row.Model) || routed.Input < other.Input || routed.Output < other.Output {
				t.Errorf("%s: held at %d and %d, and %s costs %d and %d", row.Model, routed.Input, routed.Output, key, other.Input, other.Output)
			}
		}
	}
	if len(partners) > 0 {
		t.Errorf("the table has no %v", partners)
	}
	for _, other := range []string{"glm-5p3-fast", "zai-glm-5-3-flash", "glm-5p2"} {
		if bareName(other) == bareName("z-ai/glm-5.3") {
			t.Errorf("%s is another model", other)
		}
	}
}
