package upstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf16"
)

var testSecret = newSecret()

func digestOf(value []byte) (digest, int64) {
	d := spareDigesters.Get().(*digester)
	defer spareDigesters.Put(d)
	d.begin(testSecret)
	d.left = 0
	d.value(value)
	return d.digest(), d.left
}

func TestWhatIsWrittenInAnotherWayHasTheSameDigest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{`{"role":"user","content":"hi"}`, "{ \"role\" :\t\"user\",\r\n\"content\":\"hi\" }", true},
		{`"hi"`, `"\u0068\u0069"`, true},
		{`"a/b\"\n\u0001"`, `"a\/b\u0022\u000A\u0001"`, true},
		{`"\u001f"`, `"\u001F"`, true},
		{`"é😀"`, `"\u00e9\ud83d\ude00"`, true},
		{`"\ud800"`, `"\uD800"`, true},
		{`"\ud800"`, `"\ufffd"`, false},
		{`"\ud800"`, `"\\ud800"`, false},
		{`"\ud800\u0041"`, `"\ud800A"`, true},
		{`"\ufffd"`, "\"\ufffd\"", true},
		{`"é"`, `"e\u0301"`, false},
		{`["a","b"]`, `["ab"]`, false},
		{`["a","b"]`, `[["a"],"b"]`, false},
		{`[["a"],[]]`, `[["a",[]]]`, false},
		{`[1,2]`, `[12]`, false},
		{`["1"]`, `[1]`, false},
		{`[1]`, `[1.0]`, false},
		{`{"a":"b"}`, `["a","b"]`, false},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, false},
		{`{"a":1,"a":2}`, `{"a":2}`, false},
		{`[""]`, `[]`, false},
		{`{"t":"x","cache_control":{"type":"ephemeral"}}`, `{"t":"x"}`, true},
		{`{"cache_control":{"type":"ephemeral","ttl":"1h"},"t":"x"}`, `{"t":"x"}`, true},
		{`{"t":"x","prompt_cache_breakpoint":{"mode":"explicit"}}`, `{"t":"x"}`, true},
		{`{"t":"x","cache_control":{"type":"` + strings.Repeat("a", 80) + `"}}`, `{"t":"x"}`, false},
		{`{"t":"x","cache_control":{"url":"https://x/y"}}`, `{"t":"x"}`, false},
		{`{"t":"x","cache_control":"ephemeral"}`, `{"t":"x"}`, false},
		{`["cache_control",{"type":"ephemeral"}]`, `[]`, false},
	} {
		a, leftA := digestOf([]byte(test.a))
		b, leftB := digestOf([]byte(test.b))
		if (a == b) != test.same {
			t.Errorf("%s and %s: the same is %v", test.a, test.b, a == b)
		}
		for text, left := range map[string]int64{test.a: leftA, test.b: leftB} {
			if marked := strings.Contains(text, "cache") && test.same; marked != (left > 0) || left > int64(2*len(text))+64 {
				t.Errorf("%s: %d left out", text, left)
			}
		}
	}
}

// canonical is the slow way to what digests are of. Half a surrogate pair is
// beyond it.
func canonical(t *testing.T, value []byte) string {
	t.Helper()
	var out bytes.Buffer
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err == io.EOF {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%T %q\n", token, fmt.Sprint(token))
	}
}

// rewritten is a JSON value with every string in escapes, as which and the place
// say, and other space.
func rewritten(t *testing.T, value []byte, which byte) []byte {
	t.Helper()
	var out []byte
	for i := 0; i < len(value); {
		if value[i] != '"' {
			if strings.IndexByte("{}[],:", value[i]) >= 0 && (which>>(i%8))&1 == 1 {
				out = append(out, " \n"...)
			}
			out = append(out, value[i])
			i++
			continue
		}
		n := skipString(value[i:])
		if bytes.Contains(value[i:i+n], []byte(`\u`)) || strings.HasPrefix(string(value[i+1:]), "cache_control") || strings.HasPrefix(string(value[i+1:]), "prompt_cache") {
			out = append(out, value[i:i+n]...)
			i += n
			continue
		}
		s := unquote(value[i : i+n])
		i += n
		out = append(out, '"')
		for j, unit := range utf16.Encode([]rune(s)) {
			if unit == '/' && j%2 == 0 {
				out = append(out, `\/`...)
			} else {
				out = fmt.Appendf(out, `\u%04x`, unit)
			}
		}
		out = append(out, '"')
	}
	return out
}

func FuzzDigest(f *testing.F) {
	for _, s := range []string{`{"a":["x\n",1,null,{"cache_control":{"type":"ephemeral"}}]}`, `["\ud83d\ude00\/","\\u0041"]`, `[[],{},"",-1e5]`, `{"role":"user","content":[{"type":"text","text":"\t\"q\" é"}]}`} {
		f.Add([]byte(s), []byte(`{"a":["x"]}`), byte(7))
	}
	f.Fuzz(func(t *testing.T, a, b []byte, which byte) {
		a, errA := oneValue(a)
		b, errB := oneValue(b)
		if errA != nil || errB != nil {
			return
		}
		first, left := digestOf(a)
		if again, _ := digestOf(rewritten(t, a, which)); again != first && left == 0 { // marks are known as clients write them
			t.Fatalf("%q and %q are the same", a, rewritten(t, a, which))
		}
		if second, leftB := digestOf(b); left == 0 && leftB == 0 && !bytes.Contains(a, []byte(`\u`)) && !bytes.Contains(b, []byte(`\u`)) {
			if same := canonical(t, a) == canonical(t, b); same != (first == second) {
				t.Fatalf("%q and %q: the same is %v", a, b, first == second)
			}
		}
	})
}

// oneValue is what the fuzzer found within what the package reads.
func oneValue(b []byte) ([]byte, error) {
	o, err := parseObject(append(append([]byte(`{"a":`), b...), '}'))
	if err != nil {
		return nil, err
	}
	value := o.get("a")
	if rest := o[cap(o)-cap(value)+len(value):]; len(bytes.TrimLeft(rest, jsonSpace)) != 1 {
		return nil, errNoObject // several members
	}
	return value, nil
}

// TestADigestIsOfAllThatCame checks that a digest covers exactly what was written, in
// pieces of any size, with and without GCM.
func TestADigestIsOfAllThatCame(t *testing.T) {
	t.Parallel()
	long := []byte(strings.Repeat("some words of a text, ", 600))
	for name, s := range map[string]*secret{"with GCM": newSecret(), "without": {start: testSecret.start}} {
		of := func(size int, pieces ...[]byte) digest {
			d := spareDigesters.Get().(*digester)
			defer spareDigesters.Put(d)
			d.begin(s)
			for _, b := range pieces {
				for len(b) > 0 {
					n := min(size, len(b))
					d.put(b[:n])
					_ = d.digest() // changes nothing
					b = b[n:]
				}
			}
			return d.digest()
		}
		all := make(map[digest]int)
		for _, n := range []int{0, 1, 4095, 4096, 4097, 8191, 8192, 8193, len(long)} {
			want := of(len(long), long[:n])
			if before, ok := all[want]; ok {
				t.Errorf("%s: %d and %d bytes have one digest", name, before, n)
			}
			all[want] = n
			for _, size := range []int{1, 7, 4095, 4096, 5000} {
				if of(size, long[:n]) != want {
					t.Errorf("%s: %d bytes in pieces of %d have another digest", name, n, size)
				}
			}
			if n == 0 {
				continue
			}
			for _, at := range []int{0, n / 2, n - 1} {
				if of(len(long), long[:at], []byte{long[at] ^ 1}, long[at+1:n]) == want {
					t.Errorf("%s: byte %d of %d does not count", name, at, n)
				}
			}
		}
		other := &digester{buf: make([]byte, 0, 4096)}
		other.begin(newSecret())
		if other.put(long); of(len(long), long) == other.digest() {
			t.Errorf("%s: another secret makes the same digest", name)
		}
	}
}

// TestMarksThatAreLeftOutAreHeldForAsLongAsTheyMayBe: what is not part of the digest
// may be added to a known prefix anywhere and any number of times, and a template may
// print all of it, with an indented line for every member.
func TestMarksThatAreLeftOutAreHeldForAsLongAsTheyMayBe(t *testing.T) {
	t.Parallel()
	growing := strings.Repeat("\ufdfa", 14) // three bytes each, and 33 in NFKC
	for _, mark := range []string{
		`"cache_control":{"type":"ephemeral"}`,
		`"cache_control":{"` + growing + `":""}`,
		`"cache_control":{"<<<<<<<<<<<<<<<<<<<<":">>>>>>>>>>>>>>>>>>>>>>>"}`,
		`"cache_control":{"a":"","b":"","c":"","d":"","e":"","f":"","g":""}`,
		`"prompt_cache_breakpoint":{}`,
	} {
		for _, depth := range []int{0, 1, 30, 90} {
			plain := strings.Repeat(`{"a":`, depth) + "{}" + strings.Repeat("}", depth)
			marked := strings.Replace(plain, "{}", "{"+mark+"}", 1)
			a, _ := digestOf([]byte(plain))
			b, left := digestOf([]byte(marked))
			_, without := promptLength([]byte(plain), asLines, nil)
			_, with := promptLength([]byte(marked), asLines, nil)
			if a != b || left < (with-without)*11/10 {
				t.Errorf("%s, %d deep: the same is %v, and %d tokens are held for %d", mark, depth, a == b, left, with-without)
			}
		}
	}
	block := `{"type":"text","text":"` + billingHeader + growing + growing + growing + `"}`
	d := &digester{buf: make([]byte, 0, 4096)}
	d.begin(testSecret)
	d.system([]byte("["+block+"]"), nil)
	if _, most := promptLength([]byte(block), asLines, nil); d.left < most*11/10 {
		t.Errorf("%d tokens are held for a header of %d", d.left, most)
	}
}
