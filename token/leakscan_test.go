package token

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"math/rand/v2"
	"mime/quotedprintable"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"
)

// found are the strings that a scan finds, each once, in order.
func found(text string) []string {
	var all []string
	seen := map[string]bool{}
	Scan([]byte(text), func(l Leak) {
		if s := l.Text.Reveal(); !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	})
	return all
}

func minted(t testing.TB, make func() (Secret, Lookup, error)) string {
	t.Helper()
	s, _, err := make()
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

func lines(s string, width int, end string) string {
	var b strings.Builder
	for len(s) > width {
		b.WriteString(s[:width] + end)
		s = s[width:]
	}
	return b.String() + s
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// wrappings are ways in which keys stand in texts.
var wrappings = map[string]func(key string) string{
	"alone":                 func(k string) string { return k },
	"in a sentence":         func(k string) string { return "use " + k + ", please" },
	"with sk-":              func(k string) string { return "Authorization: Bearer sk-" + k },
	"before other digits":   func(k string) string { return k + "0123" },
	"sealed":                func(k string) string { return k + ".AbCdEf-_0123" },
	"as a query":            func(k string) string { return "GET /v1/x?key=" + k + "&alt=sse" },
	"every byte percent":    func(k string) string { return percent(k) },
	"underscores percent":   func(k string) string { return strings.ReplaceAll(k, "_", "%5f") },
	"percent twice":         func(k string) string { return url.QueryEscape(strings.ReplaceAll(k, "_", "%5F")) },
	"JSON":                  func(k string) string { return `{"api_key":"` + k + `"}` },
	"JSON in JSON":          func(k string) string { return jsonOf(jsonOf(map[string]string{"k": k})) },
	"JSON escapes":          func(k string) string { return strings.ReplaceAll(k, "_", `\u005f`) },
	"JSON escapes, escaped": func(k string) string { return strings.ReplaceAll(k, "_", `\\u005F`) },
	"every byte as \\u":     func(k string) string { return every(k, `\u00%02x`) },
	"every byte as \\x":     func(k string) string { return every(k, `\x%02x`) },
	"HTML":                  func(k string) string { return html.EscapeString("<b>" + k + "</b>") },
	"HTML entities":         func(k string) string { return every(k, "&#%d;") },
	"HTML hex entities":     func(k string) string { return every(k, "&#x%x;") },
	"quoted-printable":      func(k string) string { return qp(strings.Repeat("x", 60) + k) },
	"quoted-printable =5F":  func(k string) string { return strings.ReplaceAll(k, "_", "=5F") },
	"UTF-16":                func(k string) string { return utf16le(k) },
	"added in a diff":       func(k string) string { return "+\tkey = \"" + k + "\"\n" },
	"broken in a diff":      func(k string) string { return "+" + lines(k, 20, "=\n+") + "\n" },
	"broken in a mail":      func(k string) string { return "> " + lines(k, 17, "\r\n> ") },
	"broken in a shell":     func(k string) string { return lines(k, 10, "\\\n    ") },
	"broken in JSON":        func(k string) string { return `{"x":"` + lines(k, 10, `\n`) + `"}` },
	"concatenated":          func(k string) string { return `"` + lines(k, 12, "\" +\n\t\t\"") + `"` },
	"a prefix before it":    func(k string) string { return "till_till_sk_ till_sk_abc " + k },
	"base64":                func(k string) string { return b64(k) },
	"base64, Basic":         func(k string) string { return "Authorization: Basic " + b64(k+":") },
	"base64, as password":   func(k string) string { return "Basic " + b64("me:"+k) },
	"base64, raw URL":       func(k string) string { return base64.RawURLEncoding.EncodeToString([]byte("~~~" + k + "~~~?")) },
	"base64 after a path":   func(k string) string { return "https://h.example/a/" + b64("x"+k) },
	"base64 in lines":       func(k string) string { return lines(b64(strings.Repeat("a line\n", 20)+k+"\n"), 76, "\n") },
	"base64 in CRLF lines":  func(k string) string { return lines(b64("~~~???"+strings.Repeat("~~?>>", 20)+k), 64, "\r\n") },
	"base64 in a diff":      func(k string) string { return "+" + lines(b64("~~~"+strings.Repeat("~?>", 40)+k), 76, "\n+") },
	"base64 in YAML":        func(k string) string { return "data: |\n    " + lines(b64(strings.Repeat("y", 100)+k), 60, "\n    ") },
	"base64 in JSON lines":  func(k string) string { return `"` + lines(b64(strings.Repeat("y", 100)+k), 64, `\n`) + `"` },
	"base64 in a URL":       func(k string) string { return url.QueryEscape(b64("~~>>??" + k + "~~>>??")) },
	"base64 twice":          func(k string) string { return b64(`{"auth":"` + b64("user:"+k) + `"}`) },
	"base64 three times":    func(k string) string { return b64(b64(b64(k))) },
	"base64 of percent":     func(k string) string { return b64("k=" + percent(k)) },
	"base64 of UTF-16":      func(k string) string { return b64(utf16le("$env:K='" + k + "'")) },
}

func every(s, format string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, format, s[i])
	}
	return b.String()
}

func percent(s string) string { return every(s, "%%%02X") }

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func qp(s string) string {
	var b bytes.Buffer
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

func utf16le(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

func TestEveryUsualWrappingIsSeenThrough(t *testing.T) {
	t.Parallel()
	for name, wrap := range wrappings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 30 { // other characters and alignments
				for _, make := range []func() (Secret, Lookup, error){MintKey, MintAdmin} {
					key := minted(t, make)
					for _, text := range []string{wrap(key), "before\n" + wrap(key) + "\nafter", "xy" + wrap(key)} {
						if got := found(text); len(got) != 1 || got[0] != key {
							t.Fatalf("found %d strings in %q", len(got), text)
						}
					}
				}
			}
		})
	}
}

func TestOnlyWhatIsAKeyIsFound(t *testing.T) {
	t.Parallel()
	key := minted(t, MintKey)
	for i := range key[len(KeyPrefix):] {
		at := len(KeyPrefix) + i
		wrong := key[:at] + string(alphabet[(digit(key[at])+1)%62]) + key[at+1:]
		if got := found(wrong); len(got) != 0 {
			t.Errorf("character %d changed: found %q", i, got)
		}
		if got := found(key[:at]); len(got) != 0 {
			t.Errorf("cut to %d characters: found %q", at, got)
		}
	}
	for _, text := range []string{
		"", "till", "till_sk_", "till_admin_", strings.ToUpper(key), "till_xx_" + key[len(KeyPrefix):],
		strings.Repeat("till_sk_", 1000), strings.Repeat("%", 1000), strings.Repeat("\\", 1000), strings.Repeat("=\n", 1000),
		strings.Repeat("A", 10000), "till_sk_" + strings.Repeat(" ", 100) + key[len(KeyPrefix):],
	} {
		if got := found(text); len(got) != 0 {
			t.Errorf("found %q in %.40q", got, text)
		}
	}
}

func TestSeveralKeysAreFoundWithTheirPlaces(t *testing.T) {
	t.Parallel()
	a, b, admin := minted(t, MintKey), minted(t, MintKey), minted(t, MintAdmin)
	wrapped := b64("user:" + b)
	text := "1 " + a + "\n2 " + wrapped + "\n3 " + admin + a
	want := map[int]string{2: a, strings.Index(text, wrapped): b, strings.Index(text, admin): admin, strings.LastIndex(text, a): a}
	Scan([]byte(text), func(l Leak) {
		if want[l.Offset] != l.Text.Reveal() {
			t.Errorf("at %d", l.Offset)
		}
		if l.Admin != (l.Text.Reveal() == admin) {
			t.Error("a key is not an admin token")
		}
		if lookup, err := ParseKey(l.Text.Reveal()); !l.Admin && (err != nil || lookup.Lookup != l.Lookup) {
			t.Errorf("lookup %s, %v", l.Lookup, err)
		}
		delete(want, l.Offset)
	})
	if len(want) != 0 {
		t.Errorf("%d were not found", len(want))
	}
}

// A text that was made to keep the scanner busy takes no more than its budget.
func TestScanningTakesTimeInProportion(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"base64 in base64": b64(b64(b64(strings.Repeat("\x00\x10\x83\x10\x51\x87", 1<<16)))),
		"words":            strings.Repeat("correct\nhorse\nbattery\nstaple\n", 1<<15),
		"diff lines":       strings.Repeat("\n+AAAA\n-AAAA", 1<<16),
		"prefixes":         strings.Repeat("till_sk_", 1<<17),
		"escapes":          strings.Repeat("%74", 1<<18),
		"backslashes":      strings.Repeat("\\", 1<<20),
		"percent":          "%" + strings.Repeat("25", 1<<19),
		"gaps":             "t" + strings.Repeat("\n", 1<<20),
	} {
		s := scanner{found: func(Leak) { t.Error("found something") }, budget: decodedPerByte * len(text)}
		s.scan([]byte(text), maxWraps, -1)
		t.Logf("%s: %d kB, decoded %d kB", name, len(text)>>10, decodedPerByte*len(text)>>10-s.budget>>10)
	}
}

func FuzzScan(f *testing.F) {
	key := "till_sk_" + "0000000000000000000000"
	key += string(appendBase62(nil, 0, uint64(checksum(key)), checksumLen))
	for _, name := range []string{"alone", "percent twice", "JSON in JSON", "base64 in a diff", "base64 twice", "UTF-16"} {
		f.Add([]byte(wrappings[name](key)))
	}
	raw, err := hex.DecodeString("fffe74006900")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, text []byte) {
		Scan(text, func(l Leak) {
			parse, prefix := ParseAdmin, AdminPrefix
			if !l.Admin {
				parse = func(s string) (Lookup, error) { p, err := ParseKey(s); return p.Lookup, err }
				prefix = KeyPrefix
			}
			if lookup, err := parse(l.Text.Reveal()); err != nil || lookup != l.Lookup || !strings.HasPrefix(l.Text.Reveal(), prefix) {
				t.Errorf("found what is no key: %v", err)
			}
			if l.Offset < 0 || l.Offset >= len(text) {
				t.Errorf("at %d of %d", l.Offset, len(text))
			}
		})
		// Whatever stands around it, a key on a line of its own is found.
		whole := append(append(bytes.Clone(text), "\n~ "+key+" ~\n"...), text...)
		ok := false
		Scan(whole, func(l Leak) { ok = ok || l.Text.Reveal() == key })
		if !ok {
			t.Error("the key was not found")
		}
	})
}

func BenchmarkScan(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 8<<20)
	for i := range text {
		text[i] = " etaoinshrdlucmfwypvbgkjqxz\n.,=/+0123456789"[r.IntN(43)]
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Scan(text, func(Leak) {})
	}
}
