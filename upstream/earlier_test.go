package upstream

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

// TestAnAnswerIsWholeBeforeItsClientKnows: what comes after the report may be a line
// end, and the client does not wait for that.
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
			known := at.Value.(*answers)
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
		// Of JSON of the form that is documented, just the ids in their places.
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

func TestWhatARequestNamesIsFound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, body, want string }{
		{"thoughts", `"input":[{"role":"user","content":"x"},{"type":"reasoning","id":"rs_1","summary":[]}]`, `input[1] (reasoning "rs_1")`},
		{"thoughts that are here", `"input":[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gAAA"}]`, ""},
		{"thoughts of nothing", `"input":[{"type":"reasoning","id":"rs_1","encrypted_content":""}]`, `input[0] (reasoning "rs_1")`},
		{"thoughts of null", `"input":[{"encrypted_content":null,"id":"rs_1","type":"reasoning"}]`, `input[0] (reasoning "rs_1")`},
		{"thoughts of two contents", `"input":[{"encrypted_content":"x","encrypted_content":"","id":"rs_1","type":"reasoning"}]`, `input[0] (reasoning "")`},
		{"thoughts without a name", `"input":[{"type":"reasoning","summary":[]}]`, `input[0] (reasoning "")`},
		{"a reference", `"input":[{"type":"item_reference","id":"msg_1"}]`, `input[0] (item_reference "msg_1")`},
		{"a reference without its type", `"input":[{"id":"msg_1"}]`, `input[0] (item_reference "msg_1")`},
		{"a reference of no type", `"input":[{"id":"msg_1","type":null}]`, `input[0] (item_reference "msg_1")`},
		{"a reference of no type, or a message", `"input":[{"type":null,"id":"msg_1","type":"message"}]`, `input[0] (item_reference "msg_1")`},
		{"a reference of two names", `"input":[{"type":"item_reference","id":"msg_1","id":"msg_2"}]`, `input[0] (item_reference "")`},
		{"a message with a name", `"input":[{"id":"msg_1","role":"assistant","content":"x"}]`, ""},
		{"a call with a name", `"input":[{"id":"fc_1","type":"function_call","call_id":"c","name":"f","arguments":"{}"}]`, ""},
		{"escaped", `"input":[{"t\u0079pe":"item\u005freference","i\u0064":"msg\u005f1"}]`, `input[0] (item_reference "msg_1")`},
		{"an answer", `"input":"x","previous_response_id":"resp_1"`, `previous_response_id "resp_1"`},
		{"no answer", `"input":"x","previous_response_id":null,"conversation":null`, ""},
		{"a conversation", `"input":"x","conversation":"conv_1"`, `conversation "conv_1"`},
		{"a conversation in an object", `"input":"x","conversation":{"id":"conv_1"}`, `conversation "conv_1"`},
		{"a conversation that is none", `"input":"x","conversation":[1]`, `conversation ""`},
		{"text that looks so", `"input":"{\"type\":\"item_reference\",\"id\":\"x\"}","instructions":"previous_response_id"`, ""},
		{"what is no name", `"input":[{"type":"item_reference","id":"` + strings.Repeat("a\\n", 90) + `"}]`, `input[0] (item_reference "` + strings.Repeat(`a\n`, 32) + `")`},
	} {
		e, err := estimate(t, "openai", "/v1/responses", `{"model":"m",`+test.body+`}`)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, s := range e.stored {
			got = append(got, s.String())
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func FuzzStoredItems(f *testing.F) {
	for _, s := range []string{`[{"type":"item_reference","id":"x"}]`, `[{"id":"x"},[],1,"",null,{}]`, `[{"type":"reasoning","id":7,"encrypted_content":{}}]`, `[{"type":["reasoning"],"id":null}]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, input string) {
		p, _ := Lookup("openai")
		e, err := p.Estimate(&Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(`{"model":"m","input":` + input + `}`)})
		if err != nil || e == nil {
			return
		}
		var body struct{ Input any }
		if json.Unmarshal([]byte(`{"input":`+input+`}`), &body) != nil {
			return
		}
		list, _ := body.Input.([]any)
		want := 0
		for _, item := range list {
			o, ok := item.(map[string]any)
			if !ok {
				continue
			}
			sealed, _ := o["encrypted_content"].(string)
			if o["type"] == "item_reference" || o["type"] == nil && o["role"] == nil && o["id"] != nil || slices.Contains([]any{"reasoning", "compaction", "context_compaction"}, o["type"]) && sealed == "" {
				want++
			}
		}
		if len(e.stored) < want && len(e.stored) < maxStored { // members that stand twice may name more
			t.Fatalf("%d are named, found %+v", want, e.stored)
		}
		for _, s := range e.stored {
			if len(s.id) > maxStoredID || len(s.String()) > 600 {
				t.Fatalf("%q", s.id)
			}
		}
	})
}

// responses asks at the Responses API, and returns what is known of it.
func (r *remembering) responses(key, upstream, model, members string) (*Earlier, *Estimate) {
	r.t.Helper()
	p := preset(r.t, "openai")
	e, err := p.Estimate(&Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(`{"model":"` + model + `",` + members + `}`)})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.Earlier(key, upstream, p, e), e
}

// gives has a request answered.
func (r *remembering) gives(key, members, answer string) {
	r.t.Helper()
	e, _ := r.responses(key, "u", "gpt-5.5", members)
	m := reads(answer, strings.HasPrefix(answer, "event"), 100)
	u := m.Usage()
	r.Teach(e, m.IDs(), Outcome{Model: m.Model(), Input: u.Input, Output: u.Output, Held: 1 << 40, Final: true})
}

func TestWhatAKeyWasGivenIsBoundedByWhatItsAnswerSaid(t *testing.T) {
	t.Parallel()
	const window, longest = 1_050_000, 272_000 // that of gpt-5-pro: whose thoughts they are is not known
	price, _ := BuiltInPrices().Find("openai", "gpt-5.5", time.Now())
	if price.Context != window || BuiltInPrices().LongestOutput("openai") != longest {
		t.Fatalf("%+v", price)
	}
	const thoughts = `"input":[{"type":"reasoning","id":"rs_1","summary":[]}]`
	const all = `"input":[{"type":"item_reference","id":"rs_1"},{"type":"item_reference","id":"fc_1"},{"type":"item_reference","id":"msg_1"}]`
	for _, test := range []struct {
		name, key, upstream, model, members string
		least, most                         int64
	}{
		{"its thoughts", "k", "u", "gpt-5.5", thoughts, 300, 600},
		{"an item", "k", "u", "gpt-5.5", `"input":[{"type":"item_reference","id":"msg_1"}]`, 300, 600},
		{"all items are one answer", "k", "u", "gpt-5.5", all, 300, 700},
		{"an item twice", "k", "u", "gpt-5.5", `"input":[{"type":"item_reference","id":"rs_1"},{"type":"item_reference","id":"rs_1"}]`, 600, 900},
		{"the answer itself", "k", "u", "gpt-5.5", `"input":"go on","previous_response_id":"resp_1"`, 1300, 2000},
		{"another key's", "l", "u", "gpt-5.5", thoughts, longest, longest + longest/8},
		{"nobody's", "k", "u", "gpt-5.5", `"input":[{"type":"reasoning","id":"rs_2","summary":[]}]`, longest, longest + longest/8},
		{"two of nobody's", "k", "u", "gpt-5.5", `"input":[{"type":"reasoning","id":"rs_2"},{"type":"reasoning","id":"rs_3"}]`, 2 * longest, 2*longest + longest/4},
		{"many of nobody's", "k", "u", "gpt-5.5", `"input":[{"type":"reasoning","id":"rs_2"}` + strings.Repeat(`,{"type":"reasoning","id":"rs_3"}`, 20) + `]`, window, window},
		{"thoughts by reference", "k", "u", "gpt-5.5", `"input":[{"type":"item_reference","id":"rs_2"}]`, longest, longest + longest/8},
		// Input is stored under such names as well, and may be anything.
		{"a message of nobody", "k", "u", "gpt-5.5", `"input":[{"type":"item_reference","id":"msg_2"}]`, window, window},
		{"an answer of nobody", "k", "u", "gpt-5.5", `"input":"go on","previous_response_id":"resp_2"`, window, window},
		{"another key's answer", "l", "u", "gpt-5.5", `"input":"go on","previous_response_id":"resp_1"`, window, window},
		{"an item's name for an answer's", "k", "u", "gpt-5.5", `"input":"go on","previous_response_id":"rs_1"`, window, window},
		{"an answer's name for an item's", "k", "u", "gpt-5.5", `"input":[{"type":"item_reference","id":"resp_1"}]`, window, window},
		{"another model reads it", "k", "u", "gpt-6-sol", thoughts, longest, longest + longest/8},
		{"another upstream", "k", "v", "gpt-5.5", thoughts, longest, longest + longest/8},
		{"a conversation", "k", "u", "gpt-5.5", `"input":"go on","conversation":"conv_1"`, window, window},
		{"an answer and a conversation", "k", "u", "gpt-5.5", `"input":"go on","previous_response_id":"resp_1","conversation":"conv_1"`, window, window},
	} {
		for _, answer := range []string{givenAnswer, givenEvents} {
			m := newRemembering(t)
			m.gives("k", `"input":"hi"`, answer)
			r, e := m.responses(test.key, test.upstream, test.model, test.members)
			n, ok := r.Bound(e.Input, price, longest)
			if n -= e.Input; test.least == window {
				n += e.Input
			}
			if !ok || n < test.least || n > test.most {
				t.Errorf("%s: %d tokens, %v", test.name, n, ok)
			}
			if _, ok := r.Bound(e.Input, nil, 0); ok != (n < longest) {
				t.Errorf("%s: where no window is known, %v", test.name, ok)
			}
			m.clock = m.clock.Add(answerLifetime)
			late, e := m.responses(test.key, test.upstream, test.model, test.members)
			if n, _ := late.Bound(e.Input, price, longest); n < longest {
				t.Errorf("%s: %d tokens after a day", test.name, n)
			}
		}
	}
}

// TestAnswersThatCannotBeTrustedTeachNoBoundOfWhatGoesOn, nor ones below what is true.
func TestAnswersThatCannotBeTrustedTeachNoBoundOfWhatGoesOn(t *testing.T) {
	t.Parallel()
	price, _ := BuiltInPrices().Find("openai", "gpt-5.5", time.Now())
	said := strings.Repeat("A long text. ", 1000)
	for _, test := range []struct {
		name, members, answer string
		final                 bool
		item                  bool // its items are known
	}{
		{"the whole answer", `"input":"hi"`, givenAnswer, true, true},
		{"it did not end", `"input":"hi"`, givenEvents, false, true},
		{"its vendor may shorten the input", `"input":"hi","truncation":"auto"`, givenAnswer, true, true},
		{"it counts less than there is", `"input":"` + said + `"`, strings.ReplaceAll(givenAnswer, `"input_tokens":1000`, `"input_tokens":5`), true, true},
		{"what was found stands in it", `"input":"hi"`, strings.ReplaceAll(givenAnswer, "fc_1", "ws_1"), true, true},
		{"it goes on from what is not known", `"input":"hi","previous_response_id":"resp_0"`, givenAnswer, true, true},
		{"thoughts of others are in it", `"input":[{"type":"reasoning","id":"rs_0"}]`, givenAnswer, true, true},
		{"what stands at an address may be more next time", `"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x/y.png"}]}]`, givenAnswer, true, true},
		{"nobody says who answered", `"input":"hi"`, strings.ReplaceAll(givenAnswer, `"model":"gpt-5.5-2026-04-23",`, ""), false, false},
	} {
		m := newRemembering(t)
		e, _ := m.responses("k", "u", "gpt-5.5", test.members)
		meter := reads(test.answer, test.answer == givenEvents, 100)
		o := Outcome{Model: meter.Model(), Input: meter.Usage().Input, Output: meter.Usage().Output, Held: 1 << 40, Final: test.final}
		if !test.final {
			o.Output = 2000 // what it was allowed
		}
		m.Teach(e, meter.IDs(), o)
		r, _ := m.responses("k", "u", "gpt-5.5", `"input":"go on","previous_response_id":"resp_1"`)
		n, _ := r.Bound(10, price, 128_000)
		if known := n < price.Context; known != (test.name == "the whole answer") {
			t.Errorf("%s: what goes on from it has %d tokens", test.name, n)
		}
		r, _ = m.responses("k", "u", "gpt-5.5", `"input":[{"type":"reasoning","id":"rs_1"}]`)
		n, _ = r.Bound(10, price, 128_000)
		if known := n < 128_000; known != test.item || known && n < o.Output {
			t.Errorf("%s: its thoughts have %d tokens", test.name, n)
		}
	}
}

func TestAnAnswerThatPassesTheBoundEndsTheMemory(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	m.gives("k", `"input":"hi"`, givenAnswer)
	const again = `"input":[{"type":"reasoning","id":"rs_1","summary":[]}]`
	r, _ := m.responses("k", "u", "gpt-5.5", again)
	m.Teach(r, new(Given), Outcome{Model: "gpt-5.5-2026-04-23", Input: 5000, Output: 1, Held: 400, Final: true})
	if len(m.excess) != 1 || m.excess[0] != (Excess{"k", "u", "gpt-5.5", 5000, 400}) {
		t.Errorf("%+v", m.excess)
	}
	m.gives("k", `"input":"hi"`, givenAnswer)
	if r, _ := m.responses("k", "u", "gpt-5.5", again); r.Seen() || r.Unseen != 1 {
		t.Errorf("it is still believed: %+v", r)
	}
	m = newRemembering(t)
	m.gives("k", `"input":"hi"`, givenAnswer)
	m.gives("k", again, strings.ReplaceAll(givenAnswer, "2026-04-23", "2026-11-11"))
	if r, _ := m.responses("k", "u", "gpt-5.5", again); r.Seen() || len(m.excess) > 0 {
		t.Errorf("another model answered, and it is believed: %+v, %+v", r, m.excess)
	}
}

// TestAConversationIsRememberedWithWhatIsStored: what its answer counted holds for the
// items that it named as well.
func TestAConversationIsRememberedWithWhatIsStored(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	m.gives("k", `"input":"hi"`, givenAnswer)
	ask := func(key, members string) (*Recall, *Estimate) {
		return m.ask(key, "openai", "/v1/responses", `{"model":"gpt-5.5",`+members+`}`)
	}
	user := `{"role":"user","content":"` + long + `"}`
	const own, nobodys, output = `,{"type":"reasoning","id":"rs_1","summary":[]}`, `,{"type":"reasoning","id":"rs_9","summary":[]}`, `,{"type":"function_call_output","call_id":"c","output":"42"}`
	first, e := ask("k", `"input":[`+user+nobodys+output+`]`)
	if first.Input >= 0 {
		t.Fatalf("%d is known of what was never seen", first.Input)
	}
	m.Learn(first, 60_000, "m-1", true) // with what nobody here has seen
	for _, test := range []struct {
		name, key, members string
		least, most        int64 // -1: nothing is known
	}{
		{"the same", "k", `"input":[` + user + nobodys + output + `]`, 60_000, 60_200},
		{"another's", "l", `"input":[` + user + nobodys + output + `]`, -1, -1},
		{"more that the key has seen", "k", `"input":[` + user + nobodys + output + own + output + `]`, 60_300, 60_900},
		{"by reference", "k", `"input":[` + user + nobodys + output + `,{"id":"fc_1"}` + output + `]`, 60_300, 60_900},
		{"more that it has not", "k", `"input":[` + user + nobodys + output + `,{"type":"reasoning","id":"rs_8"}` + output + `]`, -1, -1},
		{"another item before", "k", `"input":[` + user + own + output + `]`, -1, -1},
	} {
		r, _ := ask(test.key, test.members)
		if got := max(r.Input, -1); got < test.least || got > test.most {
			t.Errorf("%s: %d", test.name, got)
		}
	}
	for _, before := range []string{`"previous_response_id":"resp_1"`, `"conversation":"conv_1"`} {
		if r, _ := ask("k", before+`,"input":[`+user+`]`); r != nil {
			t.Errorf("%s: what goes before the list is another each time: %+v", before, r)
		}
	}
	if e.remote || e.Window {
		t.Errorf("%+v", e)
	}
}

func TestTheMemoryOfAnswersIsBounded(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	give := func(key string, from, n int) {
		r, _ := m.responses(key, "u", "gpt-5.5", `"input":"hi"`)
		g := &Given{response: fmt.Sprintf("resp_%d", from), opened: n, named: n}
		for i := range n {
			g.items = append(g.items, fmt.Sprintf("rs_%d", from+i))
		}
		m.Teach(r, g, Outcome{Model: "m", Input: 10, Output: 10, Held: 1 << 40, Final: true})
	}
	seen := func(key string, i int) bool {
		r, _ := m.responses(key, "u", "gpt-5.5", fmt.Sprintf(`"input":[{"type":"reasoning","id":"rs_%d"}]`, i))
		return r.Seen()
	}
	give("first", 0, 1)
	for i := range 3 * perKeyIDs / 4 {
		give("k", 4*i, 3)
	}
	if n := len(m.answers.keys["k"].Value.(*answers).byID); n > perKeyIDs || n < perKeyIDs-4 || m.answers.total != n+2 {
		t.Errorf("%d of the key, %d in all", n, m.answers.total)
	}
	if last := 3*perKeyIDs - 4; seen("k", 0) || !seen("k", last) || !seen("first", 0) {
		t.Error("it is not the oldest of the key that is forgotten")
	}
	for i := range maxIDs/200 + 2 {
		give(fmt.Sprintf("k%d", i), 0, 200)
	}
	total := 0
	for at := m.answers.used.Front(); at != nil; at = at.Next() {
		total += len(at.Value.(*answers).byID)
	}
	if total != m.answers.total || total > maxIDs || total < maxIDs-201 || len(m.answers.keys) != m.answers.used.Len() || seen("k", 3*perKeyIDs-4) {
		t.Errorf("%d in all, counted %d, of %d keys", total, m.answers.total, len(m.answers.keys))
	}
}

// aVendor stores what was said, and counts all that a request refers to.
type aVendor struct {
	words   map[string]int64    // tokens of items
	context map[string][]string // items that an answer was given, and its own
	n       int
}

// TestWhatIsStoredIsNeverBoundedBelowWhatItCounts lets two keys talk to a vendor in
// every way that names what it stored: whole histories, with thoughts by their ids or
// all by reference, on from any answer, and with ids of others and of nobody.
// Answers may leave out thoughts, as vendors do, be cut short, or end early.
func TestWhatIsStoredIsNeverBoundedBelowWhatItCounts(t *testing.T) {
	t.Parallel()
	const window, longest = 1_000_000, 20_000
	p := preset(t, "openai")
	price := &Price{Context: window, MaxOutput: longest}
	near, wide := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		v := &aVendor{words: map[string]int64{}, context: map[string][]string{}}
		m := NewMemory(func(x Excess) { t.Fatalf("%+v", x) })
		clock := time.Unix(1e9, 0)
		m.now = func() time.Time { return clock }
		var answers []string // of all keys
		own := map[string][]string{}
		for range rapid.IntRange(2, 30).Draw(t, "requests") {
			key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
			model := rapid.SampledFrom([]string{"m", "m", "m", "n"}).Draw(t, "model")
			if rapid.IntRange(0, 20).Draw(t, "pause") == 0 {
				clock = clock.Add(answerLifetime / 2)
			}
			var items, members []string
			var context []string    // what the vendor reads
			pick := func() string { // an answer that the request goes on from, of this key or another
				from := own[key]
				if len(from) == 0 || rapid.IntRange(0, 9).Draw(t, "another's") == 0 {
					from = answers
				}
				if len(from) == 0 || rapid.IntRange(0, 19).Draw(t, "nobody's") == 0 {
					return ""
				}
				return from[max(0, len(from)-1-rapid.IntRange(0, 3).Draw(t, "back"))]
			}
			from, sealed := pick(), rapid.Bool().Draw(t, "sealed")
			switch how := rapid.IntRange(0, 3).Draw(t, "how"); {
			case from == "":
			case how == 0:
				members = append(members, `"previous_response_id":"`+from+`"`)
				context = append(context, v.context[from]...)
			default: // all that it was given, and its items
				for _, id := range v.context[from] {
					switch {
					case how == 1 && !strings.HasPrefix(id, "rs_"), strings.HasPrefix(id, "in_"): // it is written out
						items = append(items, `{"role":"user","content":"`+strings.Repeat("x", int(v.words[id]))+`"}`)
					case strings.HasPrefix(id, "rs_") && how == 1 && sealed:
						items = append(items, `{"type":"reasoning","id":"`+id+`","summary":[],"encrypted_content":"`+strings.Repeat("x", int(v.words[id]))+`"}`)
					case strings.HasPrefix(id, "rs_") && how < 3:
						items = append(items, `{"type":"reasoning","id":"`+id+`","summary":[]}`)
					default:
						items = append(items, `{"type":"item_reference","id":"`+id+`"}`)
					}
					context = append(context, id)
				}
			}
			v.n++
			fresh := fmt.Sprintf("in_%d", v.n)
			v.words[fresh] = int64(rapid.IntRange(1, 400).Draw(t, "said"))
			items = append(items, `{"role":"user","content":"`+strings.Repeat("x", int(v.words[fresh]))+`"}`)
			context = append(context, fresh)
			auto := rapid.IntRange(0, 7).Draw(t, "shortened") == 0
			if auto {
				members = append(members, `"truncation":"auto"`)
			}
			members = append(members, `"model":"`+model+`"`, `"input":[`+strings.Join(items, ",")+`]`)
			body := "{" + strings.Join(members, ",") + "}"
			e, err := p.Estimate(&Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(body)})
			if err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			r := m.Earlier(key, "u", p, e)
			bound, ok := r.Bound(e.Input, price, longest)
			all, read := int64(3), int64(3)
			for _, id := range context {
				n := v.words[id] + int64(rapid.IntRange(0, itemMargin).Draw(t, "template"))
				all += n
				if left := auto || strings.HasPrefix(id, "rs_"); !left || rapid.Bool().Draw(t, "is read") {
					read += n
				}
			}
			if all > window {
				continue // the vendor refuses it
			}
			if !ok || bound < all {
				t.Fatalf("bounded by %d, and has %d: %s", bound, all, body)
			}
			if r.Names() {
				if bound < 20*all+1000 {
					near++
				}
				wide++
			}
			// The same with what others were given, and with what nobody was.
			made := body
			for id := range v.words {
				if !strings.HasPrefix(id, "in_") && !slices.ContainsFunc(own[key], func(a string) bool { return slices.Contains(v.context[a], id) }) {
					begin, _, _ := strings.Cut(id, "_")
					made = strings.ReplaceAll(made, `"`+id+`"`, `"`+begin+`_`+strings.Repeat("z", len(id)-len(begin)-1)+`"`)
				}
			}
			for _, id := range answers {
				if !slices.Contains(own[key], id) {
					made = strings.ReplaceAll(made, `"`+id+`"`, `"resp_`+strings.Repeat("z", len(id)-5)+`"`)
				}
			}
			if made != body {
				other, err := p.Estimate(&Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(made)})
				if err != nil {
					t.Fatal(err)
				}
				if n, _ := m.Earlier(key, "u", p, other).Bound(other.Input, price, longest); n != bound {
					t.Fatalf("%d for what others were given, %d for what nobody was: %s", bound, n, body)
				}
			}
			v.answer(t, m, r, key, model, context, read, bound, &answers, own)
		}
	})
	if near < wide/10 || wide == 0 {
		t.Errorf("only %d of %d bounds are anywhere near what is counted", near, wide)
	}
}

// answer has the vendor answer, and the memory learn.
func (v *aVendor) answer(t *rapid.T, m *Memory, r *Earlier, key, model string, context []string, read, held int64, answers *[]string, own map[string][]string) {
	v.n++
	id := fmt.Sprintf("resp_%d", v.n)
	var items []map[string]any
	var output int64
	for i := range rapid.IntRange(0, 12).Draw(t, "items") {
		item := fmt.Sprintf("%s_%d_%d", rapid.SampledFrom([]string{"rs", "rs", "fc", "msg"}).Draw(t, "kind"), v.n, i)
		v.words[item] = int64(rapid.IntRange(1, 1200).Draw(t, "words"))
		output += v.words[item]
		items = append(items, map[string]any{"id": item, "type": "x"})
		context = append(slices.Clone(context), item)
	}
	response := map[string]any{"id": id, "model": model + "-1", "output": items, "usage": map[string]any{"input_tokens": read, "output_tokens": output}}
	var said strings.Builder
	stream := rapid.Bool().Draw(t, "streamed")
	write := func(value any) {
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if stream {
			b = fmt.Appendf(nil, "data: %s\n\n", b)
		}
		said.Write(b)
	}
	if stream {
		write(map[string]any{"type": "response.created", "response": map[string]any{"id": id, "model": model + "-1", "output": []any{}}})
		for _, item := range items {
			write(map[string]any{"type": "response.output_item.done", "item": item})
		}
		write(map[string]any{"type": "response.completed", "response": response})
	} else {
		write(response)
	}
	passed := said.String()
	cut := rapid.IntRange(0, 4).Draw(t, "cut") == 0
	if cut {
		passed = passed[:rapid.IntRange(0, len(passed)-1).Draw(t, "at")]
	}
	meter := reads(passed, stream, rapid.IntRange(1, 50).Draw(t, "piece"))
	o := Outcome{Model: meter.Model(), Input: meter.Usage().Input, Output: 15_000, Held: held}
	if meter.Whole() {
		o.Output, o.Final = meter.Usage().Output, true
	}
	m.Teach(r, meter.IDs(), o)
	// It is stored whether or not it arrived.
	v.context[id] = context
	*answers = append(*answers, id)
	own[key] = append(own[key], id)
}
