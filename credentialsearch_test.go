package till

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/token"
)

// shownForms lists how a text can repeat a credential.
func shownForms(credential string) map[string]string {
	each := func(format string) string {
		var b strings.Builder
		for _, c := range credential {
			fmt.Fprintf(&b, format, c)
		}
		return b.String()
	}
	words := func(unit func(uint16) string) string {
		var b strings.Builder
		for _, u := range utf16.Encode([]rune(credential)) {
			b.WriteString(unit(u))
		}
		return b.String()
	}
	first := []rune(credential)[0]
	return map[string]string{
		"plain":                       credential,
		"query":                       url.QueryEscape(credential),
		"path":                        url.PathEscape(credential),
		"all percent":                 each("%%%02X"),
		"percent twice":               each("%%25%02x"),
		"JSON, the first":             fmt.Sprintf(`\u%04x`, first) + credential[len(string(first)):],
		"JSON, all":                   each(`\u%04X`),
		"JSON in JSON":                each(`\\u%04x`),
		"JSON in JSON in JSON":        each(`\\\\u%04x`),
		"slashes":                     strings.ReplaceAll(credential, "/", `\/`),
		"JavaScript":                  each(`\x%02x`),
		"HTML":                        html.EscapeString(credential),
		"HTML, decimal":               each("&#%d;"),
		"HTML, hexadecimal":           each("&#x%X;"),
		"HTML twice":                  each("&amp;#%d;"),
		"JSON in a URL":               each("%%5Cu%04x"),
		"JSON in HTML":                each("&#92;u%04x"),
		"HTML in JSON":                each(`\u0026#%d;`),
		"HTML in a URL":               each("%%26%%23%d%%3B"),
		"a URL in HTML":               each("&#37;%02x"),
		"UTF-16, little":              words(func(u uint16) string { return string([]byte{byte(u), byte(u >> 8)}) }),
		"UTF-16, big":                 words(func(u uint16) string { return string([]byte{byte(u >> 8), byte(u)}) }),
		"UTF-32":                      words(func(u uint16) string { return string([]byte{0, 0, byte(u >> 8), byte(u)}) }),
		"base64":                      base64.StdEncoding.EncodeToString([]byte(credential)),
		"Basic, user":                 base64.StdEncoding.EncodeToString([]byte(credential + ":")),
		"Basic, password":             base64.StdEncoding.EncodeToString([]byte(":" + credential)),
		"base64 within something":     base64.StdEncoding.EncodeToString([]byte("ab" + credential + "cd")),
		"base64 for URLs":             base64.URLEncoding.EncodeToString([]byte("Bearer " + credential)),
		"base64, percent":             url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(credential))),
		"what an escape could eat":    "%" + credential,
		"what an escape could eat, 2": `\u` + credential,
		"what an escape could eat, 3": "&#" + credential,
		"begun twice":                 credential[:5] + credential,
	}
}

var testCredentials = []string{
	"sk-real-0123456789abcdef", "aGVsbG8/d29ybGQ+/+==", `back\slash\u0041&amp;%41<tag>`, "sk-sk-sk-sk-sk-sX", "41414141", "ünï-cödé-secret", "with a space",
}

func TestACredentialIsFoundHoweverItIsWrittenAndSplit(t *testing.T) {
	t.Parallel()
	for _, secret := range testCredentials {
		c := newCredential(token.NewSecret(secret))
		for name, form := range shownForms(secret) {
			if !isASCII(secret) && slices.Contains([]string{"UTF-16, little", "UTF-16, big", "UTF-32", "all percent", "percent twice", "a URL in HTML"}, name) {
				continue // other bytes, for text that is not ASCII
			}
			text := `{"error":{"message":"Incorrect API key provided: ` + form + ` \"s\" 100% & more"}}`
			if !c.shownIn(text) {
				t.Errorf("%q, %s: not found in %q", secret, name, text)
			}
			for n := 1; n < 9; n++ {
				passed, err := passSearched(c, strings.NewReader(text), n)
				if !errors.Is(err, errShown) {
					t.Errorf("%q, %s, by %d bytes: %v", secret, name, n, err)
				}
				if strings.Contains(passed, form[:4]) && !begunBefore[name] {
					t.Errorf("%q, %s, by %d bytes: %q passed", secret, name, n, passed)
				}
				if !strings.HasPrefix(text, passed) {
					t.Errorf("%q, %s: what passed is not what came: %q", secret, name, passed)
				}
			}
		}
	}
}

// begunBefore are the forms whose first bytes are not part of the credential.
var begunBefore = map[string]bool{
	"begun twice": true, "base64 within something": true, "base64 for URLs": true,
	"what an escape could eat": true, "what an escape could eat, 2": true, "what an escape could eat, 3": true,
}

func isASCII(s string) bool { return len(s) == len([]rune(s)) }

// passSearched reads a body through a search, in pieces of n bytes.
func passSearched(c *credential, body io.Reader, n int) (string, error) {
	b := &searched{rest: body, search: newSearch(c)}
	var passed bytes.Buffer
	piece := make([]byte, n)
	for {
		k, err := b.Read(piece)
		passed.Write(piece[:k])
		if err == io.EOF {
			return passed.String(), nil
		}
		if err != nil {
			return passed.String(), err
		}
	}
}

func TestASearchHoldsBackOnlyWhatMayBeginTheCredential(t *testing.T) {
	t.Parallel()
	c := newCredential(token.NewSecret("sk-real-0123456789abcdef"))
	for text, held := range map[string]string{
		"data: hello\n\n":                     "",
		"data: sk-":                           "sk-",
		"data: sk-x":                          "",
		"data: sk-real-01234567":              "sk-real-01234567",
		"data: sk-real-01234567 sk-r":         "sk-r",
		`data: \u0073k-re`:                    `\u0073k-re`,
		`data: \u007`:                         `\u007`,
		`data: sk-re\`:                        `sk-re\`,
		"data: sk-&#11":                       "sk-&#11",
		"data: 100%":                          "%",
		"data: 100% ":                         "",
		"data: &nbsp;":                        "",
		"s\x00k\x00-\x00":                     "s\x00k\x00-\x00",
		"data: s" + strings.Repeat("\x00", 9): "",
		"data: s" + strings.Repeat(`\`, 600):  strings.Repeat(`\`, 600-2*maxNested*maxNested),
	} {
		s := newSearch(c)
		if s.finds([]byte(text)) {
			t.Errorf("%q: found", text)
		}
		if got := string(s.held[s.harmless():]); got != held {
			t.Errorf("%q: holds back %q, want %q", text, got, held)
		}
	}
	none := newCredential(token.NewSecret("ollama"))
	if s := newSearch(none); s.finds([]byte("ollama ollama")) || s.harmless() != 13 || none.shownIn("ollama") {
		t.Error("what is no secret is searched for")
	}
}

// TestASearchedTextPassesUnchanged unless the credential is in it; then what passes
// ends before it.
func TestASearchedTextPassesUnchanged(t *testing.T) {
	t.Parallel()
	const secret = "sk-s/k&%73-k"
	c := newCredential(token.NewSecret(secret))
	pieces := []string{"s", "k", "-", "/", "&", "%", "7", "3", `\`, "u", "0", "x", "amp;", "#", ";", "\x00", "c2st", "é", "\n", "sk-s", secret, url.QueryEscape(secret), `\u0073k-s\/k&%73-k`}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 40).Draw(t, "text"), "")
		passed, err := passSearched(c, iotest.OneByteReader(strings.NewReader(text)), rapid.IntRange(1, 20).Draw(t, "size"))
		switch shown := c.shownIn(text); {
		case shown != errors.Is(err, errShown):
			t.Fatalf("%q: as a whole %t, in pieces %v", text, shown, err)
		case !shown && passed != text:
			t.Fatalf("%q became %q", text, passed)
		case c.shownIn(passed) || !strings.HasPrefix(text, passed):
			t.Fatalf("%q: %q passed", text, passed)
		case strings.Contains(text, secret) && !shown:
			t.Fatalf("%q: not found", text)
		}
	})
}

func FuzzSearch(f *testing.F) {
	const secret = "sk-real-0123456789abcdef"
	for _, form := range shownForms(secret) {
		f.Add([]byte("x"+form+"y"), 3)
	}
	c := newCredential(token.NewSecret(secret))
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		n = max(1, min(n, 1<<16))
		passed, err := passSearched(c, bytes.NewReader(text), n)
		shown := c.shownIn(string(text))
		if shown != errors.Is(err, errShown) || bytes.Contains(text, []byte(secret)) && !shown {
			t.Fatalf("as a whole %t, in pieces %v", shown, err)
		}
		if !shown && passed != string(text) || shown && c.shownIn(passed) {
			t.Fatalf("%q passed", passed)
		}
	})
}

func BenchmarkSearch(b *testing.B) {
	c := newCredential(token.NewSecret("sk-real-0123456789abcdefghijklmnopqrstuvwxyz"))
	text := bytes.Repeat([]byte(`{"error":{"message":"The model \"m\" does not exist","type":"invalid_request_error"}}`), 700)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if newSearch(c).finds(text) {
			b.Fatal("found")
		}
	}
}

// TestACredentialInTheNameOfAHeaderIsFound, in whatever case: net/http and HTTP/2 change that.
func TestACredentialInTheNameOfAHeaderIsFound(t *testing.T) {
	t.Parallel()
	c := newCredential(token.NewSecret("sk-Real-0123456789"))
	for _, name := range []string{"sk-real-0123456789", "Sk-Real-0123456789", "X-Echo-SK-REAL-0123456789-1"} {
		if !c.shownInHeader(http.Header{name: {"1"}}) {
			t.Errorf("%s passes", name)
		}
	}
	if c.shownInHeader(http.Header{"X-Sk-Real": {"0123456789"}}) {
		t.Error("what holds only a part of it is refused")
	}
}
