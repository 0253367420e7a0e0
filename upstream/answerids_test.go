package upstream

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A responses request and its answer, as OpenAI's description has them
// (openai-openapi: ReasoningItem, ItemReferenceParam, Response, and the examples of
// its streams).
const (
	givenAnswer = `{"id":"resp_1","object":"response","status":"completed","model":"gpt-5.5-2026-04-23","output":[` +
		`{"id":"rs_1","type":"reasoning","summary":[]},` +
		`{"id":"fc_1","type":"function_call","status":"completed","arguments":"{\"id\":\"fc_9\"}","call_id":"call_1","name":"f"},` +
		`{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"{\"output\":[{\"id\":\"msg_9\"}]}","annotations":[{"id":"x"}]}]}],` +
		`"tools":[{"id":"t","output":[{"id":"msg_8"}]}],"metadata":{"id":"rs_7","output":[{"id":"rs_8"}]},"usage":{"input_tokens":1000,"output_tokens":300,"total_tokens":1300}}`
	givenEvents = "event: response.created\n" + `data: {"type":"response.created","response":{"id":"resp_1","model":"gpt-5.5-2026-04-23","output":[],"usage":null}}` + "\n\n" +
		`data: {"type":"response.output_item.added","output_index":0,"item":{"id":"rs_1","type":"reasoning","summary":[]}}` + "\n\n" +
		`data: {"type":"response.output_item.done","output_index":0,"item":{"id":"rs_1","type":"reasoning","summary":[]}}` + "\n\n" +
		`data: {"type":"response.output_item.done","output_index":1,"item":{"type":"function_call","id":"fc_1","arguments":"{}"}}` + "\n\n" +
		`data: {"type":"response.output_text.delta","item_id":"msg_1","delta":"hi"}` + "\n\n" +
		`data: {"type":"response.output_text.delta","item_id":"msg_1","delta":"ho"}` + "\n\n" +
		`data: {"type":"response.output_item.done","output_index":2,"item":{"type":"message","content":[{"type":"output_text","text":"hi ho"}],"id":"msg_1"}}` + "\n\n" +
		`data: {"type":"response.completed","response":{"id":"resp_1","model":"gpt-5.5-2026-04-23","output":[],"usage":{"input_tokens":1000,"output_tokens":300,"total_tokens":1300}}}` + "\n\n"
)

// reads lets a Meter read an answer in pieces.
func reads(answer string, stream bool, piece int) *Meter {
	m := NewMeter(stream)
	m.WantIDs()
	for len(answer) > 0 {
		n := min(piece, len(answer))
		m.Write([]byte(answer[:n]))
		answer = answer[n:]
	}
	m.Close()
	return m
}

func TestAnAnswersIDsAreReadAsItPasses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, answer string
		items        string
		response     string
		bounded      bool // by its output
	}{
		{"plain", givenAnswer, "rs_1 fc_1 msg_1", "resp_1", true},
		{"streamed", givenEvents, "rs_1 fc_1 msg_1", "resp_1", true},
		{"an item without a name", `{"id":"resp_1","output":[{"type":"message"}],"usage":{"input_tokens":1,"output_tokens":1}}`, "", "resp_1", false},
		{"an item of two names", `{"id":"resp_1","output":[{"id":"rs_1","id":"rs_2"}],"usage":{"input_tokens":1,"output_tokens":1}}`, "rs_1 rs_2", "resp_1", false},
		{"an answer of two names", `{"id":"resp_1","id":"resp_2","output":[],"usage":{"input_tokens":1,"output_tokens":1}}`, "", "resp_1", false},
		{"a name that is no vendor's", `{"id":"resp_1","output":[{"id":"rs_` + strings.Repeat("1", 200) + `"}],"usage":{"input_tokens":1,"output_tokens":1}}`, "", "resp_1", false},
		{"a name of names", `{"id":{"id":"resp_1"},"output":[{"id":["rs_1"]}],"usage":{"input_tokens":1,"output_tokens":1}}`, "", "", false},
		{"escaped", `{"\u0069d":"resp\u005f1","output":[{"id":"rs\u005f1"}],"usage":{"input_tokens":1,"output_tokens":1}}`, "rs_1", "resp_1", true},
	} {
		for _, piece := range []int{1, 3, 17, 1 << 20} {
			m := reads(test.answer, strings.HasPrefix(test.answer, "event"), piece)
			g := m.IDs()
			bounded := !g.strange && g.opened == g.named
			if got := strings.Join(g.items, " "); got != test.items || g.response != test.response || bounded != test.bounded {
				t.Errorf("%s, in pieces of %d: %+v", test.name, piece, g)
			}
			if !m.Whole() {
				t.Errorf("%s, in pieces of %d: its end was not seen", test.name, piece)
			}
		}
	}
	if m := NewMeter(false); true {
		m.Write([]byte(givenAnswer))
		if m.IDs() != nil {
			t.Error("names are noted though nobody wants them")
		}
	}
}

// TestAnAnswerIsWholeBeforeItsClientKnows: only a line end may come after the report,
// and the client does not wait for that.
func TestAnAnswerIsWholeBeforeItsClientKnows(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{givenAnswer, givenEvents} {
		m := NewMeter(answer == givenEvents)
		m.WantIDs()
		body := strings.TrimRight(answer, "\n")
		for i := range body {
			if m.Whole() {
				t.Fatalf("it is whole at %q", body[:i])
			}
			m.Write([]byte(body[i : i+1]))
		}
		if !m.Whole() {
			t.Errorf("it is not whole at its end: %.40s", answer)
		}
	}
}

// TestAnswersAreBoundedWhateverIdsTheyHave: servers that people run may give each
// answer the same ids.
func TestAnswersAreBoundedWhateverIdsTheyHave(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory(func(Excess) {})
		ids := rapid.SliceOfN(rapid.SampledFrom([]string{"rs_1", "rs_2", "msg_1", "msg_2", "fc_1"}), 1, 4)
		for range rapid.IntRange(1, 60).Draw(t, "answers") {
			key := rapid.SampledFrom([]string{"key_1", "key_2"}).Draw(t, "key")
			m.note(key, &answer{ids: ids.Draw(t, "ids"), output: 1, given: m.now()})
		}
		total := 0
		for key, at := range m.answers.keys {
			known := at.Value.(*keyAnswers)
			total += len(known.byID)
			if len(known.all) > len(known.byID) {
				t.Fatalf("%s: %d answers for %d ids", key, len(known.all), len(known.byID))
			}
			for _, a := range known.byID {
				if !slices.Contains(known.all, a) {
					t.Fatalf("%s: an answer would never be dropped", key)
				}
			}
		}
		if total != m.answers.total {
			t.Fatalf("%d ids, and %d are counted", total, m.answers.total)
		}
	})
}

func FuzzAnswerIDs(f *testing.F) {
	for _, s := range []string{givenAnswer, givenEvents, `{"output":[[{"id":"x"}],{"id":"\ud800"}]}`, `[{"id":"a"}]`, `{"response":{"output":{"id":"x"}}}`, `{"item":[{"id":"x"}]}`} {
		f.Add(s, 3, false)
	}
	f.Fuzz(func(t *testing.T, answer string, piece int, stream bool) {
		piece = max(piece, 1)
		m := reads(answer, stream, piece)
		g := m.IDs()
		if len(g.items) > maxGiven || slices.ContainsFunc(g.items, func(id string) bool { return len(id) > maxStoredID || id == "" }) || len(g.response) > maxStoredID {
			t.Fatalf("%+v", g)
		}
		whole := reads(answer, stream, len(answer)+1).IDs()
		if !slices.Equal(whole.items, g.items) || whole.response != g.response || whole.strange != g.strange || whole.opened != g.opened {
			t.Fatalf("in pieces %+v, at once %+v", g, whole)
		}
		// JSON of the documented form must yield exactly the ids at their places.
		var doc struct {
			ID     *string `json:"id"`
			Output []struct {
				ID *string `json:"id"`
			} `json:"output"`
		}
		var any map[string]json.RawMessage
		if stream || json.Unmarshal([]byte(answer), &any) != nil || json.Unmarshal([]byte(answer), &doc) != nil {
			return
		}
		for _, item := range doc.Output {
			if item.ID == nil || *item.ID == "" || len(*item.ID) > maxStoredID || strings.ContainsRune(*item.ID, '\ufffd') || any["output"] == nil {
				return
			}
			if !slices.Contains(g.items, *item.ID) && !g.strange && g.opened == g.named {
				t.Fatalf("%q is missing of %+v", *item.ID, g)
			}
		}
	})
}
