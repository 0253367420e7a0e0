package upstream

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// remembering is a memory with a clock of its own.
type remembering struct {
	*Memory
	t      testing.TB
	clock  time.Time
	excess []Excess
}

func newRemembering(t testing.TB) *remembering {
	r := &remembering{t: t, clock: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}
	r.Memory = NewMemory(func(x Excess) { r.excess = append(r.excess, x) })
	r.now = func() time.Time { return r.clock }
	return r
}

func (r *remembering) ask(key, preset_, path, body string) (*Recall, *Estimate) {
	r.t.Helper()
	p := preset(r.t, preset_)
	c := &Call{Method: "POST", Path: path, ContentType: "application/json", Body: []byte(body)}
	e, err := p.Estimate(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.Recall(key, "u", p, c, e), e
}

// claude asks as Anthropic's clients do, of messages that are texts, of the user
// and of the model by turns.
func (r *remembering) claude(key string, texts ...string) (*Recall, *Estimate) {
	r.t.Helper()
	return r.ask(key, "anthropic", "/v1/messages", `{"model":"m","max_tokens":5,"messages":[`+strings.Join(turns(texts...), ",")+`]}`)
}

func turns(texts ...string) []string {
	for i, s := range texts {
		texts[i] = fmt.Sprintf(`{"role":"%s","content":%q}`, [2]string{"user", "assistant"}[i%2], s)
	}
	return texts
}

// long is a text of 10,000 bytes, of 2,000 tokens here.
var long = strings.Repeat("A long text. ", 10_000/13)

func TestWhatCameBeforeIsHeldAtWhatItCounted(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	first, e := m.claude("k", long)
	if first.Input >= 0 {
		t.Fatalf("%d is known of what was never seen", first.Input)
	}
	m.Learn(first, 2000, "m-1", true)
	again, _ := m.claude("k", long)
	next, _ := m.claude("k", long, "yes", "and now?")
	if again.Input != 2000+boundary || next.Input < 2000+boundary || next.Input > 2000+boundary+200 || e.Input < 10_000 {
		t.Errorf("%d the same, %d the next, bound %d", again.Input, next.Input, e.Input)
	}
	for name, r := range map[string]func() (*Recall, *Estimate){
		"another key":           func() (*Recall, *Estimate) { return m.claude("l", long, "yes", "and now?") },
		"an edit of its middle": func() (*Recall, *Estimate) { return m.claude("k", long+" ", "yes", "and now?") },
		"a message dropped":     func() (*Recall, *Estimate) { return m.claude("k", "yes", "and now?") },
		"others in front":       func() (*Recall, *Estimate) { return m.claude("k", "x", "y", long) },
	} {
		if got, _ := r(); got.Input >= 0 {
			t.Errorf("%s: %d is known", name, got.Input)
		}
	}
	m.Learn(next, 2050, "m-1", true)
	m.clock = m.clock.Add(lifetime - time.Second)
	if fork, _ := m.claude("k", long, "no", "what then?"); fork.Input < 0 {
		t.Error("a conversation that takes another way is not known")
	}
	if last, _ := m.claude("k", long, "yes", "and now?", "so", "on"); last.Input < 2050 {
		t.Errorf("the longest beginning is not taken: %d", last.Input)
	}
	m.clock = m.clock.Add(time.Second)
	if late, _ := m.claude("k", long, "yes", "and now?"); late.Input >= 0 {
		t.Errorf("%d is known after %s", late.Input, lifetime)
	}
}

func TestReportsThatMakeNoSenseTeachNothing(t *testing.T) {
	t.Parallel()
	for name, learn := range map[string]func(*remembering, *Recall){
		"none":                      func(m *remembering, r *Recall) { m.Learn(r, 0, "m", true) },
		"half way":                  func(m *remembering, r *Recall) { m.Learn(r, 2000, "m", false) },
		"without what was cached":   func(m *remembering, r *Recall) { m.Learn(r, 12, "m", true) },
		"more than there are bytes": func(m *remembering, r *Recall) { m.Learn(r, 1e6, "m", true) },
		"of a model that may change": func(m *remembering, r *Recall) {
			m.Learn(r, 2000, "m", true)
			m.distrust(r.key, r.served, m.clock.Add(time.Minute))
		},
	} {
		m := newRemembering(t)
		r, _ := m.claude("k", long)
		learn(m, r)
		if r, _ = m.claude("k", long); r != nil && r.Input >= 0 || len(m.excess) > 0 {
			t.Errorf("%s: %+v, %v", name, r, m.excess)
		}
	}
	m := newRemembering(t)
	r, _ := m.claude("k", long, "I am to go on with thi") // words of the model that it is to go on with
	m.Learn(r, 2000, "m", true)
	if r, _ = m.claude("k", long, "I am to go on with thi", "what?"); r.Input >= 0 {
		t.Errorf("words that are gone on with are a beginning: %d", r.Input)
	}
}

func TestMemoryIsLostWhenAnAnswerBeliesIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, model string
		tokens      int64
		excess      int
		back        bool // after a lifetime
	}{
		{"more than foretold", "m", 9000, 1, false},
		{"another model", "n", 2030, 0, true},
		{"less than a beginning of it", "m", 1500, 0, true},
	} {
		m := newRemembering(t)
		r, _ := m.claude("k", long)
		m.Learn(r, 2000, "m", true)
		other, _ := m.claude("other", long)
		m.Learn(other, 2000, "m", true)
		r, _ = m.claude("k", long, "yes", "and now?")
		m.Learn(r, test.tokens, test.model, true)
		if len(m.excess) != test.excess || test.excess == 1 && (m.excess[0] != Excess{"k", "u", "m", 9000, r.Input}) {
			t.Errorf("%s: told %+v", test.name, m.excess)
		}
		for _, key := range []string{"k", "other"} {
			if r, _ := m.claude(key, long); r != nil {
				t.Errorf("%s: %s still remembers %d", test.name, key, r.Input)
			}
		}
		m.clock = m.clock.Add(lifetime)
		if r, _ = m.claude("k", long); (r != nil) != test.back {
			t.Errorf("%s: it learns again: %v", test.name, r != nil)
		}
	}
}

// TestWhatIsInDoubtIsBounded also checks that permanent distrust outlasts whatever
// comes after.
func TestWhatIsInDoubtIsBounded(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	doubt := func(model string, d time.Duration) {
		m.distrust("x", served{"u", model}, m.clock.Add(d))
	}
	remembers := func() bool {
		r, _ := m.claude("k", long)
		return r != nil
	}
	doubt("m", 3*lifetime)
	doubt("m", lifetime)
	m.clock = m.clock.Add(lifetime)
	if remembers() {
		t.Error("a later doubt ends the longer one")
	}
	m.clock = m.clock.Add(2 * lifetime)
	for i := range maxDistrusted {
		doubt(fmt.Sprint(i), lifetime)
	}
	if len(m.distrusted) > maxDistrusted || !remembers() {
		t.Errorf("%d are in doubt, which the table holds", len(m.distrusted))
	}
	doubt("one more", lifetime)
	if len(m.distrusted) > maxDistrusted || remembers() {
		t.Errorf("%d are in doubt, and the last is not noted", len(m.distrusted))
	}
	m.clock = m.clock.Add(lifetime)
	if !remembers() {
		t.Error("doubts that are over count")
	}
	for i := range maxDistrusted {
		doubt(fmt.Sprint("again ", i), lifetime)
	}
	doubt("one more", 1000*lifetime)
	m.clock = m.clock.Add(2 * lifetime)
	if remembers() {
		t.Error("one that is in doubt for good is forgotten")
	}
}

// TestThoughtsThatAreLeftOutMayComeBack: what a conversation counted with them
// remains the least that its continuations count.
func TestThoughtsThatAreLeftOutMayComeBack(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	thought := `{"role":"assistant","content":[{"type":"thinking","thinking":"` + long + `","signature":"x"},{"type":"tool_use","id":"t","name":"f","input":{}}]}`
	body := func(more string) string {
		return `{"model":"m","max_tokens":5,"thinking":{"type":"adaptive"},"messages":[{"role":"user","content":"hi"},` + thought + `,{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"x"}]}` + more + `]}`
	}
	r, _ := m.ask("k", "anthropic", "/v1/messages", body(""))
	m.Learn(r, 2100, "m", true)
	const question = `,{"role":"assistant","content":"done"},{"role":"user","content":"next"}`
	r, _ = m.ask("k", "anthropic", "/v1/messages", body(question))
	m.Learn(r, 700, "m", true) // left out from here on
	r, _ = m.ask("k", "anthropic", "/v1/messages", body(question))
	if r == nil || r.Input < 2100 {
		t.Errorf("%+v", r)
	}
}

// TestABeginningOfAnUnknownTemplateCountsForTheSameSpeaker: old templates of Mistral
// print the system prompt only where a user speaks last.
func TestABeginningOfAnUnknownTemplateCountsForTheSameSpeaker(t *testing.T) {
	t.Parallel()
	question := `{"role":"system","content":"` + long + `"},{"role":"user","content":"` + long + `"}`
	call := `,{"role":"assistant","content":"","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"a","content":"x"}`
	for preset, known := range map[string]bool{"together": false, "openai": true} {
		m := newRemembering(t)
		ask := func(messages string) *Recall {
			path := map[string]string{"together": "/v1/chat/completions", "openai": "/v1/chat/completions"}[preset]
			r, _ := m.ask("k", preset, path, `{"model":"m","messages":[`+messages+`]}`)
			return r
		}
		m.Learn(ask(question), 4000, "m", true)
		r := ask(question + call)
		if (r.Input >= 0) != known {
			t.Errorf("%s: a tool speaks, and %d is known", preset, r.Input)
		}
		m.Learn(r, 4050, "m", true)
		if r := ask(question + call + call); r.Input < 0 || r.Input > 4600 {
			t.Errorf("%s: a tool speaks again, and %d is known", preset, r.Input)
		}
	}
}

func TestRoutedAndShortenedRequestsAreNotRemembered(t *testing.T) {
	t.Parallel()
	const chat = `"model":"m","messages":[{"role":"user","content":"hi"}]`
	for name, test := range map[string]struct{ preset, path, body string }{
		"OpenRouter":           {"openrouter", "/api/v1/chat/completions", chat},
		"Ollama":               {"ollama", "/v1/chat/completions", chat},
		"Cohere":               {"cohere", "/v2/chat", chat},
		"a prompt that is cut": {"fireworks", "/inference/v1/chat/completions", chat + `,"prompt_truncate_len":10`},
		"a window that slides": {"openai", "/v1/responses", `"model":"m","input":[{"role":"user","content":"hi"}],"truncation":"auto"`},
		"one text":             {"openai", "/v1/responses", `"model":"m","input":"hi"`},
		"several models":       {"fireworks", "/inference/v1/chat/completions", chat + `,"models":[]`},
		"embeddings":           {"openai", "/v1/embeddings", `"model":"m","input":["hi"]`},
	} {
		if r, _ := newRemembering(t).ask("k", test.preset, test.path, "{"+test.body+"}"); r != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestALongConversationLeavesOthersInMemory: an agent waits while its helper makes
// hundreds of turns, and its next request still continues a known prefix.
func TestALongConversationLeavesOthersInMemory(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	agent := []string{long}
	waits, _ := m.claude("k", agent...)
	m.Learn(waits, 2000, "m", true)
	helper := []string{"find it"}
	for turn := range 500 {
		r, _ := m.claude("k", slices.Clone(helper)...)
		if known := r.Input >= 0; known != (turn > 0) {
			t.Fatalf("turn %d: known %v", turn, known)
		}
		m.Learn(r, int64(10+10*turn), "m", true)
		if turn%50 == 1 {
			edited := slices.Clone(helper)
			edited[len(edited)-1] += ", but otherwise"
			for name, texts := range map[string][]string{"what was answered, again": helper, "with another last message": edited} {
				if r, _ := m.claude("k", slices.Clone(texts)...); r.Input < 0 {
					t.Fatalf("turn %d: %s: nothing is known", turn, name)
				}
			}
		}
		m.clock = m.clock.Add(time.Second)
		helper = append(helper, fmt.Sprint("answer ", turn), fmt.Sprint("go on ", turn))
	}
	if r, _ := m.claude("k", long, "done", "and now?"); r.Input < 0 {
		t.Error("the agent's own conversation is forgotten")
	}
	if n := len(m.keys["k"].Value.(*keyPrefixes).prefixes); n != perKeyContinued+2 || m.total != n {
		t.Errorf("%d beginnings of 2 conversations, %d in all", n, m.total)
	}
}

// TestWhoIsAskedForStaysInMemory while prefixes come that no request continues.
func TestWhoIsAskedForStaysInMemory(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	first, _ := m.claude("k", long)
	m.Learn(first, 2000, "m", true)
	for i := range 5 * perKeyPrefixes {
		if r, _ := m.claude("k", long, "yes", "and now?"); r.Input < 0 { // and its client leaves each time
			t.Fatalf("after %d others it is forgotten", i)
		}
		r, _ := m.claude("k", fmt.Sprint(i))
		m.Learn(r, 10, "m", true)
	}
}

// TestAgentsOfOneConversationGoTheirOwnWays from the same beginning, one after the
// other, like helpers that receive their agent's whole conversation.
func TestAgentsOfOneConversationGoTheirOwnWays(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	first, _ := m.claude("k", long)
	m.Learn(first, 2000, "m", true)
	for i := range 4 {
		way := []string{long, "yes", fmt.Sprint("way ", i)}
		for turn := range 20 {
			r, _ := m.claude("k", slices.Clone(way)...)
			if r.Input < 0 {
				t.Fatalf("turn %d of way %d: nothing is known", turn, i)
			}
			m.Learn(r, 2000+int64(20*turn), "m", true)
			way = append(way, "so", fmt.Sprint("on ", turn))
		}
	}
}

// TestMemoryIsBounded is not parallel: it measures the heap, which other tests use.
func TestMemoryIsBounded(t *testing.T) {
	m := newRemembering(t)
	for i := range 3 * perKeyPrefixes {
		r, _ := m.claude("k", fmt.Sprint(i))
		m.Learn(r, 10, "m", true)
		m.clock = m.clock.Add(time.Second)
	}
	if n := len(m.keys["k"].Value.(*keyPrefixes).prefixes); n != perKeyPrefixes {
		t.Errorf("%d beginnings of a key", n)
	}
	if r, _ := m.claude("k", fmt.Sprint(3*perKeyPrefixes-1)); r.Input < 0 {
		t.Error("the last one is forgotten")
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range maxPrefixes + 1000 {
		m.keep(&Recall{key: fmt.Sprintf("key_%024d", i)}, prefix{turns: i})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := m.total; n != maxPrefixes || len(m.keys) != n || m.used.Len() != n {
		t.Errorf("%d beginnings of %d keys, %d of them in order", n, len(m.keys), m.used.Len())
	}
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 32<<20 {
		t.Errorf("%d bytes are in use", used)
	}
	if r, _ := m.claude("k", fmt.Sprint(3*perKeyPrefixes-1)); r.Input >= 0 {
		t.Error("the key that was used least is kept")
	}
	runtime.KeepAlive(m)
}

func BenchmarkRecall(b *testing.B) {
	for _, size := range []int{2_000, 100_000, 400_000} {
		for name, word := range map[string]string{"plain": "some words of a text, ", "escaped": "a line of \\\"code\\\"\\n\\tand "} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				m := newRemembering(b)
				message := `{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"` + strings.Repeat(word, size/20/len(word)+1) + `"}]}`
				body := `{"model":"m","max_tokens":5,"messages":[` + strings.Repeat(message+",", 19) + message + `]}`
				r, _ := m.ask("k", "anthropic", "/v1/messages", body)
				m.Learn(r, int64(size)/4, "m", true)
				p := preset(b, "anthropic")
				c := &Call{Method: "POST", Path: "/v1/messages", ContentType: "application/json", Body: []byte(body)}
				e, err := p.Estimate(c)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if r := m.Recall("k", "u", p, c, e); r.Input < 0 {
						b.Fatal("not known")
					}
				}
			})
		}
	}
}
