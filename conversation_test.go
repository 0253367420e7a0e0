package till

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// TestAConversationIsLearnedFromMeasuredAnswers and from no others.
func TestAConversationIsLearnedFromMeasuredAnswers(t *testing.T) {
	t.Parallel()
	preset, ok := upstream.Lookup("anthropic")
	if !ok {
		t.Fatal("no preset")
	}
	text := strings.Repeat("What is said and said again. ", 400)
	body := []byte(`{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"` + text + `"}]}`)
	const begins = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m-1\",\"usage\":{\"input_tokens\":20,\"cache_read_input_tokens\":2000,\"cache_creation_input_tokens\":480,\"output_tokens\":1}}}\n\n"
	const ends = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	const guess = "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m-1\",\"usage\":{\"input_tokens\":2500,\"output_tokens\":0}}}\n\n"
	const repeats = "data: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":2500,\"output_tokens\":9}}\n\ndata: {\"type\":\"message_stop\"}\n\n"
	for _, test := range []struct {
		name, stream string
		status       int
		whole, known bool
	}{
		{"the whole answer", begins + ends, 200, true, true},
		{"left after its end", begins + ends, 200, false, true},
		{"left before it", begins, 200, false, false},
		{"a refusal", begins + ends, 400, true, false},
		{"an error before the end", begins + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n" + ends, 200, true, false},
		{"an estimate that the end repeats", guess + repeats, 200, true, true},
		{"an estimate above what the end says", guess + strings.Replace(repeats, "2500", "2400", 1), 200, true, false},
		{"an estimate that nothing repeats", guess + ends, 200, true, false},
		{"nothing reported", "data: {}\n\n", 200, true, false},
	} {
		memory := upstream.NewMemory(func(x upstream.Excess) { t.Errorf("%s: %+v", test.name, x) })
		ask := func() *usage {
			call := &upstream.Call{Method: "POST", Path: "/v1/messages", ContentType: "application/json", Body: body}
			e, err := preset.Estimate(call)
			if err != nil {
				t.Fatal(err)
			}
			return &usage{estimate: e, input: e.Input, natural: 100, output: -1, memory: memory, recall: memory.Recall("key", "u", preset, call, e), meter: preset.Meter(true), readToEnd: test.whole}
		}
		u := ask()
		u.meter.Write([]byte(test.stream))
		u.meter.Close()
		u.charge(test.status)
		again := ask().recall
		if known := again.Input >= 2500; known != test.known || known && again.Input > 2700 {
			t.Errorf("%s: %d tokens are foretold", test.name, again.Input)
		}
	}
}
