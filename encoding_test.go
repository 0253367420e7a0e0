package till

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// encode applies encodings in their order. They are spelled as in a header; "raw"
// is deflate without the zlib format around it.
func encode(t testing.TB, text []byte, names ...string) []byte {
	t.Helper()
	for _, name := range names {
		var b bytes.Buffer
		var w io.WriteCloser
		var err error
		switch strings.ToLower(name) {
		case "gzip", "x-gzip":
			w = gzip.NewWriter(&b)
		case "deflate":
			w = zlib.NewWriter(&b)
		case "raw":
			w, err = flate.NewWriter(&b, flate.BestSpeed)
		case "zstd":
			w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		default:
			continue // identity
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		text = b.Bytes()
	}
	return text
}

func encodedAnswer(body []byte, lines ...string) *http.Response {
	header := http.Header{"Content-Encoding": lines, "Content-Length": {"1"}, "Etag": {`"x"`}}
	return &http.Response{Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
}

func TestAnswersAreDecodedHoweverTheirEncodingIsSpelled(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("Some words of an error. "), 1000)
	for _, test := range []struct {
		lines   []string
		applied []string
	}{
		{[]string{"gzip"}, []string{"gzip"}},
		{[]string{"GZip"}, []string{"gzip"}},
		{[]string{"x-gzip"}, []string{"gzip"}},
		{[]string{" X-GZIP\t"}, []string{"gzip"}},
		{[]string{"deflate"}, []string{"deflate"}},
		{[]string{"Deflate"}, []string{"raw"}},
		{[]string{"zstd"}, []string{"zstd"}},
		{[]string{"identity"}, nil},
		{[]string{"", " , ,"}, nil},
		{[]string{"identity, gzip"}, []string{"gzip"}},
		{[]string{"gzip,identity,"}, []string{"gzip"}},
		{[]string{"gzip, gzip"}, []string{"gzip", "gzip"}},
		{[]string{"gzip", "deflate"}, []string{"gzip", "deflate"}},
		{[]string{"zstd, x-gzip", "DEFLATE"}, []string{"zstd", "gzip", "raw"}},
	} {
		res := encodedAnswer(encode(t, text, test.applied...), test.lines...)
		if !decode(res, unlimited) {
			t.Errorf("%q: not known", test.lines)
			continue
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%q: %d bytes, %v", test.lines, len(got), err)
		}
		if len(test.applied) > 0 && (len(res.Header) > 0 || res.ContentLength != -1) {
			t.Errorf("%q: the header still says %v, %d bytes", test.lines, res.Header, res.ContentLength)
		}
	}
	for _, lines := range [][]string{{"br"}, {"compress"}, {"gzip, br"}, {"br", "gzip"}, {"gzip;q=1"}, {"gzip deflate"}, {"dcb"}, {"aws-chunked"}, {"gzip, gzip, gzip, gzip"}, {"ＧＺＩＰ"}} {
		res := encodedAnswer(text, lines...)
		if decode(res, unlimited) {
			t.Errorf("%q: taken for known", lines)
		}
		if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, text) || !slices.Equal(res.Header["Content-Encoding"], lines) {
			t.Errorf("%q: changed, %v", lines, err)
		}
	}
}

func TestWhatIsNotInItsEncodingIsAnError(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("Some words of an error. "), 1000)
	for _, name := range []string{"gzip", "deflate", "zstd"} {
		whole := encode(t, text, name)
		for what, body := range map[string][]byte{
			"plain": []byte("Some words"), "cut off": whole[:len(whole)-3], "one byte": whole[:1], "noise behind": append(slices.Clone(whole), "noise"...),
		} {
			res := encodedAnswer(body, name)
			decode(res, unlimited)
			got, err := io.ReadAll(res.Body)
			if err == nil && (what != "noise behind" || !bytes.Equal(got, text)) {
				t.Errorf("%s, %s: %q passes for an answer", name, what, got)
			}
		}
		res := encodedAnswer(nil, name)
		decode(res, unlimited)
		if got, err := io.ReadAll(res.Body); err != nil || len(got) > 0 {
			t.Errorf("%s, nothing: %q, %v", name, got, err)
		}
	}
}

func TestBombsAreDefused(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	once := encode(t, make([]byte, 2*most), "gzip")
	// The first decoder yields much from which the second yields nothing: members of a
	// file that have a header alone (RFC 1952, section 2.3.1.1).
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	z.Extra = make([]byte, 1<<16-1)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const some = 1 << 6
	empty := bytes.Repeat(encode(t, bytes.Repeat(member.Bytes(), some), "gzip"), maxBetween>>16/some+1)
	wide := encode(t, bytes.Repeat([]byte("x"), 100), "zstd")
	wide = append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8}, wide[6:]...) // a window of 2 GB: RFC 8878, section 3.1.1.1.2

	for name, test := range map[string]struct {
		body  []byte
		lines []string
		want  error // nil for any
	}{
		"one":              {once, []string{"gzip"}, errTooLong},
		"one over another": {encode(t, once, "gzip"), []string{"gzip, gzip"}, errTooLong},
		"of nothing":       {empty, []string{"gzip, gzip"}, errTooLong},
		"of memory":        {wide, []string{"zstd"}, nil},
	} {
		res := encodedAnswer(test.body, test.lines...)
		if !decode(res, most) {
			t.Errorf("%s: not known", name)
			continue
		}
		n, err := io.Copy(io.Discard, res.Body)
		if err == nil || test.want != nil && !errors.Is(err, test.want) || n > most {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	text := []byte(`{"error":{"message":"The model does not exist"}}`)
	for _, name := range []string{"gzip", "deflate", "zstd"} {
		f.Add(name, encode(f, text, name))
		f.Add(name+", gzip", encode(f, text, name, "gzip"))
	}
	f.Add("deflate", encode(f, text, "raw"))
	f.Add("gzip, br;x=1,,", text)
	f.Fuzz(func(t *testing.T, line string, body []byte) {
		res := encodedAnswer(body, line)
		known := decode(res, 1<<20)
		got, err := io.ReadAll(res.Body)
		switch {
		case len(got) > 1<<20:
			t.Fatalf("%d bytes", len(got))
		case !known && (err != nil || !bytes.Equal(got, body)):
			t.Fatal("what is not known was changed")
		case known && len(encodings(res.Header)) > 0:
			t.Fatal("what was decoded says that it is not")
		}
	})
}

func TestUpstreamsAreAskedForWhatCanBeSearched(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                                   "identity",
		"gzip":                               "gzip",
		"GZIP":                               "gzip",
		"x-gzip":                             "gzip",
		"br, gzip":                           "gzip",
		"gzip, deflate, br, zstd":            "gzip",
		"br":                                 "identity",
		"deflate":                            "identity",
		"gzip;q=0.5":                         "gzip",
		"gzip ; Q=0.001":                     "gzip",
		"gzip;q=1.000":                       "gzip",
		"gzip;q=1":                           "gzip",
		"br;q=1.0, gzip;q=0.8, *;q=0.1":      "gzip",
		"gzip;q=0":                           "identity",
		"gzip;q=0.":                          "identity",
		"gzip;q=0.000":                       "identity",
		"gzip;q=0, *":                        "identity",
		"*":                                  "gzip",
		"*;q=0":                              "identity",
		"*;q=0.3":                            "gzip",
		"identity;q=1, *;q=0":                "identity",
		"identity, gzip;q=0.1":               "identity",
		"gzip, identity":                     "gzip",
		"identity;q=0, gzip;q=0.1":           "gzip",
		"gzip;q=2":                           "identity",
		"gzip;q=0.1234":                      "identity",
		"gzip;q=-1":                          "identity",
		"gzip;level=9":                       "identity",
		"notgzip":                            "identity",
		"gzipped":                            "identity",
		"br | gzip;q=0":                      "identity",
		"deflate | gzip":                     "gzip",
		strings.Repeat("br,", 1<<12):         "identity",
		strings.Repeat(";q=", 1<<12):         "identity",
		"compress;q=0.5, gzip;q=1.0":         "gzip", // RFC 9110, section 12.5.3
		"gzip;q=1.0, identity; q=0.5, *;q=0": "gzip",
	} {
		if got := acceptEncoding(strings.Split(line, " | ")); got != want {
			t.Errorf("%.60q: %s, want %s", line, got, want)
		}
	}
}
