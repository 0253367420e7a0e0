package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

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

// TestAnswersThatCannotBeTrustedTeachNoBoundOfWhatGoesOn, nor bounds below the truth.
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

// TestAConversationIsRememberedWithWhatIsStored: the count of its answer includes the
// items that it named.
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
	m.Learn(first, 60_000, "m-1", true) // including items that no key here has seen
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
	if n := len(m.answers.keys["k"].Value.(*keyAnswers).byID); n > perKeyIDs || n < perKeyIDs-4 || m.answers.total != n+2 {
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
		total += len(at.Value.(*keyAnswers).byID)
	}
	if total != m.answers.total || total > maxIDs || total < maxIDs-201 || len(m.answers.keys) != m.answers.used.Len() || seen("k", 3*perKeyIDs-4) {
		t.Errorf("%d in all, counted %d, of %d keys", total, m.answers.total, len(m.answers.keys))
	}
}
