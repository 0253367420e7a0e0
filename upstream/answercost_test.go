package upstream

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pricedAt is within a peak of DeepSeek's, when its full price holds.
var pricedAt = time.Date(2026, 11, 25, 2, 0, 0, 0, time.UTC)

// TestAnswersCostWhatTheyAreBilled reads answers of our own making in the shapes that
// the vendors document, for every metered endpoint, and checks usage and cost to the
// token and the nano-dollar. The sums are written beside them in millionths of a
// dollar: tokens times dollars per million.
func TestAnswersCostWhatTheyAreBilled(t *testing.T) {
	t.Parallel()
	const none = -1 // not reported
	seen := make(map[string]bool)
	for _, test := range []struct {
		file, model string
		want        Usage
		nano        int64 // none: no price
	}{
		// gpt-5-mini 0.25, cached 0.025, 2: 200×0.25 + 1000×0.025 + 350×2 = 775.
		{"openai/chat.json", "gpt-5-mini", Usage{1200, 1000, none, none, 350, none}, 775_000},
		{"openai/chat.sse", "gpt-5-mini", Usage{1200, 1000, none, none, 350, none}, 775_000},
		// 12×0.25 + 16×2 = 35.
		{"openai/completions.json", "gpt-5-mini", Usage{12, none, none, none, 16, none}, 35_000},
		{"openai/completions.sse", "gpt-5-mini", Usage{12, none, none, none, 16, none}, 35_000},
		// gpt-6-sol 2, cached 0.2, written 2.5, 10: 500×2 + 2000×0.2 + 500×2.5 + 700×10 = 9650.
		{"openai/responses.json", "gpt-6-sol", Usage{3000, 2000, 500, none, 700, none}, 9_650_000},
		{"openai/responses.sse", "gpt-6-sol", Usage{3000, 2000, 500, none, 700, none}, 9_650_000},
		{"openai/responses-incomplete.sse", "gpt-6-sol", Usage{3000, 2000, 500, none, 700, none}, 9_650_000},
		// 400 of what was written are kept for twelve hours, for 5: 9650 + 400×2.5 = 10650.
		{"openai/responses-kept.json", "gpt-6-sol", Usage{3000, 2000, 500, 400, 700, none}, 10_650_000},
		// Above 272,000 it is 4 and 15, all of it: 300000×4 + 100×15 = 1201500.
		{"openai/responses-long.json", "gpt-6-sol", Usage{300_000, 0, none, none, 100, none}, 1_201_500_000},
		// 8×0.02 = 0.16.
		{"openai/embeddings.json", "text-embedding-3-small", Usage{8, none, none, none, 0, none}, 160},
		// claude-sonnet-5-5 2, cached 0.1, written 2.5, for an hour 4, 10, all
		// beside the input: 50×2 + 8000×0.1 + 1500×2.5 + 500×4 + 420×10 = 10850.
		{"anthropic/messages.json", "claude-sonnet-5-5", Usage{10_050, 8000, 2000, 500, 420, none}, 10_850_000},
		{"anthropic/messages.sse", "claude-sonnet-5-5", Usage{10_050, 8000, 2000, 500, 420, none}, 10_850_000},
		{"anthropic/messages-region.json", "claude-sonnet-5-5", Usage{10_050, 8000, 2000, 500, 420, none}, 10_850_000},
		// Cumulative, and the input said again: 50×2 + 420×10 = 4300.
		{"anthropic/messages-restated.sse", "claude-sonnet-5-5", Usage{50, 0, 0, none, 420, none}, 4_300_000},
		// claude-haiku-5-5 above 100,000, what is cached included: 0.5, cached
		// 0.05, 2.5: 20000×0.5 + 90000×0.05 + 100×2.5 = 14750.
		{"anthropic/messages-long.json", "claude-haiku-5-5", Usage{110_000, 90_000, 0, none, 100, none}, 14_750_000},
		// gemini-2.5-flash 0.3, cached 0.03, 2.5, thoughts and tools beside the
		// rest: 320×0.3 + 100×0.03 + 400×2.5 = 1099.
		{"gemini/generateContent.json", "gemini-2.5-flash", Usage{420, 100, none, none, 400, none}, 1_099_000},
		{"gemini/streamGenerateContent.sse", "gemini-2.5-flash", Usage{420, 100, none, none, 400, none}, 1_099_000},
		{"gemini/streamGenerateContent.json", "gemini-2.5-flash", Usage{420, 100, none, none, 400, none}, 1_099_000},
		{"gemini/embedContent.json", "gemini-embedding-001", unreported, none},
		{"gemini/openai-embeddings.json", "gemini-embedding-001", Usage{8, none, none, none, 0, none}, 1200},
		// Thoughts are in the total alone: 400×0.3 + 400×2.5 = 1120.
		{"gemini/openai-chat.json", "gemini-2.5-flash", Usage{400, none, none, none, 400, none}, 1_120_000},
		// command-a 2.5, 10, of what is billed: 30×2.5 + 120×10 = 1275.
		{"cohere/chat.json", "command-a-03-2025", Usage{30, none, none, none, 120, none}, 1_275_000},
		{"cohere/chat.sse", "command-a-03-2025", Usage{30, none, none, none, 120, none}, 1_275_000},
		{"cohere/embed.json", "embed-v4.0", Usage{14, none, none, none, 0, none}, 1680},
		// Text and pictures are billed side by side (cohere-ai, api/types,
		// ApiMetaBilledUnits): 2730×0.12 = 327.6; how many tokens two pictures are,
		// the last does not say.
		{"cohere/embed-mixed.json", "embed-v4.0", Usage{2730, none, none, none, 0, none}, 327_600},
		{"cohere/embed-images.json", "embed-v4.0", unreported, none},
		// mistral-small-2506 0.1, 0.3: 100×0.1 + 50×0.3 = 25; codestral 0.3, 0.9: 75.
		{"mistral/chat.json", "mistral-small-2506", Usage{100, none, none, none, 50, none}, 25_000},
		{"mistral/chat.sse", "mistral-small-2506", Usage{100, none, none, none, 50, none}, 25_000},
		{"mistral/fim.json", "codestral-2508", Usage{100, none, none, none, 50, none}, 75_000},
		{"mistral/embeddings.json", "mistral-embed", Usage{15, none, none, none, 0, none}, 1500},
		// deepseek-flash 0.3, cached 0.006, 1.2: 200×0.3 + 800×0.006 + 100×1.2 = 184.8.
		{"deepseek/chat.json", "deepseek-flash", Usage{1000, 800, none, none, 100, none}, 184_800},
		{"deepseek/chat.sse", "deepseek-flash", Usage{1000, 800, none, none, 100, none}, 184_800},
		{"deepseek/messages.json", "deepseek-flash", Usage{1000, 800, 0, none, 100, none}, 184_800},
		// grok-4.6 2, 6, reasoning beside the output: 100×2 + 100×6 = 800; and
		// what it says it took counts instead, rounded up.
		{"xai/chat.json", "grok-4.6", Usage{100, 0, none, none, 100, none}, 800_000},
		{"xai/chat.sse", "grok-4.6", Usage{100, 0, none, none, 100, none}, 800_000},
		{"xai/chat-cost.json", "grok-4.6", Usage{100, 0, none, none, 100, 800_501}, 800_501},
		{"xai/responses.json", "grok-4.6", Usage{100, none, none, none, 100, 800_000}, 800_000},
		// gpt-oss-120b at Groq 0.15, cached 0.075, 0.6: 600×0.15 + 400×0.075 + 200×0.6 = 240.
		{"groq/chat.json", "openai/gpt-oss-120b", Usage{1000, 400, none, none, 200, none}, 240_000},
		{"groq/chat.sse", "openai/gpt-oss-120b", Usage{1000, 400, none, none, 200, none}, 240_000},
		{"openrouter/chat.json", "openai/gpt-5-mini", Usage{1000, 0, 0, none, 60, 370_000}, 370_000},
		{"openrouter/chat.sse", "openai/gpt-5-mini", Usage{1000, 0, 0, none, 60, 370_000}, 370_000},
		{"openrouter/chat-own-key.json", "openai/gpt-5-mini", Usage{1000, 0, 0, none, 60, 388_500}, 388_500},
		// At Together 0.15, 0.6: 1000×0.15 + 200×0.6 = 270.
		{"together/chat.json", "openai/gpt-oss-120b", Usage{1000, none, none, none, 200, none}, 270_000},
		{"together/chat.sse", "openai/gpt-oss-120b", Usage{1000, none, none, none, 200, none}, 270_000},
		// kimi-k3 at Fireworks 3, cached 0.3, 15: 400×3 + 600×0.3 + 100×15 = 2880.
		{"fireworks/chat.json", "accounts/fireworks/models/kimi-k3", Usage{1000, 600, none, none, 100, none}, 2_880_000},
		{"fireworks/chat.sse", "accounts/fireworks/models/kimi-k3", Usage{1000, 600, none, none, 100, none}, 2_880_000},
		// Its requests are refused: it searches. What it reports is read all the same.
		{"perplexity/chat.json", "sonar", Usage{14, none, none, none, 60, none}, 74_000},
		{"ollama/api-chat.json", "llama3.2", Usage{26, none, none, none, 298, none}, none},
		{"ollama/api-chat.ndjson", "llama3.2", Usage{26, none, none, none, 298, none}, none},
		{"ollama/api-generate.ndjson", "llama3.2", Usage{26, none, none, none, 298, none}, none},
		{"ollama/api-embed.json", "all-minilm", Usage{8, none, none, none, 0, none}, none},
		{"ollama/chat.sse", "llama3.2", Usage{26, none, none, none, 298, none}, none},
	} {
		seen[test.file] = true
		answer, err := os.ReadFile(filepath.Join("testdata", "answers", filepath.FromSlash(test.file)))
		if err != nil {
			t.Error(err)
			continue
		}
		vendor, _, _ := strings.Cut(test.file, "/")
		stream := !strings.HasSuffix(test.file, ".json")
		for _, n := range []int{1, 100, 1 << 20} {
			m := preset(t, vendor).Meter(stream)
			m.Embeds = strings.Contains(test.file, "embed")
			for rest := answer; len(rest) > 0; {
				k := min(n, len(rest))
				m.Write(rest[:k])
				rest = rest[k:]
			}
			m.Close()
			if got := m.Usage(); got != test.want {
				t.Errorf("%s, by %d bytes: %+v, want %+v", test.file, n, got, test.want)
			}
			if m.Usage().Known() != m.Final() {
				t.Errorf("%s, by %d bytes: known %v, final %v", test.file, n, m.Usage().Known(), m.Final())
			}
			if n > 1000 && stream && vendor != "gemini" && !m.Ended() {
				t.Errorf("%s: not seen to have ended", test.file)
			}
		}
		if test.nano == none {
			continue
		}
		price, ok := BuiltInPrices().Find(vendor, test.model, pricedAt)
		if !ok {
			t.Errorf("%s: %s has no price", test.file, test.model)
		} else if got := price.Cost(test.want, 1000); got != test.nano {
			t.Errorf("%s: %d nano-dollars, want %d", test.file, got, test.nano)
		}
	}
	files, err := filepath.Glob("testdata/answers/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name, _ := filepath.Rel("testdata/answers", file)
		if !seen[filepath.ToSlash(name)] {
			t.Errorf("nobody reads %s", file)
		}
	}
}

// TestAStreamThatWasCutIsNotMeasured: wherever a stream is cut, nothing that it
// reported before is taken for the whole.
func TestAStreamThatWasCutIsNotMeasured(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"openai/chat.sse", "openai/responses.sse", "anthropic/messages.sse", "cohere/chat.sse", "groq/chat.sse", "ollama/api-chat.ndjson"} {
		answer, err := os.ReadFile(filepath.Join("testdata", "answers", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		vendor, _, _ := strings.Cut(file, "/")
		whole := preset(t, vendor).Meter(true)
		whole.Write(answer)
		whole.Close()
		for n := range len(answer) - 1 {
			m := preset(t, vendor).Meter(true)
			m.Write(answer[:n])
			if m.Ended() && m.Usage() != whole.Usage() {
				t.Errorf("%s, cut after %d of %d bytes: taken for whole with %+v", file, n, len(answer), m.Usage())
			}
		}
	}
}
