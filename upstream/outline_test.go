package upstream

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// judgeOutline holds what an outline says of a body against what is found without
// one.
func judgeOutline(t *testing.T, body []byte) {
	t.Helper()
	o := newOutline(body)
	object, err := parseOutlined(body, o)
	if err != nil {
		return
	}
	if n := cap(o.strings) + cap(o.elements); n > 2*max(len(body)/4, 64) || len(o.rewritten) > maxRewritten {
		t.Fatalf("%.100q: %d strings and elements, %d odd places of %d bytes", body, n, len(o.rewritten), len(body))
	}
	for i := 0; i < len(object); {
		if object[i] != '"' {
			i++
			continue
		}
		for _, form := range []layout{asText, asJSON, asLines} {
			n, tokens := stringLength(object[i:], form, o)
			if m, want := stringLength(object[i:], form, nil); n != m || tokens != want {
				t.Fatalf("%.100q, a string at %d: %d tokens in %d bytes, want %d in %d", body, i, tokens, n, want, m)
			}
		}
		i += skipString(object[i:])
	}
	fields := 0
	c := &Call{parsed: object, outline: o}
	for name, value := range object.members {
		if fields++; o.whole() {
			if f := o.fields[fields-1]; f.name != name || !bytes.Equal(f.value, value) {
				t.Fatalf("%.100q: member %q is %.100q", body, name, f.value)
			}
		}
		judgeDigest(t, value, o)
		if value[0] != '[' {
			continue
		}
		for element := range rawList(value).elements {
			if n := o.element(element); n != len(element) {
				t.Fatalf("%.100q: an element has %d bytes, want %d", body, n, len(element))
			}
			judgeDigest(t, element, o)
		}
	}
	for range c.members {
		fields--
	}
	if fields != 0 {
		t.Fatalf("%.100q: %d members are missing", body, fields)
	}
}

func judgeDigest(t *testing.T, value []byte, o *outline) {
	t.Helper()
	var got [2]digest
	var left [2]int64
	var thinks [2]bool
	for i, o := range []*outline{o, nil} {
		d := spareDigesters.Get().(*digester)
		d.begin(testSecret)
		d.left, d.thinks = 0, false
		d.outlined(value, o)
		got[i], left[i], thinks[i] = d.digest(), d.left, d.thinks
		spareDigesters.Put(d)
	}
	if got[0] != got[1] || left[0] != left[1] || thinks[0] != thinks[1] {
		t.Fatalf("%.100q has another digest with an outline", value)
	}
}

func FuzzOutline(f *testing.F) {
	for _, s := range outlinedBodies() {
		f.Add([]byte(s))
	}
	f.Fuzz(judgeOutline)
}

func outlinedBodies() []string {
	return []string{
		`{"model":"m","messages":[{"role":"user","content":"hi \"you\"\n\tü – 𝄞 ﷺ e\u0301 \u0000\u001f\/ \ud83d\ude00 \ud800"},[1,2],"x",-1.5e3,null],"b":{"thinking":"x"}}`,
		` { "a" : [ { "b" : 1 } , "c" ] , "cache_control" : {"type":"ephemeral"} } `,
		`{"a":[{"cache_control":{"type":"ephemeral"},"b":1},{"b":1,"cache_control":{"type":"ephemeral"}},{"b":1,"cache_control":{"type":"ephemeral"},"c":2},{"cache_control":{"type":"ephemeral"}}]}`,
		`{"a":["cache_control",{"type":"ephemeral"},"reasoning"],"":"","\u0061":1,"a":[]}`,
		string(chat(5_000)), `{"a":[` + strings.Repeat(`"",`, 5000) + `{}]}`, `{"a":[` + strings.Repeat(`"\u0041",`, 300) + `1]}`, `{"x":1` + strings.Repeat(`,"a":"b"`, 100) + `}`, strings.Repeat(" ", 100) + `{"a":"` + strings.Repeat("plain text of some length ", 500) + `"}`,
	}
}

// TestRunsAreCountedAsOneByOne: whatever the neighbouring characters in a string, the
// check counts the same tokens as stringLength, which reads one character after the
// other.
func TestRunsAreCountedAsOneByOne(t *testing.T) {
	t.Parallel()
	pieces := []string{
		`\n`, `\t`, `\"`, `\\`, `\/`, `\u0041`, `\u00e9`, `\u0301`, `\u000a`, `\ud83d\ude00`, `\ud800`, `\udc00`, `\n\n\t\t`,
		"e", "plain", " and more of it, ", "é", "\u0301", "e\u0301", "é\u0301\u0301", "ﷺ", "𝄞", "日本", "ß", "\u2028", "\ud7ff", "\ufffd", "{", ":", "cache_control",
	}
	random := rand.New(rand.NewPCG(20, 26))
	for range 20_000 {
		var b strings.Builder
		for b.Len() < notedString || random.IntN(4) > 0 {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		body := []byte(`{"a":["` + b.String() + `"]}`)
		if o := newOutline(body); !wellFormed(body, o) || len(o.strings) != 1 {
			t.Fatalf("%q: it has %d strings, or is not well formed", body, len(o.strings))
		}
		judgeOutline(t, body)
	}
}

// TestABodyOfManyItemsHasAnOutlineOfSome checks that an outline is bounded.
func TestABodyOfManyItemsHasAnOutlineOfSome(t *testing.T) {
	t.Parallel()
	for _, item := range []string{`""`, `"words of a text"`, `{}`, `1`, `{"a":{"b":["c"]}}`} {
		judgeOutline(t, []byte(fmt.Sprintf(`{"model":"m","messages":[%s],"tools":[%s]}`, strings.Repeat(item+",", 2*maxOutlineItems)+item, item)))
	}
}
