package upstream

import (
	"math"
	"strings"
	"testing"
	"time"
)

// TestNestedMarksOfACacheAreLookedAtOnce: a mark holds at most a few words, and
// searching for its end again at each of 10,000 levels, over megabytes, would take
// minutes.
func TestNestedMarksOfACacheAreLookedAtOnce(t *testing.T) {
	t.Parallel()
	const levels = 9_000
	anthropic, _ := Lookup("anthropic")
	ask := func(open string, size int) time.Duration {
		body := []byte(`{"model":"m","max_tokens":9,"tools":[{"name":"x","input_schema":` + strings.Repeat(open, levels) + `"` + strings.Repeat("x", size) + `"` +
			strings.Repeat("}", levels) + `}],"messages":[{"role":"user","content":"hello"}]}`)
		c := &Call{Method: "POST", Path: "/v1/messages", ContentType: "application/json", Body: body}
		e, err := anthropic.Estimate(c)
		if err != nil {
			t.Fatal(err)
		}
		m := NewMemory(func(Excess) {})
		best := time.Duration(math.MaxInt64)
		for range 3 {
			best = min(best, work(t, func() {
				if m.Recall("key", "u", anthropic, c, e) == nil {
					t.Fatal("nothing can be learned by it")
				}
			}))
		}
		return best
	}
	for _, name := range []string{`{"cache_control":`, `{"prompt_cache_breakpoint":`} {
		plain := ask(`{"cache_contrl":`, 1<<20)
		// Looked at 9,000 times, it takes some 10,000 times as long.
		if got := ask(name, 1<<20); got > 1000*plain {
			t.Errorf("%s: %s, and %s with names that mean nothing", name, got, plain)
		}
	}
}

// TestNestedNamesOfModelsAreRefused: the end of each level is searched, so many
// levels would take minutes.
func TestNestedNamesOfModelsAreRefused(t *testing.T) {
	t.Parallel()
	openAI, _ := Lookup("openai")
	gemini, _ := Lookup("gemini")
	for _, test := range []struct {
		p                          *Preset
		before, open, close, after string
	}{
		{openAI, `{"model":"m","tools":`, `[{"models":`, `}]`, `}`},
		{openAI, `{"model":"m","tools":[{"parameters":{"fallbacks":`, `[{"models":`, `}]`, `}}]}`},
		{openAI, `{"model":"m","fallbacks":`, `[`, `]`, `}`},
		{openAI, `{"model":"m","plugins":`, `[{"parameters":{"model":`, `}}]`, `}`},
		{gemini, `{"requests":`, `[{"requests":`, `}]`, `}`},
		{gemini, `{"generateContentRequest":`, `{"generateContentRequest":`, `}`, `}`},
	} {
		for _, levels := range []int{3, 3000} {
			body := test.before + strings.Repeat(test.open, levels) + `["other"]` + strings.Repeat(test.close, levels) + test.after
			_, _, err := test.p.Models(&Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: []byte(body)})
			if (err != nil) != (levels > maxModelDepth) {
				t.Errorf("%s%s, %d times: %v", test.before, test.open, levels, err)
			}
		}
	}
}

// TestAHeaderIsTakenForNothingElse: a header or a query may hold any bytes, including
// those that separate two hashed fields.
func TestAHeaderIsTakenForNothingElse(t *testing.T) {
	t.Parallel()
	anthropic, _ := Lookup("anthropic")
	mark := string([]byte{markField})
	seen := map[digest]string{}
	for _, test := range []struct{ query, features string }{
		{"beta=true", "Anthropic-Beta: a"},
		{"beta=true", "Anthropic-Beta: a" + mark + "Anthropic-Beta: b"},
		{"beta=true" + mark + "Anthropic-Beta: a", "Anthropic-Beta: b"},
		{"beta=true" + mark, "Anthropic-Beta: a"},
		{"beta=true", mark + "Anthropic-Beta: a"},
	} {
		c := &Call{Method: "POST", Path: "/v1/messages", Query: test.query, Features: test.features, ContentType: "application/json",
			Body: []byte(`{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}`)}
		e, err := anthropic.Estimate(c)
		if err != nil {
			t.Fatal(err)
		}
		d := spareDigesters.Get().(*digester)
		talk, ok := e.conversation(d, testSecret, anthropic, c, "u")
		spareDigesters.Put(d)
		if former, same := seen[talk.rest]; same || !ok {
			t.Errorf("%q %q is taken for %s", test.query, test.features, former)
		}
		seen[talk.rest] = test.query + " " + test.features
	}
}
