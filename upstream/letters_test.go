package upstream

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// lettersOf are all characters of the Unicode block that a script's usual letters are
// in, those that no vocabulary knows included.
func lettersOf(script int) (all []rune) {
	first, _ := utf8.DecodeRuneInString(usualLetters[script])
	begin := first / scriptBlock * scriptBlock
	for r := begin; r < begin+scriptBlock; r++ {
		if unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P) {
			all = append(all, r)
		}
	}
	return all
}

// words are ordinary text, and words of which some vocabulary makes one token.
var words = [len(usualLetters)][]string{
	{" Посылку отправили во вторник, но дома никого не было.", " пользователя", " государственного", " мягких булок"},
	{" पार्सल मंगलवार को भेजा गया था, पर घर पर कोई नहीं था।", " प्रधानमन्त्री", "संख्या", "्र"},
	{" মঙ্গলবার পার্সেলটি পাঠানো হয়েছিল, কিন্তু বাড়িতে কেউ ছিল না।", " প্রধানমন্ত্রী", " বাংলাদেশ", " উত্তর"},
	{" பொதி செவ்வாய்க்கிழமை அனுப்பப்பட்டது, ஆனால் வீட்டில் யாரும் இல்லை.", " தெரிவித்துள்ளார்", "ப்பட்ட", " நாளைக்"},
	{" พัสดุถูกส่งเมื่อวันอังคาร แต่ไม่มีใครอยู่บ้านรับของ", " สำนักเลขานุการองค์กร", "อย่างต่อเนื่อง", "้อม"},
	{" ამანათი სამშაბათს გაიგზავნა, მაგრამ სახლში არავინ იყო.", " მნიშვნელოვანია", "ების", " ტუმბო"},
}

// TestLettersAreNeverBoundedBelowTheTruth: whatever text a conversation begins with,
// and in whatever way another goes on, also in a script that the vocabulary does not
// know or in letters that it lacks.
func TestLettersAreNeverBoundedBelowTheTruth(t *testing.T) {
	t.Parallel()
	lower := 0 // bounds that are lower than the bytes
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory(func(x Excess) { t.Fatalf("%+v", x) })
		p, _ := Lookup(rapid.SampledFrom([]string{"openai", "together"}).Draw(t, "preset"))
		vocabulary := rapid.SampledFrom([]string{"o200k_base", "cl100k_base", "r50k_base"}).Draw(t, "vocabulary")
		script := rapid.IntRange(0, len(usualLetters)-1)
		often := rapid.SampledFrom([]int{0, 50, 100}).Draw(t, "often")
		known := script.Draw(t, "script")
		some := rapid.SliceOfN(rapid.SampledFrom(words[known]), 1, 5).Draw(t, "words")
		texts := []string{strings.Repeat(strings.Join(some, ""), 60)}
		for range 2 {
			text := rapid.SampledFrom(append([]rune(usualLetters[known]), lettersOf(script.Draw(t, "next"))...))
			alphabet := rapid.SliceOfN(text, 1, 60).Draw(t, "alphabet")
			texts = append(texts, rapid.StringOfN(rapid.SampledFrom(append(alphabet, ' ', 'a')), 20, 100, -1).Draw(t, "text"))
			texts[len(texts)-1] = strings.Repeat(texts[len(texts)-1], 20) // more than any margin
		}
		var list []string
		truth := int64(0)
		for i, text := range texts {
			list = append(list, `{"role":"`+[2]string{"user", "assistant"}[i%2]+`","content":`+escaped(text, often)+`}`)
			most := int64(0)
			for _, form := range []string{text, norm.NFC.String(text), norm.NFKC.String(text)} {
				most = max(most, tokens(t, vocabulary, form))
			}
			if truth += most + 4; i == 1 {
				continue
			}
			c := &Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: []byte(`{"model":"m","messages":[` + strings.Join(list, ",") + `]}`)}
			e, err := p.Estimate(c)
			if err != nil {
				t.Fatal(err)
			}
			r := m.Recall("k", "u", p, c, e)
			if r.Input >= 0 && r.Input < truth {
				t.Fatalf("%s: %q, %q are %d tokens, and held at %d", vocabulary, texts[1], texts[2], truth, r.Input)
			}
			if r.Input >= 0 && r.Input < r.from.tokens+int64(len(texts[1])+len(texts[2])) {
				lower++
			}
			m.Learn(r, truth, "m", true)
		}
	})
	if lower < 10 {
		t.Errorf("%d bounds were lower than the text's bytes", lower)
	}
}

// TestUsualLettersStayUsualInEveryForm: tokenizers bring text to one of Unicode's
// forms first, which may join two letters to one that is not usual, or take one apart.
func TestUsualLettersStayUsualInEveryForm(t *testing.T) {
	t.Parallel()
	tokens := func(s string) (quarters int) {
		for _, r := range s {
			if row := usual[min(r/scriptBlock, lastBlock)]; row != nil && row[r%scriptBlock] > 0 {
				quarters += 5
			} else {
				quarters += 4 * utf8.RuneLen(r)
			}
		}
		return quarters
	}
	for _, all := range usualLetters {
		for _, a := range all {
			for _, b := range all {
				s := string(a) + string(b)
				_, bytes := stringLength([]byte(`"`+s+`"`), asText, nil)
				bound := (tokens(s) + 4*(int(bytes)-2-len(s))) * 11 / 10
				for _, form := range []string{norm.NFC.String(s), norm.NFKC.String(s)} {
					if form != s && tokens(form) > bound {
						t.Errorf("%q becomes %q, which may count %d quarters of a token; the bound is %d", s, form, tokens(form), bound)
					}
				}
			}
		}
	}
}

// TestOnlyTextThatIsReadShowsWhatAVocabularyKnows: a client may write more where its
// server reads nothing, and a text of one word shows nothing.
func TestOnlyTextThatIsReadShowsWhatAVocabularyKnows(t *testing.T) {
	t.Parallel()
	thai := strings.Repeat("กรุณาเขียนคำตอบสั้น ", 100)
	counted := int64(utf8.RuneCountInString(thai)) * 10 / 22
	for _, test := range []struct {
		name, preset, first string
		shows               bool
	}{
		{"a text", "together", `{"role":"user","content":"` + thai + `"}`, true},
		{"a block", "together", `{"role":"user","content":[{"type":"text","text":"` + thai + `","cache_control":{"type":"ephemeral"}}]}`, true},
		{"as escapes", "together", `{"role":"user","content":` + escaped(thai, 100) + `}`, true},
		{"a model's words", "openai", `{"role":"user","content":"?"},{"role":"assistant","content":"` + thai + `"},{"role":"user","content":"?"}`, true},
		{"by a template that may leave them out", "together", `{"role":"user","content":"?"},{"role":"assistant","content":"` + thai + `"},{"role":"user","content":"?"}`, false},
		{"two blocks", "together", `{"role":"user","content":[{"type":"text","text":"` + thai + `"},{"type":"text","text":"?"}]}`, false},
		{"the same twice", "openai", `{"role":"user","content":"` + thai + `","content":"` + thai + `"}`, false},
		{"beside a call", "openai", `{"role":"user","content":"?"},{"role":"assistant","content":"` + thai + `","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"user","content":"?"}`, false},
		{"in a picture's block", "openai", `{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"},"text":"` + thai + `"}]}`, false},
		{"under another name", "openai", `{"role":"user","content":"?","extra":"` + thai + `"}`, false},
		{"another script", "openai", `{"role":"user","content":"` + strings.Repeat("ამანათი სამშაბათს გაიგზავნა ", 100) + `"}`, false},
		{"one word", "openai", `{"role":"user","content":"` + strings.Repeat("้อม", 800) + `"}`, false},
	} {
		m := newRemembering(t)
		ask := func(more string) *Recall {
			r, _ := m.ask("k", test.preset, "/v1/chat/completions", `{"model":"m","messages":[`+test.first+more+`]}`)
			return r
		}
		m.Learn(ask(""), counted, "m", true)
		next := ask(`,{"role":"assistant","content":"?"},{"role":"user","content":"` + thai + `"}`)
		if next.Input < 0 || (next.Input < counted+int64(len(thai))) != test.shows {
			t.Errorf("%s: %d are held, of which %d were counted before", test.name, next.Input, counted)
		}
	}
}
