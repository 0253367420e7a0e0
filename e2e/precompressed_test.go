package e2e

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestWhatIsStoredCompressedArrivesSo is about clients that name no encodings:
// length, ETag and checksums are those of the stored bytes.
func TestWhatIsStoredCompressedArrivesSo(t *testing.T) {
	t.Parallel()
	stored := packed(t, bytes.Repeat([]byte("0123456789"), 6000), "gzip")
	asked := make(chan []string, 10)
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header["Accept-Encoding"]
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Etag", `"stored"`)
		if _, err := w.Write(stored); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(there.Close)
	s := newServer(t, options{to: there.URL, upstream: "allow GET /v1/*"})
	_, key := s.mint(object{"max_activations": 100})
	for accepted, want := range map[string]string{
		"": "", "gzip": "gzip", "gzip;q=0.5": "gzip", "br, gzip;q=0.2": "gzip", "gzip;q=0": "identity", "br": "identity", "*": "gzip", "identity": "identity",
	} {
		r := s.bare("GET", "/v1/files/f/content", "")
		r.Header.Set("Authorization", "Bearer "+key)
		if accepted != "" {
			r.Header.Set("Accept-Encoding", accepted)
		}
		res, body := s.must(r)
		if body != string(stored) || res.ContentLength != int64(len(stored)) || res.Header.Get("Etag") != `"stored"` || res.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%q: %d bytes, %v", accepted, len(body), res.Header)
		}
		if got := <-asked; !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: the upstream is asked for %q, want %q", accepted, got, want)
		}
	}
}
