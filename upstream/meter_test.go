package upstream

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// metering feeds an answer to a meter in pieces of n bytes.
func metering(answer string, stream bool, n int) *Meter {
	m := NewMeter(stream)
	m.feed(answer, n)
	return m
}

func (m *Meter) feed(answer string, n int) {
	for b := []byte(answer); len(b) > 0; {
		k := min(n, len(b))
		m.Write(b[:k])
		b = b[k:]
	}
	m.Close()
}

// metered is what that said.
func metered(answer string, stream bool, n int) Usage { return metering(answer, stream, n).Usage() }

func TestUsageIsFoundWhereverAVendorPutsIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, answer string
		stream       bool
		want         Usage
	}{
		{"OpenAI", `{"id":"x","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":3}}}`, false,
			Usage{10, 4, 2, -1, 5, -1}},
		{"OpenAI, streamed", "data: {\"choices\":[{}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\ndata: [DONE]\n\n", true, Usage{10, -1, -1, -1, 5, -1}},
		{"Responses", `{"object":"response","output":[{"usage":{"input_tokens":99}}],"usage":{"input_tokens":10,"output_tokens":5,"input_tokens_details":{"cached_tokens":4}}}`, false, Usage{10, 4, -1, -1, 5, -1}},
		{"Responses, streamed", "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":10,\"output_tokens\":5}}}\n\n", true, Usage{10, -1, -1, -1, 5, -1}},
		{"Anthropic", `{"type":"message","usage":{"input_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":30,"cache_creation":{"ephemeral_5m_input_tokens":15,"ephemeral_1h_input_tokens":5},"output_tokens":7}}`, false, Usage{60, 30, 20, 5, 7, -1}},
		{"Anthropic, streamed: counts are cumulative", "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":30,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":4}}\n\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\n", true, Usage{40, 30, 0, -1, 9, -1}},
		{"Gemini counts thoughts beside the rest", `{"candidates":[],"usageMetadata":{"promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":5,"thoughtsTokenCount":6,"toolUsePromptTokenCount":2,"totalTokenCount":23}}`, false, Usage{12, 4, -1, -1, 11, -1}},
		{"Gemini, streamed", "data: {\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":1}}\r\n\r\ndata: {\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":5}}\r\n\r\n", true, Usage{10, -1, -1, -1, 5, -1}},
		{"Gemini, as a list", `[{"candidates":[{"usageMetadata":{"promptTokenCount":77}}],"usageMetadata":{"promptTokenCount":10}},{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":5}}]`, false, Usage{10, -1, -1, -1, 5, -1}},
		{"xAI leaves reasoning out of the parts", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":40,"cost_in_usd_ticks":12345678901}}`, false, Usage{10, -1, -1, -1, 30, 1234567891}},
		{"OpenRouter says the cost", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":0.00012}}`, false, Usage{10, -1, -1, -1, 5, 120000}},
		{"Groq, streamed", "data: {\"x_groq\":{\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}}\n\n", true, Usage{10, -1, -1, -1, 5, -1}},
		{"Cohere", `{"message":{"content":[]},"usage":{"billed_units":{"input_tokens":10,"output_tokens":5},"tokens":{"input_tokens":80,"output_tokens":9}}}`, false, Usage{10, -1, -1, -1, 5, -1}},
		{"Cohere, streamed", "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"usage\":{\"billed_units\":{\"input_tokens\":10,\"output_tokens\":5}}}}\n\n", true, Usage{10, -1, -1, -1, 5, -1}},
		{"Cohere's embeddings", `{"embeddings":[],"meta":{"api_version":{"version":"2"},"billed_units":{"input_tokens":10}}}`, false, Usage{10, -1, -1, -1, 0, -1}},
		{"embeddings", `{"data":[],"usage":{"prompt_tokens":10,"total_tokens":10}}`, false, Usage{10, -1, -1, -1, 0, -1}},
		{"DeepSeek", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":2}}`, false, Usage{10, 8, -1, -1, 5, -1}},
		{"Ollama, streamed", "{\"response\":\"a\"}\n{\"done\":true,\"prompt_eval_count\":10,\"eval_count\":5}\n", true, Usage{10, -1, -1, -1, 5, -1}},
		{"OpenRouter with a key of one's own", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":1.5}}}`, false, Usage{10, -1, -1, -1, 5, 1_500_000_000}},
		{"OpenRouter with both", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":1.5,"cost_details":{"upstream_inference_cost":1.5}}}`, false, Usage{10, -1, -1, -1, 5, 1_500_000_000}},
		// Gateways that add a cost of their own leave the one that was there.
		{"OpenRouter with two costs", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":1.5,"cost":0.25}}`, false, Usage{10, -1, -1, -1, 5, 1_500_000_000}},
		{"OpenRouter with two costs, of which one is whole", `{"usage":{"cost":2,"prompt_tokens":10,"completion_tokens":5,"cost":0.25}}`, false, Usage{10, -1, -1, -1, 5, 2_000_000_000}},
		{"OpenRouter with two costs of the provider's", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":1.5,"upstream_inference_cost":0.1}}}`, false, Usage{10, -1, -1, -1, 5, 1_500_000_000}},
		{"xAI with two costs", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost_in_usd_ticks":20,"cost_in_usd_ticks":10}}`, false, Usage{10, -1, -1, -1, 5, 2}},
		{"OpenRouter with a key of somebody's", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":0.1,"is_byok":true,"is_byok":false}}`, false, Usage{10, -1, -1, -1, 5, 100_000_000}},
		{"a count that is a truth", `{"usage":{"prompt_tokens":true,"completion_tokens":5}}`, false, Usage{-1, -1, -1, -1, 5, -1}},
		{"a cost that is a truth", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":true}}`, false, Usage{10, -1, -1, -1, 5, -1}},
		{"what the client sent", `{"metadata":{"usage":{"prompt_tokens":1,"completion_tokens":1}},"choices":[]}`, false, unreported},
		{"none", `{"choices":[]}`, false, unreported},
		{"no JSON", `usage: {"prompt_tokens":10}`, false, unreported},
		{"below zero", `{"usage":{"prompt_tokens":-10,"completion_tokens":5}}`, false, Usage{-1, -1, -1, -1, 5, -1}},
		{"cut off", `{"usage":{"prompt_tokens":10,"completion_tokens":5}`, false, Usage{10, -1, -1, -1, 5, -1}},
		{"cut off before", `{"usage":{"prompt_tokens":10,"completion_tok`, false, unreported},
		{"an event that is cut off", "data: {\"usage\":{\"prompt_tokens\":10", true, unreported},
		{"a very long value", `{"x":"` + strings.Repeat("y", 3<<20) + `","usage":{"prompt_tokens":10,"completion_tokens":5}}`, false, Usage{10, -1, -1, -1, 5, -1}},
		{"a very long line", "data: {\"x\":\"" + strings.Repeat("y", 3<<20) + "\"}\n\ndata: {\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\n", true, Usage{10, -1, -1, -1, 5, -1}},
	} {
		for _, n := range []int{1, 7, 4096, 1 << 30} {
			if n == 1 && len(test.answer) > 1<<20 {
				continue
			}
			if got := metered(test.answer, test.stream, n); got != test.want {
				t.Errorf("%s, by %d bytes: %+v, want %+v", test.name, n, got, test.want)
			}
		}
	}
}

// FuzzMeter compares the piecewise reader with encoding/json on whole texts, and
// checks that its result does not depend on how an answer is divided.
func FuzzMeter(f *testing.F) {
	f.Add(`{"usage":{"prompt_tokens":10,"completion_tokens":5}}`, 1)
	f.Add("{\"choices\":[{\"message\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5},\"x\":[{}]}", 5)
	f.Add(`[{"a":{"usage":{}}},{"usage":{"prompt_tokens":1,"completion_tokens":2}}]`, 3)
	f.Add(`{"a\"":"{","usage":{"input_tokens":3,"output_tokens":4},"b":[{}]}`, 2)
	f.Add("\ufeffevent: x\r\ndata: {\"content\":\"\\u00e9\\n\",\r\ndata:\"usage\":{\"prompt_tokens\":1}}\r\n\r\ndata:[DONE]\r", 4)
	f.Add("data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10}}}\n\ndata: {\"cut\n\ndata: {\"type\":\"message_stop\"  }\n", 7)
	f.Add("{\"error\":\"x\"}\n{\"eval_count\": 5, \"prompt_eval_count\": 3}\n", 3)
	f.Fuzz(func(t *testing.T, text string, n int) {
		n = 1 + max(n, 0)%64
		got := metering(text, false, n).usage
		for _, stream := range []bool{false, true} {
			a, b := metering(text, stream, n), metering(text, stream, len(text)+1)
			if a.Usage() != b.Usage() || a.Final() != b.Final() || a.Ended() != b.Ended() || a.wrote != b.wrote || a.failed != b.failed || a.Model() != b.Model() || a.Tier() != b.Tier() {
				t.Fatalf("%q: %+v by %d bytes, %+v at once", text, a, n, b)
			}
			if a.wrote < 0 || a.wrote > int64(len(text)) || cap(a.scan.kept) > 2*maxCaught {
				t.Fatalf("%q: %d characters, %d bytes kept", text, a.wrote, cap(a.scan.kept))
			}
			if a.wrote > 0 && a.Usage().Output == 0 {
				t.Fatalf("%q: text out of nothing is believed", text)
			}
		}
		// Where encoding/json reads one usage of two numbers, and nothing else may
		// be taken for it, so does the meter.
		if !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") || strings.ContainsRune(text, '\\') || strings.Count(text, `"usage"`) != 1 || strings.Count(text, `"prompt_tokens"`) != 1 || strings.Count(text, `"completion_tokens"`) != 1 {
			return
		}
		var answer map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &answer) != nil {
			return
		}
		for _, holder := range []string{"usageMetadata", "message", "response", "x_groq", "meta", "delta", "interaction", "choices", "embedding", "embeddings", "eval_count", "prompt_eval_count"} {
			if answer[holder] != nil {
				return
			}
		}
		var usage map[string]json.RawMessage
		if json.Unmarshal(answer["usage"], &usage) != nil || len(usage) != 2 {
			return
		}
		in, err1 := strconv.ParseInt(string(usage["prompt_tokens"]), 10, 64)
		out, err2 := strconv.ParseInt(string(usage["completion_tokens"]), 10, 64)
		if err1 != nil || err2 != nil || in < 0 || out < 0 || usage["prompt_tokens"][0] == '-' || usage["completion_tokens"][0] == '-' {
			return
		}
		if got.Input != in || got.Output != out {
			t.Errorf("%q: %+v, and encoding/json reads %d and %d", text, got, in, out)
		}
	})
}

// TestLinesThatAreAlikeAreReadAsIfEachWereAlone, in any order: where they come byte
// by byte, none is recognized as like the one before.
func TestLinesThatAreAlikeAreReadAsIfEachWereAlone(t *testing.T) {
	t.Parallel()
	lines := []string{
		`data: {"model":"a","choices":[{"delta":{"content":"some words"}}]}` + "\n", `data: {"model":"a","choices":[{"delta":{"content":"é"}}]}` + "\n", `data: {"model":"a","choices":[{"delta":{"content":""}}]}` + "\n",
		`data: {"model":"b","choices":[{"delta":{"content":"some words"}}]}` + "\n", `data: {"model":"a","choices":[{"delta":{"content":"a \"quoted\" one\n"}}]}` + "\n", `data: {"model":"a","choices":[{"delta":{"content":"some words"}}]}` + "\r\n",
		`data: {"model":"a","choices":[{"delta":{"content":"some` + "\n" + `data: words"}}]}` + "\n", `data: {"model":"a","choices":[{"delta":{"content":"x","arguments":{}}}]}` + "\n", `data: {"model":"a","choices":[{"delta":{"content":"x"}}]` + "\n", "}\n", `data:}` + "\n",
		`data: {"model":"a","choices":[{"delta":{"content":"x"},"finish_reason":"error"}]}` + "\n", `data: {"content":"x","error":{"code":5}}` + "\n", `data: {"content":"y","error":{"code":5}}` + "\n", `data: {"content":"x","usage":{"prompt_tokens":5,"completion_tokens":7}}` + "\n",
		`data: {"content":"zz","usage":{"prompt_tokens":5,"completion_tokens":7}}` + "\n", `data: {"content":"z","usage":{"prompt_tokens":-1}}` + "\n", `data: {"content":"w","usage":{"prompt_tokens":-1}}` + "\n", "data: [DONE]\n", "event: x\n", "\n", "\r", ": c\n", `data: {"type":"message_stop","text":"x"}` + "\n",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var b strings.Builder
		few := [3]string{}
		for i := range few {
			few[i] = lines[random.IntN(len(lines))]
		}
		for range 1 + random.IntN(8) {
			b.WriteString(few[random.IntN(len(few))])
		}
		whole, single := metering(b.String(), true, b.Len()), metering(b.String(), true, 1)
		if whole.Usage() != single.Usage() || whole.Final() != single.Final() || whole.Ended() != single.Ended() || whole.wrote != single.wrote || whole.failed != single.failed || whole.Model() != single.Model() {
			t.Fatalf("%q: %+v, by single bytes %+v", b.String(), whole, single)
		}
	}
}

func BenchmarkMeter(b *testing.B) {
	event := []byte("data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"some words of an answer\"}}]}\n\n")
	m := NewMeter(true)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		m.Write(event)
	}
}

func TestAMeterLearnsWhichModelAnsweredAndInWhichTier(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, answer string
		stream       bool
		model, tier  string
	}{
		{"OpenAI", `{"id":"x","model":"gpt-5-2025-08-07","choices":[{"model":"no"}],"service_tier":"flex","usage":{"prompt_tokens":1,"completion_tokens":1}}`, false, "gpt-5-2025-08-07", "flex"},
		{"OpenAI, streamed", "data: {\"model\":\"gpt-5\",\"choices\":[{}],\"usage\":null}\n\ndata: {\"model\":\"gpt-5\",\"service_tier\":\"priority\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n", true, "gpt-5", "priority"},
		{"Responses, streamed", "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\",\"service_tier\":\"default\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n", true, "gpt-5", "default"},
		{"Anthropic, streamed", "data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-opus-5\",\"usage\":{\"input_tokens\":1,\"service_tier\":\"standard\"}}}\n\n", true, "claude-opus-5", "standard"},
		{"Gemini", `{"candidates":[],"usageMetadata":{"promptTokenCount":1},"modelVersion":"gemini-2.5-flash"}`, false, "gemini-2.5-flash", ""},
		{"Gemini, as a list", `[{"modelVersion":"a"},{"modelVersion":"gemini-2.5-flash"}]`, false, "gemini-2.5-flash", ""},
		{"no text", `{"model":{"model":"x"},"x":["model","y"]}`, false, "", ""},
		{"too long", `{"model":"` + strings.Repeat("x", 300) + `"}`, false, "", ""},
		{"none", `{"x":"model"}`, false, "", ""},
	} {
		for _, n := range []int{1, 7, 1 << 30} {
			m := NewMeter(test.stream)
			for b := []byte(test.answer); len(b) > 0; {
				k := min(n, len(b))
				m.Write(b[:k])
				b = b[k:]
			}
			m.Close()
			if m.Model() != test.model || m.Tier() != test.tier {
				t.Errorf("%s, by %d bytes: model %q, tier %q", test.name, n, m.Model(), m.Tier())
			}
		}
	}
}

// TestNoReportOfNothingIsBelievedWhereTextPassed takes every answer with text and
// writes 0 for its counts.
func TestNoReportOfNothingIsBelievedWhereTextPassed(t *testing.T) {
	t.Parallel()
	counts := regexp.MustCompile(`(?i)("[a-z0-9_]*(?:tokens?(?:count)?|eval_count)" ?: ?)[0-9.]+`)
	files, err := filepath.Glob("testdata/answers/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		answer, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(file, "embed") {
			continue
		}
		m := metering(counts.ReplaceAllString(string(answer), "${1}0"), !strings.HasSuffix(file, ".json"), 100)
		if u := m.Usage(); u.Input >= 0 || u.Output >= 0 {
			t.Errorf("%s: %+v, %d characters", file, u, m.wrote)
		}
	}
}

// TestInputThatIsNotKnownStaysSo: of several answers, more cached tokens than input may be
// beside it or each answer's, whatever the other reports of a stream leave out.
func TestInputThatIsNotKnownStaysSo(t *testing.T) {
	t.Parallel()
	const (
		text   = `{"choices":[{"delta":{"content":"Some words."}}]}`
		less   = `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}`
		cached = `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":20000}}}`
		wrong  = `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5.5,"prompt_tokens_details":{"cached_tokens":20000}}}`
		apart  = `{"choices":[],"usage":{"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":20000}}}`
		choice = `{"choices":[{"usage":{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":20000}}}]}`
		plain  = `{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}`
		bare   = `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"cached_tokens":20000}}`
	)
	unknown, beside := Usage{-1, -1, -1, -1, 5, -1}, Usage{20_003, 20_000, -1, -1, 5, -1}
	for _, test := range []struct {
		name    string
		reports []string
		several bool
		want    Usage
	}{
		{"alone", []string{cached}, true, unknown},
		{"after a report without them", []string{less, cached}, true, unknown},
		{"before a report without them", []string{cached, less}, true, unknown},
		{"apart from the input", []string{less, apart}, true, unknown},
		{"beside a count that is no number", []string{less, wrong, less}, true, Usage{-1, -1, -1, -1, 1, -1}},
		{"under another name", []string{less, bare}, true, Usage{3, 20_000, -1, -1, 5, -1}},
		{"in a choice, which is one of several", []string{choice, plain}, true, Usage{10, -1, -1, -1, 5, -1}},
		{"one answer", []string{less, cached}, false, beside},
		{"one answer, the other way round", []string{cached, less}, false, beside},
	} {
		stream := "data: " + strings.Join(append([]string{text}, test.reports...), "\n\ndata: ") + "\n\ndata: [DONE]\n\n"
		for _, n := range []int{1, 13, 1 << 30} {
			m := NewMeter(true)
			m.Several = test.several
			m.feed(stream, n)
			if got := m.Usage(); got != test.want {
				t.Errorf("%s, by %d bytes: %+v, want %+v", test.name, n, got, test.want)
			}
		}
	}
}

// TestALongLineIsReadInLittleMemory, whatever its kind.
func TestALongLineIsReadInLittleMemory(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 4<<10)
	for name, parts := range map[string][3]string{
		"a string":        {`data: {"x":"`, long, `","usage":{"prompt_tokens":10,"completion_tokens":5000000}}`},
		"text":            {`data: {"choices":[{"delta":{"content":"`, long, `"}}],"usage":{"prompt_tokens":10,"completion_tokens":5000000}}`},
		"a name":          {`data: {"`, long, `":1,"usage":{"prompt_tokens":10,"completion_tokens":5000000}}`},
		"a model":         {`data: {"model":"`, long, `","usage":{"prompt_tokens":10,"completion_tokens":5000000}}`},
		"numbers":         {`{"embeddings":[`, strings.Repeat("0.25,", 4<<10), `1],"prompt_eval_count":10,"eval_count":5000000}`},
		"a count":         {`{"a":1,"usage":{"prompt_tokens":10,"completion_tokens":5000000},"eval_count":`, strings.Repeat("1", 4<<10), `}`},
		"brackets":        {`{"x":`, strings.Repeat("[", 4<<10), strings.Repeat("]", 400*(4<<10)) + `,"usage":{"prompt_tokens":10,"completion_tokens":5000000}}`},
		"a line of none":  {`event: `, long, "\ndata: {\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5000000}}\n"},
		"blanks before":   {"", strings.Repeat("\n", 4<<10), `{"usage":{"prompt_tokens":10,"completion_tokens":5000000}}`},
		"a usage object":  {`{"usage":{"x":"`, long, `"}}`},
		"blanks in lines": {"data: {\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5000000}}\n", strings.Repeat(" ", 4<<10), "\n"},
	} {
		m := NewMeter(true)
		m.Write([]byte(parts[0]))
		for range 400 {
			m.Write([]byte(parts[1]))
		}
		m.Write([]byte(parts[2]))
		m.Close()
		want := Usage{10, -1, -1, -1, 5_000_000, -1}
		if name == "a usage object" {
			want = unreported
		}
		if got := m.Usage(); got != want || m.Final() != (want != unreported) {
			t.Errorf("%s: %+v, final %v", name, got, m.Final())
		}
		if n := cap(m.scan.kept) + cap(m.head); n > 2*maxCaught {
			t.Errorf("%s: %d bytes are kept", name, n)
		}
	}
}
