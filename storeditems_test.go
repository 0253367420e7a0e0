package till

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// responsesUse returns a request at OpenAI's Responses API that is bounded but not
// sent.
func responsesUse(t *testing.T, memory *upstream.Memory, key, members string) *usage {
	t.Helper()
	preset, ok := upstream.Lookup("openai")
	if !ok {
		t.Fatal("no preset")
	}
	e, err := preset.Estimate(&upstream.Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(`{"model":"gpt-5.5","max_output_tokens":2000,` + members + `}`)})
	if err != nil {
		t.Fatal(err)
	}
	u := &usage{estimate: e, natural: 2000, output: -1, memory: memory, earlier: memory.Earlier(key, "u", preset, e), mayFit: true}
	price, ok := upstream.BuiltInPrices().Find("openai", "gpt-5.5", time.Now())
	if !ok {
		t.Fatal("no price")
	}
	u.price = price
	if u.stored, ok = u.earlier.Bound(e.Input, price, upstream.BuiltInPrices().LongestOutput("openai")); !ok {
		t.Fatal("no bound")
	}
	u.input, u.widest = u.stored, u.stored
	return u
}

// TestWhatAnAnswerGaveIsKnownBeforeItsClientHasIt: an agent sends its next request as
// soon as it has the last byte that it needs, and then the ids in it must be known.
func TestWhatAnAnswerGaveIsKnownBeforeItsClientHasIt(t *testing.T) {
	t.Parallel()
	preset, _ := upstream.Lookup("openai")
	const answer = `{"id":"resp_1","model":"gpt-5.5-1","output":[{"id":"rs_1","type":"reasoning"}],"usage":{"input_tokens":30,"output_tokens":500}}`
	const events = "data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"gpt-5.5-1\"}}\n\ndata: {\"type\":\"response.output_item.done\",\"item\":{\"id\":\"rs_1\"}}\n\n" +
		"data: {\"type\":\"response.completed\",\"response\":" + answer + "}"
	for _, test := range []struct {
		name, body string
		status     int
		read       int   // of the body, in bytes, until its client goes away
		least      int64 // tokens of its thoughts afterwards
		goesOn     bool  // from the answer itself
	}{
		{"plain", answer, 200, len(answer), 500, true},
		{"streamed", events, 200, len(events), 500, true},
		{"left before the report", events, 200, len(events) - 40, 2000, false},
		{"left at once", events, 200, 10, 0, false},
		{"a refusal", answer, 400, len(answer), 0, false},
		{"an error", strings.Replace(answer, `"output"`, `"error":{"code":"x"},"output"`, 1), 200, len(answer), 2000, false},
	} {
		memory := upstream.NewMemory(func(x upstream.Excess) { t.Errorf("%s: %+v", test.name, x) })
		u := responsesUse(t, memory, "k", `"input":"hi"`)
		res := &http.Response{StatusCode: test.status, Header: http.Header{}, Body: io.NopCloser(iotest.OneByteReader(strings.NewReader(test.body)))}
		u.meterAnswer(res, preset, test.body == events)
		if _, err := io.ReadFull(res.Body, make([]byte, test.read)); err != nil {
			t.Fatal(err)
		}
		if test.goesOn != u.remembered {
			t.Errorf("%s: is it known before the client can ask again? %v", test.name, u.remembered)
		}
		u.charge(test.status)
		again := responsesUse(t, memory, "k", `"input":[{"type":"reasoning","id":"rs_1"}]`)
		n := again.stored - again.estimate.Input
		if known := again.earlier.Seen(); known != (test.least > 0) || known && (n < test.least || n > test.least+test.least/8+64) {
			t.Errorf("%s: the thoughts have %d tokens, %v", test.name, n, known)
		}
		if on := responsesUse(t, memory, "k", `"input":"go on","previous_response_id":"resp_1"`); on.earlier.Seen() != test.goesOn {
			t.Errorf("%s: what goes on from it is bounded: %v", test.name, on.earlier.Seen())
		}
	}
}

func TestARefusalSaysWhatMakesTheRequestLarge(t *testing.T) {
	t.Parallel()
	memory := upstream.NewMemory(func(x upstream.Excess) { t.Errorf("%+v", x) })
	u := responsesUse(t, memory, "k", `"input":"hi"`)
	u.meter = upstream.NewMeter(false)
	u.meter.WantIDs()
	u.meter.Write([]byte(`{"id":"resp_1","model":"gpt-5.5-1","output":[{"id":"rs_1"}],"usage":{"input_tokens":30,"output_tokens":1500}}`))
	u.charge(200)
	if !u.remembered {
		t.Fatal("nothing was learned")
	}
	for _, test := range []struct {
		name, members string
		fitted        bool
		want          string // in the advice; "" for a shorter answer
	}{
		{"text", `"input":"hi"`, true, ""},
		{"thoughts of nobody", `"input":[{"type":"reasoning","id":"rs_9"}]`, true, `input[0] (reasoning "rs_9")`},
		{"thoughts of nobody, and an answer that is not fitted", `"input":[{"type":"reasoning","id":"rs_9"}]`, false, `input[0] (reasoning "rs_9")`},
		{"thoughts that are known", `"input":[{"type":"reasoning","id":"rs_1"}]`, true, `input[0] (reasoning "rs_1")`},
		{"thoughts that are shorter than the answer", `"input":[{"type":"reasoning","id":"rs_1"}]`, false, ""},
		{"the one that is most", `"input":[{"type":"reasoning","id":"rs_1"},{"type":"reasoning","id":"rs_9"},{"type":"item_reference","id":"msg_9"}]`, true, `input[2] (item_reference "msg_9")`},
	} {
		u := responsesUse(t, memory, "k", test.members)
		u.mayFit = test.fitted
		if help := u.help(); (help == "") != (test.want == "") || !strings.Contains(help, test.want) {
			t.Errorf("%s: %q", test.name, help)
		}
		u.priced, u.maxSpend = true, 1
		if refusal := u.boundToRequestSpend(&record.Key{ID: "k"}); refusal == nil || strings.Contains(refusal.Message, limiter.LowerMaxTokens) != (test.want == "") {
			t.Errorf("%s: %+v", test.name, refusal)
		}
	}
}
