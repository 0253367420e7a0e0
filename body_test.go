package till

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/iotest"
)

// TestABodyIsHeldAsItCame, whatever its length, announced or not, and whatever was in
// the same buffer before.
func TestABodyIsHeldAsItCame(t *testing.T) {
	t.Parallel()
	const limit = 5 * firstBuffer
	random := rand.NewChaCha8([32]byte{})
	type held struct{ want, got []byte }
	var all []held
	for _, size := range []int{1, 100, firstBuffer - 2, firstBuffer - 1, firstBuffer, firstBuffer + 1, 2*firstBuffer - 1, 2 * firstBuffer, 2*firstBuffer + 1, 4*firstBuffer + 7, limit} {
		for name, reads := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "in halves": iotest.HalfReader, "with its end": iotest.DataErrReader} {
			for _, announced := range []bool{true, false} {
				want := make([]byte, size)
				_, _ = random.Read(want) // it never fails
				r := httptest.NewRequest("POST", "/", nil)
				r.Body, r.ContentLength = io.NopCloser(reads(bytes.NewReader(want))), -1
				if announced {
					r.ContentLength = int64(size)
				}
				b, got, err := readBody(r, limit, nil)
				if err != nil {
					t.Fatalf("%d bytes %s, announced %v: %v", size, name, announced, err)
				}
				if room := b.first.Load() + b.more.Load(); room < int64(size) || room > 2*int64(size)+firstBuffer {
					t.Errorf("%d bytes %s, announced %v: room for %d is set aside", size, name, announced, room)
				}
				all = append(all, held{want, got})
				if err := b.Close(); err != nil || b.takesRoom() || b.keeps() != 0 {
					t.Errorf("%d bytes %s, announced %v: room is not given back: %v", size, name, announced, err)
				}
			}
		}
	}
	for _, b := range all {
		if !bytes.Equal(b.got, b.want) {
			t.Errorf("a body of %d bytes is held as another", len(b.want))
		}
	}
}

func BenchmarkHold(b *testing.B) {
	body := make([]byte, 100_000)
	r := httptest.NewRequest("POST", "/", nil)
	r.ContentLength = int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(bytes.NewReader(body))
		held, _, err := readBody(r, 1<<20, nil)
		if err != nil || held.Close() != nil {
			b.Fatal(err)
		}
	}
}

// TestASplicedBodyIsItsPieces, however it is read, and however it is sent.
func TestASplicedBodyIsItsPieces(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength < 0 {
			t.Error("its length is not announced")
		}
		b, _ := io.ReadAll(r.Body) // the client detects what is missing
		_, _ = w.Write(b)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 100, minSpliced - 1, minSpliced, minSpliced + 1, 5 * minSpliced} {
		for _, count := range []int{1, 2, 3, 7} {
			want := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
			spliced := func() *http.Request {
				var pieces [][]byte
				rest := want
				for range count - 1 {
					n := random.IntN(len(rest) + 1)
					pieces, rest = append(pieces, rest[:n:n]), rest[n:]
				}
				r := httptest.NewRequest("POST", server.URL, nil)
				x := &exchange{request: r, body: new(bufferedBody)}
				x.splice(append(pieces, rest))
				if r.ContentLength != int64(size) {
					t.Errorf("%d bytes in %d pieces: a length of %d", size, count, r.ContentLength)
				}
				r.RequestURI = ""
				return r
			}
			for name, reads := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "in halves": iotest.HalfReader} {
				if got, err := io.ReadAll(reads(spliced().Body)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes in %d pieces, read %s: %d others, %v", size, count, name, len(got), err)
				}
			}
			http1 := server.Client().Transport.(*http.Transport).Clone()
			http1.ForceAttemptHTTP2, http1.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
			t.Cleanup(http1.CloseIdleConnections)
			for name, by := range map[string]http.RoundTripper{"HTTP/1.1": http1, "HTTP/2.0": server.Client().Transport} {
				res, err := by.RoundTrip(spliced())
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				_ = res.Body.Close() // it was read
				if err != nil || res.Proto != name || !bytes.Equal(got, want) {
					t.Errorf("%d bytes in %d pieces, sent over %s: %d others over %s, %v", size, count, name, len(got), res.Proto, err)
				}
			}
		}
	}
}

// closedBody is a body of net/http's server that is closed once it was read.
type closedBody struct {
	content string
	end     error // what comes with the last byte
	read    bool
}

func (b *closedBody) Read(p []byte) (int, error) {
	if b.read {
		return 0, http.ErrBodyReadAfterClose
	}
	b.read = true
	return copy(p, b.content), b.end
}

func (b *closedBody) Close() error { return nil }

// TestABodyThatWasReadIsNotReadAgain: its client has not broken it off.
func TestABodyThatWasReadIsNotReadAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		length int64
		end    error
		second bool  // over HTTP/2
		want   error // of the next read
	}{
		"of a known length":                          {length: 5, want: io.EOF},
		"of a known length, with its end":            {length: 5, end: io.EOF, want: io.EOF},
		"in chunks, with its end":                    {length: -1, end: io.EOF, want: io.EOF},
		"but not yet completely":                     {length: 6, want: http.ErrBodyReadAfterClose},
		"but not yet to an end that nobody foretold": {length: -1, want: http.ErrBodyReadAfterClose},
		"over HTTP/2, where its end comes later":     {length: 5, second: true, want: http.ErrBodyReadAfterClose},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, p := &exchange{unbuffered: !test.second}, make([]byte, 10)
			b := &passingBody{ReadCloser: &closedBody{content: "hello", end: test.end}, x: x, left: test.length}
			if n, err := b.Read(p); n != 5 || err != test.end {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if n, err := b.Read(p); n != 0 || !errors.Is(err, test.want) {
				t.Errorf("then %d bytes, %v; want %v", n, err, test.want)
			}
			if whole := test.want == io.EOF; (x.bodyFailed.Load() == nil) != whole || whole && !x.bodyRead.Load() {
				t.Errorf("read completely: %v, broken off: %v", x.bodyRead.Load(), x.bodyFailed.Load() != nil)
			}
		})
	}
}
