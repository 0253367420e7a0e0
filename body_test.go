package till

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"testing"
	"testing/iotest"
)

// TestABodyIsHeldAsItCame, whatever its length, whether or not that was announced, and
// whatever came before it through the same room.
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
				b, got, err := hold(r, limit, nil)
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
		held, _, err := hold(r, 1<<20, nil)
		if err != nil || held.Close() != nil {
			b.Fatal(err)
		}
	}
}
