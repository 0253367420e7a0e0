package upstream

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzGrammar compares the reader of bodies with encoding/json.
func FuzzGrammar(f *testing.F) {
	for _, text := range []string{
		`{"a":[1,-2.5e+3,0,-0,"x\n\u00e9\ud800é\/",true,false,null,{}],"b":[]}`, ` [ ] `, "", " ", "1", `"`, `"\`, `"\u12`, `"\x"`, "\"\x1f\"", "\"\x7f\"", "\"a\tb\"", `[1,]`, `{"a":1,}`, `{,}`, `{"a" 1}`, `{1:2}`, `[1 2]`,
		`01`, `-`, `1.`, `.5`, `1e`, `1e+`, `+1`, `nul`, `nulls`, `tru`, `[}`, `{]`, `[]]`, `[] []`, "\"\xff\"", "\"\xed\xa0\x80\"", "\"\xc0\xaf\"", "\"\xe0\x80\xaf\"", "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"", "\"12345678é123456\\\"7812345678\"", "\ufeff{}", "\"\u2028\"", "é",
		strings.Repeat("[", maxNesting) + strings.Repeat("]", maxNesting), strings.Repeat("[", maxNesting+1) + strings.Repeat("]", maxNesting+1), strings.Repeat(`{"a":`, maxNesting) + "1" + strings.Repeat("}", maxNesting),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)[:len(b):len(b)]
		if got, want := wellFormed(b, nil), utf8.Valid(b) && json.Valid(b); got != want {
			t.Errorf("%.100q: well formed is %v, want %v", b, got, want)
		}
	})
}

// TestEveryByteIsJudgedAsByEncodingJSON, wherever it is in a word of eight.
func TestEveryByteIsJudgedAsByEncodingJSON(t *testing.T) {
	t.Parallel()
	for before := range 17 {
		for behind := range 10 {
			for c := range 256 {
				for _, d := range []string{"", `"`, `\`, "\x00", "\x80", " ", "behind a backslash"} {
					head := strings.Repeat("a", before)
					if len(d) > 1 {
						head, d = head+`\`, ""
					}
					b := []byte(`"` + head + string([]byte{byte(c)}) + d + strings.Repeat("!", behind) + `"`)
					if got, want := wellFormed(b, nil), utf8.Valid(b) && json.Valid(b); got != want {
						t.Fatalf("%.100q: well formed is %v, want %v", b, got, want)
					}
				}
			}
		}
	}
}

func BenchmarkWellFormed(b *testing.B) {
	body := chat(100_000)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if !wellFormed(body, newOutline(body)) {
			b.Fatal("it is not")
		}
	}
}
