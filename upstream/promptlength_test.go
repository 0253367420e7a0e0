package upstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// scripts are ordinary and hostile text.
var scripts = []string{
	"The quick brown fox jumps over the lazy dog. ", "Tiếng Việt rất đẹp. ", "L’été s’achève, où êtes-vous ? ", "한국어는 어렵지 않다. ", "日本語、カタカナが。", "हिन्दी में लिखा हुआ। ",
	"Ελληνικά με τόνους. ", "Съешь же ещё этих мягких булок. ", "العربية لغة جميلة ", "עִבְרִית ", "ภาษาไทยที่เขียน ", "አማርኛ ", "中文文字，没有空格。", "தமிழ் ", "မြန်မာ ",
	"func f(x []int) { return x[0] <= 3 && \"a\\b\" != 'c' }\n\t", "QUFBQUJCQkI9PQ==", "31415926535 ", "👩🏽‍💻🇪🇺 ", "𒀀𒁀𒂗 ", "\x00\x01\x7f", "         ",
	"\U0001d160", "\U0001d1c0", "\ufb2c", "\u0958", "\u0344", "\ufdfa", "\u3316", "é\u0323", "ế\u0323\u0345", "\u00b4\u1e9b\u0323", "\uffff\ufffd",
}

// hostileText draws what somebody may send.
func hostileText(t *rapid.T) string {
	var b strings.Builder
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, 2*len(scripts)), 0, 20).Draw(t, "parts") {
		if i < len(scripts) {
			b.WriteString(scripts[i])
		} else {
			b.WriteString(rapid.StringN(0, 20, -1).Draw(t, "text"))
		}
	}
	return b.String()
}

// escaped writes a string as JSON, some or all of it as escapes.
func escaped(s string, often int) string {
	var b strings.Builder
	b.WriteByte('"')
	random := rand.New(rand.NewPCG(1, uint64(len(s))))
	for _, r := range s {
		must := r < ' ' || r == '"' || r == '\\'
		switch {
		case !must && random.IntN(100) >= often:
			b.WriteRune(r)
		case must && r == '\n':
			b.WriteString(`\n`)
		case must && r == '"' && often < 50:
			b.WriteString(`\"`)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04X`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// TestABoundDoesNotDependOnHowARequestIsWritten: PHP, Python and Go write
// letters as escapes, others do not.
func TestABoundDoesNotDependOnHowARequestIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text, often := hostileText(t), rapid.SampledFrom([]int{5, 50, 100}).Draw(t, "often")
		for _, to := range []struct{ preset, path, body string }{
			{"openai", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":%s}],"tools":[{"type":"function","function":{"name":"f","description":%s}}]}`},
			{"together", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":%s}],"tools":[{"type":"function","function":{"name":"f","description":%s}}]}`},
			{"anthropic", "/v1/messages", `{"model":"m","system":%s,"messages":[{"role":"user","content":[{"type":"text","text":%s}]}]}`},
			{"gemini", "/v1beta/models/m:generateContent", `{"systemInstruction":{"parts":[{"text":%s}]},"contents":[{"parts":[{"text":%s}]}]}`},
		} {
			write := func(often int) int64 {
				s := escaped(text, often)
				p, _ := Lookup(to.preset)
				e, err := p.Estimate(&Call{Method: "POST", Path: to.path, Body: []byte(fmt.Sprintf(to.body, s, s))})
				if err != nil {
					t.Fatalf("%s: %v", s, err)
				}
				return e.Input
			}
			if plain, other := write(0), write(often); plain != other {
				t.Fatalf("%s: %d as it is, %d with escapes", to.preset, plain, other)
			}
		}
		indented, err := json.MarshalIndent(map[string]any{"x": []any{text, 1.5, map[string]any{text: true}}}, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		compact, err := json.Marshal(map[string]any{"x": []any{text, 1.5, map[string]any{text: true}}})
		if err != nil {
			t.Fatal(err)
		}
		for f := asText; f <= asLines; f++ {
			n, a := promptLength(indented, f, nil)
			m, b := promptLength(compact, f, nil)
			if n != len(indented) || m != len(compact) || a != b {
				t.Fatalf("%s: %d of %d bytes, %d of %d compact", indented, a, n, b, m)
			}
		}
	})
}

// TestPromptsAreCountedAsLanguagesPrintThem: none prints a value longer than its
// count.
func TestPromptsAreCountedAsLanguagesPrintThem(t *testing.T) {
	t.Parallel()
	for _, s := range scripts[:22] {
		if strings.ContainsAny(s, "½…") {
			continue
		}
		if _, n := stringLength([]byte(escaped(s, 0)), asText, nil); n != int64(len(s))+2 {
			t.Errorf("%q: %d tokens of %d bytes", s, n, len(s))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		value := drawJSON(t, 4)
		compact, err := json.Marshal(value) // with <, > and & as escapes
		if err != nil {
			t.Fatal(err)
		}
		var plain strings.Builder
		encoder := json.NewEncoder(&plain)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(value); err != nil {
			t.Fatal(err)
		}
		lines, err := json.MarshalIndent(value, "", "    ")
		if err != nil {
			t.Fatal(err)
		}
		if _, n := promptLength(compact, asJSON, nil); n < int64(plain.Len()-1) {
			t.Fatalf("%s: %d tokens", compact, n)
		}
		// Four spaces are a token, the last three may stand alone.
		tokens := 0
		for line := range strings.SplitSeq(string(lines), "\n") {
			spaces := len(line) - len(strings.TrimLeft(line, " "))
			tokens += 1 + spaces/4 + min(spaces, 3) + len(line) - spaces
		}
		if _, n := promptLength([]byte(plain.String()), asLines, nil); n < int64(tokens-1) {
			t.Fatalf("%s: %d tokens, counted by lines %d", lines, n, tokens)
		}
	})
}

// drawJSON draws a value.
func drawJSON(t *rapid.T, depth int) any {
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	if depth == 0 {
		kind %= 4
	}
	switch kind {
	case 0:
		return hostileText(t)
	case 1:
		return rapid.Float64().Draw(t, "number")
	case 2:
		return json.Number(rapid.SampledFrom([]string{"1e15", "-1E20", "0", "12", "1e-5"}).Draw(t, "number"))
	case 3:
		return rapid.SampledFrom([]any{true, false, nil}).Draw(t, "word")
	case 4:
		list := make([]any, rapid.IntRange(0, 4).Draw(t, "length"))
		for i := range list {
			list[i] = drawJSON(t, depth-1)
		}
		return list
	}
	object := make(map[string]any)
	for range rapid.IntRange(0, 4).Draw(t, "length") {
		object[rapid.StringN(0, 5, -1).Draw(t, "name")] = drawJSON(t, depth-1)
	}
	return object
}

// TestTextThatGrowsIsCountedWithWhatItBecomes compares the table with the forms
// themselves: every character, and letters with marks in any order.
func TestTextThatGrowsIsCountedWithWhatItBecomes(t *testing.T) {
	t.Parallel()
	check := func(t interface{ Fatalf(string, ...any) }, s string) {
		_, tokens := stringLength([]byte(`"`+s+`"`), asText, nil)
		if tokens -= 2; tokens < int64(max(len(norm.NFC.String(s)), len(norm.NFKC.String(s)))) {
			t.Fatalf("%+q: %d tokens, NFC has %d bytes and NFKC %d", s, tokens, len(norm.NFC.String(s)), len(norm.NFKC.String(s)))
		}
	}
	var apart, marks []rune
	for r := rune(0x80); r <= utf8.MaxRune; r++ {
		if r >= 0xd800 && r <= 0xdfff {
			continue
		}
		check(t, string(r))
		if p := norm.NFKC.PropertiesString(string(r)); p.CCC() > 0 {
			marks = append(marks, r)
		} else if len(p.Decomposition()) > 0 && (r < 0xac00 || r > 0xd7a3) {
			apart = append(apart, r)
		}
	}
	for _, r := range apart {
		for i := 0; i < len(marks); i += 29 {
			check(t, string([]rune{r, marks[i], marks[(i*5+3)%len(marks)]}))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var s []rune
		for range rapid.IntRange(1, 4).Draw(t, "letters") {
			s = append(s, rapid.SampledFrom(apart).Draw(t, "letter"))
			s = append(s, rapid.SliceOfN(rapid.SampledFrom(marks), 0, 5).Draw(t, "marks")...)
		}
		check(t, string(s))
	})
}

// TestAShortStringIsCountedAtOnce: exactly the short and plain strings are, because
// no outline records them.
func TestAShortStringIsCountedAtOnce(t *testing.T) {
	t.Parallel()
	for size := range notedString + 10 {
		for at := -1; at < size; at++ {
			for c := range 256 {
				inner := bytes.Repeat([]byte{'x'}, size)
				if at >= 0 {
					inner[at] = byte(c)
				}
				plain := at < 0 || c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\'
				b := slices.Concat([]byte{'"'}, inner, []byte(`","behind":1}`))
				want := 0
				switch {
				case plain && size+2 < notedString:
					want = size + 2
				case at >= 0 && c == '"' && at+2 < notedString:
					want = at + 2
				}
				if n := shortEnd(b); n != want {
					t.Fatalf("%q: %d, want %d", b, n, want)
				}
				if at < 0 {
					break
				}
			}
		}
	}
	for _, b := range []string{`"`, `""`, `"abc"`, `"abc`, `"1234567`, `"1234567"`} {
		if n := shortEnd([]byte(b)); n != 0 && n != len(b) {
			t.Errorf("%q: %d", b, n)
		}
	}
}

func FuzzPromptLength(f *testing.F) {
	for _, s := range []string{`{"a":[1,2e5,"x\u0441\n",null],"":{}}`, `"\ud83d\ude00\ud83d"`, `[]`, `-0.5e-7`, `[[[{"arguments":"{\"a\":1e9}"}]]]`, "\"\u00e9\u0323\"", `"\u`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var last int64
		for form := asText; form <= asLines; form++ {
			n, tokens := promptLength(b, form, nil)
			if n > len(b) || tokens < last {
				t.Fatalf("%q: %d bytes, %d tokens in form %d and %d in the one before", b, n, tokens, form, last)
			}
			last = tokens
		}
		if !json.Valid(b) || !utf8.Valid(b) {
			return // it is only to end
		}
		text := bytes.Trim(b, jsonSpace)
		n, tokens := promptLength(text, asText, nil)
		if n != len(text) {
			t.Fatalf("%q: %d of %d bytes", text, n, len(text))
		}
		var c content
		if n := c.walk(text, "", unknown, 0); c.err == nil && (n != len(text) || c.length < tokens || c.encoded > c.length) {
			t.Fatalf("%q: walked through %d of %d bytes, %d tokens of %d, %d of them encoded", text, n, len(text), c.length, tokens, c.encoded)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			t.Fatal(err)
		}
		if _, other := promptLength(compact.Bytes(), asText, nil); other != tokens {
			t.Fatalf("%q: %d tokens, and %d without spaces", text, tokens, other)
		}
	})
}

func BenchmarkPromptLength(b *testing.B) {
	for name, s := range map[string]string{"English": scripts[0], "Russian": scripts[7], "Chinese": scripts[12], "code": scripts[15], "Hindi": scripts[5]} {
		text := []byte(escaped(strings.Repeat(s, 100_000/len(s)), 0))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				stringLength(text, asText, nil)
			}
		})
	}
}
