package upstream

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// tokens is what a text counts for a model that is called as its vocabulary.
func tokens(t interface{ Fatal(...any) }, model, s string) int64 {
	for _, v := range vocabularies() {
		if v.GetName() == model {
			n, err := v.Count(s)
			if err != nil {
				t.Fatal(err)
			}
			return int64(n)
		}
	}
	t.Fatal(model)
	return 0
}

// said is a request as servers take it apart, in the shape of OpenAI's chat.
type said struct {
	Model    string
	System   string
	Tools    []json.RawMessage
	Messages []struct {
		Role, Content, Name string
		Reasoning           string `json:"reasoning_content"`
	}
}

// thinksAt reports whether a message's thoughts are read: those of the last turn
// are.
func (s *said) thinksAt(i int) bool {
	for _, m := range s.Messages[i:] {
		if m.Role == "user" {
			return false
		}
	}
	return true
}

// templates make prompts of requests. Where special is not 0 a token that text
// cannot merge with stands in between, and is written as a line end here.
var templates = map[string]func(*said) (special int64, parts []string){
	"special tokens between": func(s *said) (int64, []string) {
		parts := []string{s.System, fmt.Sprintf("%s", s.Tools)}
		for i, m := range s.Messages {
			text := m.Role + "\n" + m.Content
			if s.thinksAt(i) {
				text = m.Role + "\n<think>" + m.Reasoning + "</think>" + m.Content
			}
			parts = append(parts, text, "\n")
		}
		return 3 + int64(2*len(s.Messages)), append(parts, "assistant\n")
	},
	"words between": func(s *said) (int64, []string) {
		var b strings.Builder
		fmt.Fprintf(&b, "%s%s", s.System, s.Tools)
		for _, m := range s.Messages {
			fmt.Fprintf(&b, "\n\n%s: %s%s", strings.ToUpper(m.Role), m.Name, m.Content)
		}
		return 0, []string{b.String() + "\n\nASSISTANT:"}
	},
	"nothing between": func(s *said) (int64, []string) {
		var b strings.Builder
		fmt.Fprintf(&b, "%s%s", s.Tools, s.System)
		for _, m := range s.Messages {
			b.WriteString(m.Reasoning + m.Content)
		}
		return 0, []string{b.String()}
	},
	"nothing between, composed": func(s *said) (int64, []string) {
		var b strings.Builder
		b.WriteString(s.System)
		for _, m := range s.Messages {
			b.WriteString(m.Content)
		}
		return 0, []string{norm.NFC.String(b.String())}
	},
	"system and tools before the last question": func(s *said) (int64, []string) {
		last := 0
		for i, m := range s.Messages {
			if m.Role == "user" {
				last = i
			}
		}
		var parts []string
		for i, m := range s.Messages {
			if i == last {
				parts = append(parts, fmt.Sprintf("%s", s.Tools), s.System+"\n\n"+m.Content)
				continue
			}
			parts = append(parts, m.Content)
		}
		return int64(len(parts)), parts
	},
	"system only where a user speaks last": func(s *said) (int64, []string) {
		var parts []string
		for i, m := range s.Messages {
			if i == len(s.Messages)-1 && m.Role == "user" {
				parts = append(parts, s.System+"\n\n")
			}
			parts = append(parts, m.Content)
		}
		return int64(len(parts)), parts
	},
}

// onlyUnknown are templates that no vendor's own models have.
var onlyUnknown = set("system only where a user speaks last")

func countOf(t interface{ Fatal(...any) }, template, vocabulary string, body []byte) int64 {
	var s said
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	n, parts := templates[template](&s)
	for _, part := range parts {
		n += tokens(t, vocabulary, part)
	}
	return max(n, 1)
}

// hostile are texts whose ends merge with what follows, or whose tokens are
// others where something follows. The two of letters are chains: each pair of
// letters merges later than the one to its right.
var hostile = []string{
	"", " ", "hello", " hello", "\n", "\n\n\n", "    ", strings.Repeat(" ", 200), strings.Repeat("a", 300), strings.Repeat("=", 120), "1234567", "12",
	"e", "\u0301", "\u0323", "\u0316\u0301", "e" + strings.Repeat("\u0301\u0302", 60), "가", "\u11a8", "\u1112\u1161", "\u0958", "\U0001d160", "\ufdfa",
	"日本語のテキスト", "漢", "Привет, мир", "नमस्ते", "😀", "👩\u200d", "👧", "<|im_end|>", "<|im_", "end|>", "<think>", "</think>", "'s", "'", "ll", "{\"a\":1}", "\u00a0", "\t\t",
	"pzfqcwfjmwjbmvnmxlpdmcvuoqaezz", "ujuzyltihrupptrorer", "gxrkvbkdvvhpkknbpdmcyrvtfnnpuzaooymsso", "ptrorer",
	"The quick brown fox jumps over the lazy dog. ", "func main() {\n\treturn nil\n}\n", "AAAAB3NzaC1yc2EAAAADAQABAAABgQDZ",
}

// quoted writes a string of JSON, in one of several ways.
func quoted(s string, way int) string {
	plain, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	if way%3 == 0 {
		return string(plain)
	}
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		if (way+i)%2 == 0 && r > 0x1f && r < 0x10000 || r == '"' || r == '\\' || r < ' ' {
			fmt.Fprintf(&b, `\u%04X`, r)
		} else {
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// TestNoContinuationIsBoundedBelowTheTruth lets clients talk, and edit their
// messages, in every way: whatever the conversation's past, the bound of a request is
// at least what a tokenizer counts.
func TestNoContinuationIsBoundedBelowTheTruth(t *testing.T) {
	t.Parallel()
	names := make([]string, 0, len(templates))
	for name := range templates {
		names = append(names, name)
	}
	slices.Sort(names)
	foretold := 0
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory(func(x Excess) { t.Fatalf("%+v", x) })
		clock := time.Unix(1e9, 0)
		m.now = func() time.Time { return clock }
		template := rapid.SampledFrom(names).Draw(t, "template")
		name := rapid.SampledFrom([]string{"openai", "together"}).Draw(t, "preset")
		if onlyUnknown[template] {
			name = "together"
		}
		p, ok := Lookup(name)
		if !ok {
			t.Fatal("no preset")
		}
		type message struct{ role, content, reasoning, mark string }
		text := rapid.Custom(func(t *rapid.T) string {
			text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(hostile), 0, 6).Draw(t, "text"), "")
			if len(text) < 300 && rapid.IntRange(0, 2).Draw(t, "is long") == 0 { // more than any margin
				text = strings.Repeat(text, 1200/(len(text)+1))
			}
			return text
		})
		role := rapid.SampledFrom([]string{"user", "user", "assistant", "tool", "tool", "system"})
		var talk []message
		system, tools, model := text.Draw(t, "system"), "", "o200k_base"
		says := func() message {
			s := message{role: role.Draw(t, "role"), content: text.Draw(t, "content")}
			if s.role == "assistant" && rapid.Bool().Draw(t, "thinks") {
				s.reasoning = text.Draw(t, "thoughts")
			}
			return s
		}
		at := func() int { return rapid.IntRange(0, max(len(talk)-1, 0)).Draw(t, "at") }
		for range rapid.IntRange(4, 24).Draw(t, "steps") {
			talk = slices.Clone(talk)
			switch what := rapid.IntRange(0, 16).Draw(t, "what"); {
			case what < 8 || len(talk) == 0:
				for range rapid.IntRange(1, 2).Draw(t, "more") {
					talk = append(talk, says())
				}
			case what == 8:
				talk[at()].content = text.Draw(t, "edited")
			case what == 9:
				i := at()
				talk = slices.Delete(talk, i, i+1)
			case what == 10:
				i, j := at(), at()
				talk[i], talk[j] = talk[j], talk[i]
			case what == 11:
				system = text.Draw(t, "system")
			case what == 12:
				tools = rapid.SampledFrom([]string{"", `[{"type":"function","function":{"name":"f","parameters":{}}}]`, `[{"type":"function","function":{"name":"g","description":"` + long[:2000] + `"}}]`}).Draw(t, "tools")
			case what == 13:
				model = rapid.SampledFrom([]string{"o200k_base", "cl100k_base", "r50k_base"}).Draw(t, "model")
			case what == 14: // two messages of one
				i := at()
				s := talk[i]
				runes := []rune(s.content)
				cut := rapid.IntRange(0, len(runes)).Draw(t, "cut")
				talk[i].content = string(runes[:cut])
				s.content = string(runes[cut:])
				talk = slices.Insert(talk, i+1, s)
			case what == 15:
				talk[at()].mark = rapid.SampledFrom([]string{"", `,"cache_control":{"type":"ephemeral"}`, `,"cache_control":{"type":"ephemeral","ttl":"1h"}`}).Draw(t, "mark")
			case what == 16:
				clock = clock.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes")) * time.Minute)
			}
			if len(talk) == 0 {
				continue
			}
			way := rapid.IntRange(0, 8).Draw(t, "way")
			var list []string
			for _, s := range talk {
				one := `{"role":"` + s.role + `","content":` + quoted(s.content, way) + s.mark
				if s.reasoning != "" {
					one += `,"reasoning_content":` + quoted(s.reasoning, way)
				}
				if way == 7 {
					one += `,"content":` + quoted(s.content+"!", way) // of two, the last counts
				}
				list = append(list, one+"}")
			}
			fields := []string{`"model":"` + model + `"`, `"messages":[` + strings.Join(list, [2]string{",", " ,\n"}[way%2]) + `]`}
			if system != "" {
				fields = append(fields, `"system":`+quoted(system, way))
			}
			if tools != "" {
				fields = append(fields, `"tools":`+tools)
			}
			if way%4 == 3 {
				slices.Reverse(fields)
			}
			body := "{" + strings.Join(fields, ",") + "}"
			c := &Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: []byte(body)}
			e, err := p.Estimate(c)
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			truth := countOf(t, template, model, []byte(body))
			r := m.Recall("k", "u", p, c, e)
			if r == nil {
				continue
			}
			if r.Input >= 0 {
				foretold++
				if r.Input < truth {
					t.Fatalf("%s: %d are foretold of %d tokens: %s", template, r.Input, truth, body)
				}
			}
			if rapid.IntRange(0, 6).Draw(t, "answered") > 0 {
				m.Learn(r, truth, "that-answers", true)
			}
		}
	})
	if foretold == 0 {
		t.Error("nothing was ever foretold")
	}
}

// TestWhatFollowsAddsFewTokensToABeginning: the margin is several times what any two
// texts add where they meet.
func TestWhatFollowsAddsFewTokensToABeginning(t *testing.T) {
	t.Parallel()
	worst := int64(0)
	for _, v := range vocabularies() {
		vocabulary := v.GetName()
		for _, a := range hostile {
			for _, b := range hostile {
				for _, cut := range []int{1, 2, 4, len(b)} {
					cut = min(cut, len(b))
					more := tokens(t, vocabulary, norm.NFC.String(a+b[:cut])) - tokens(t, vocabulary, norm.NFC.String(a)) - int64(cut)
					worst = max(worst, more)
				}
			}
		}
	}
	t.Logf("at most %d more", worst)
	if 8*worst > boundary {
		t.Errorf("%d tokens more than the two had, and the margin is %d", worst, boundary)
	}
}

// TestAnAgentsRequestsAreHeldNearWhatTheyCount prints and checks how much is held for
// each turn of a conversation with a system prompt, tools and tool results.
func TestAnAgentsRequestsAreHeldNearWhatTheyCount(t *testing.T) {
	t.Parallel()
	const file = "func (u *use) charge(status int) (tokens, nano int64) {\n\tif status >= 400 {\n\t\treturn 0, 0 // nobody bills it\n\t}\n\treturn u.used(), u.cost()\n}\n\n// What a reader needs to know stands above, in whole sentences.\n"
	for _, size := range []int{20_000, 100_000} { // tokens of the beginning
		m := newRemembering(t)
		p := preset(t, "openai")
		system := strings.Repeat(file, size/int(tokens(t, "o200k_base", file)))
		messages := []string{`{"role":"user","content":"Please mend what is charged for refused requests."}`}
		var before, with []string
		for turn := 1; turn <= 200_000/size; turn++ {
			body := `{"model":"m","system":` + quoted(system, 0) + `,"messages":[` + strings.Join(messages, ",") + `]}`
			c := &Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: []byte(body)}
			e, err := p.Estimate(c)
			if err != nil {
				t.Fatal(err)
			}
			truth := countOf(t, "special tokens between", "o200k_base", []byte(body))
			r := m.Recall("k", "u", p, c, e)
			bound := e.Input
			if r.Input >= 0 {
				bound = min(bound, r.Input)
			}
			if bound < truth || turn > 1 && 10*bound > 13*truth {
				t.Errorf("turn %d: %d are held of %d", turn, bound, truth)
			}
			before, with = append(before, fmt.Sprintf("%.2f", float64(e.Input)/float64(truth))), append(with, fmt.Sprintf("%.2f", float64(bound)/float64(truth)))
			m.Learn(r, truth, "m", true)
			messages = append(messages, `{"role":"assistant","content":"I look at the file first.","tool_calls":[{"id":"c","type":"function","function":{"name":"read","arguments":"{\"path\":\"use.go\"}"}}]}`,
				`{"role":"tool","tool_call_id":"c","content":`+quoted(strings.Repeat(file, size/2500), 0)+`}`)
		}
		t.Logf("bound / true at %d tokens, by turn: %s by bytes, %s with memory", size, strings.Join(before, " "), strings.Join(with, " "))
	}
}
