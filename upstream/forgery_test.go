package upstream

import (
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// forged are parts of what a client may let a model say, or have echoed, so that
// it looks like an answer that says what was used.
var forged = []string{
	"data: [DONE]\n\n", "data:[DONE]", "[DONE]", "\n\n", "\r\r", "\r", "\n", "\u2028", "\"", "\\", "\\\"", "}", "]}", "{", "[", "\ufeff", ": ", "event: error\n",
	`{"usage":{"prompt_tokens":1,"completion_tokens":1}}`, `"usage":{"prompt_tokens":1,"completion_tokens":1,"cost":0},`, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n",
	`{"error":{"code":502}}`, `"error":"x"`, `"finish_reason":"error"`, "data: {\"error\":{\"code\":502},\"choices\":[]}\n\n", `{"type":"message_stop"}`, `"type":"response.completed"`,
	`"service_tier":"flex"`, `"inference_geo":"global"`, `"model":"gpt-5-nano"`, `"eval_count":1,"prompt_eval_count":1`, `"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":1}`,
}

// TestNothingThatAModelSaysIsTakenForWhatItsAPISays: whatever an answer's texts and
// the arguments of its tool calls contain, however it is escaped and divided, the
// answer is charged as if they were harmless, and the client receives all of it.
func TestNothingThatAModelSaysIsTakenForWhatItsAPISays(t *testing.T) {
	t.Parallel()
	const object = `{"usage":{"prompt_tokens":1,"completion_tokens":1},"error":{"code":502},"message":{"usage":{"input_tokens":1,"output_tokens":1}},"finish_reason":"error","eval_count":1,"prompt_eval_count":1,"type":"message_stop","model":"gpt-5-nano","service_tier":"flex","meta":{"billed_units":{"input_tokens":1,"output_tokens":1}},"embedding":[],"x":TEXT}`
	for name, test := range map[string]struct {
		stream bool
		answer string
	}{
		"OpenAI":            {false, `{"model":"m","choices":[{"message":{"content":TEXT,"tool_calls":[{"function":{"name":TEXT,"arguments":TEXT}}]},"finish_reason":"stop"}],"metadata":{"usage":TEXT,"error":TEXT},"usage":{"prompt_tokens":70,"completion_tokens":90000}}`},
		"OpenAI, streamed":  {true, "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":TEXT}}],\"usage\":null}\n\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":TEXT}}]}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":70,\"completion_tokens\":90000}}\n\ndata: [DONE]\n\n"},
		"OpenAI, cut":       {true, "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":TEXT}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":TEXT}}]}\n\n"},
		"carriage returns":  {true, "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":TEXT}}]}\r\rdata: {\"choices\":[],\rdata: \"usage\":{\"prompt_tokens\":70,\"completion_tokens\":90000}}\r\rdata: [DONE]\r\r"},
		"Responses":         {true, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":TEXT}\n\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"m\",\"instructions\":TEXT,\"metadata\":{\"usage\":TEXT},\"user\":TEXT,\"tools\":[{\"parameters\":OBJECT}],\"output\":[{\"content\":[{\"text\":TEXT}]},{\"arguments\":TEXT}],\"usage\":{\"input_tokens\":70,\"output_tokens\":90000}}}\n\n"},
		"Anthropic":         {false, `{"type":"message","model":"m","content":[{"type":"text","text":TEXT},{"type":"tool_use","name":TEXT,"input":OBJECT}],"stop_sequence":TEXT,"usage":{"input_tokens":70,"output_tokens":90000}}`},
		"Anthropic, stream": {true, "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":70,\"output_tokens\":1}}}\n\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\",\"input\":OBJECT}}\n\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":TEXT}}\n\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":90000}}\n\ndata: {\"type\":\"message_stop\"   }\n\n"},
		"Gemini":            {true, "[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":TEXT},{\"functionCall\":{\"args\":OBJECT}}]}}],\"modelVersion\":\"m\"},\n{\"usageMetadata\":{\"promptTokenCount\":70,\"candidatesTokenCount\":90000}}]"},
		"Ollama":            {true, "{\"model\":\"m\",\"message\":{\"content\":TEXT,\"tool_calls\":[{\"function\":{\"arguments\":OBJECT}}]},\"done\":false}\n{\"model\":\"m\",\"message\":{\"content\":\"\"},\"done\":true,\"prompt_eval_count\":70,\"eval_count\":90000}\n"},
		"Cohere":            {true, "data: {\"type\":\"content-delta\",\"delta\":{\"message\":{\"content\":{\"text\":TEXT}}}}\n\ndata: {\"type\":\"tool-call-delta\",\"delta\":{\"message\":{\"tool_calls\":{\"function\":{\"arguments\":TEXT}}}}}\n\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"COMPLETE\",\"usage\":{\"billed_units\":{\"input_tokens\":70,\"output_tokens\":90000}}}}\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				said := strings.Join(rapid.SliceOfN(rapid.SampledFrom(forged), 0, 8).Draw(t, "said"), "")
				text := escaped(said, rapid.SampledFrom([]int{0, 30, 100}).Draw(t, "escapes"))
				fill := func(object, text string) string {
					return strings.ReplaceAll(strings.ReplaceAll(test.answer, "OBJECT", object), "TEXT", text)
				}
				n := rapid.IntRange(1, 40).Draw(t, "pieces")
				for _, insured := range []bool{false, true} {
					read := func(answer string, hide bool) (*Meter, string) {
						m := NewMeter(test.stream)
						m.insured = insured
						if !hide {
							m.feed(answer, n)
							return m, ""
						}
						body, err := io.ReadAll(m.Hide(io.NopCloser(pieces{strings.NewReader(answer), n})))
						if err != nil {
							t.Fatal(err)
						}
						m.Close()
						return m, string(body)
					}
					want, _ := read(fill(`{"a":"b"}`, `"Some words."`), false)
					answer := fill(object, text)
					for _, hide := range []bool{false, true} {
						got, passed := read(answer, hide)
						if got.usage != want.usage || got.Final() != want.Final() || got.Ended() != want.Ended() || got.Forgiven() != want.Forgiven() || got.Failed() != want.Failed() ||
							got.Model() != want.Model() || got.Tier() != want.Tier() || got.Region() != want.Region() {
							t.Fatalf("%s\nhidden %v: %+v, final %v, ended %v, failed %v, model %q; want %+v", answer, hide, got.usage, got.Final(), got.Ended(), got.Failed(), got.Model(), want.usage)
						}
						if hide && strings.Count(passed, text) != strings.Count(answer, text) {
							t.Fatalf("%s\nits client got %s", answer, passed)
						}
					}
				}
			})
		})
	}
}
