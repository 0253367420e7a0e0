package e2e

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// packed encodes a text. "raw" is deflate without the zlib format around it, and
// "br" is Brotli that does not compress (RFC 7932, section 9.2).
func packed(t *testing.T, text []byte, names ...string) []byte {
	t.Helper()
	for _, name := range names {
		var b bytes.Buffer
		var w io.WriteCloser
		var err error
		switch name {
		case "gzip":
			w = gzip.NewWriter(&b)
		case "deflate":
			w = zlib.NewWriter(&b)
		case "raw":
			w, err = flate.NewWriter(&b, flate.DefaultCompression)
		case "zstd":
			w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		case "br":
			n := (len(text)-1)<<4 | 1<<20
			text = append(append([]byte{byte(n), byte(n >> 8), byte(n >> 16)}, text...), 3)
			continue
		default:
			continue
		}
		if err == nil {
			_, err = w.Write(text)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		text = b.Bytes()
	}
	return text
}

// errorForms are the ways in which an error can repeat the credential.
var errorForms = map[string]string{
	"plain":  realKey,
	"JSON":   `\u0073k-real\u002d` + strings.TrimPrefix(realKey, "sk-real-"),
	"nested": `\\u0073k-` + strings.TrimPrefix(realKey, "sk-"),
	"HTML":   "sk&#45;" + strings.TrimPrefix(realKey, "sk-"),
	"Basic":  base64.StdEncoding.EncodeToString([]byte(realKey + ":")),
	"base64": base64.StdEncoding.EncodeToString([]byte("Bearer " + realKey)),
}

// errorEncodings are spellings of Content-Encoding, each a line, and what was
// really applied.
var errorEncodings = []struct {
	lines   []string
	applied []string
}{
	{nil, nil},
	{[]string{"identity"}, nil},
	{[]string{"gzip"}, []string{"gzip"}},
	{[]string{"GZIP"}, []string{"gzip"}},
	{[]string{"x-gzip"}, []string{"gzip"}},
	{[]string{"deflate"}, []string{"deflate"}},
	{[]string{"deflate"}, []string{"raw"}},
	{[]string{"zstd"}, []string{"zstd"}},
	{[]string{"br"}, []string{"br"}},
	{[]string{"identity, gzip"}, []string{"gzip"}},
	{[]string{"gzip, gzip"}, []string{"gzip", "gzip"}},
	{[]string{"gzip", "gzip"}, []string{"gzip", "gzip"}},
	{[]string{"deflate, gzip,"}, []string{"deflate", "gzip"}},
	{[]string{"zstd", "br"}, []string{"zstd", "br"}},
	{[]string{"br, gzip"}, []string{"br", "gzip"}},
	{[]string{"gzip, gzip, gzip, gzip"}, []string{"gzip", "gzip", "gzip", "gzip"}},
	{[]string{"gzip"}, nil}, // it lies
	{[]string{"gzip;q=1"}, []string{"gzip"}},
	{[]string{"compress"}, nil},
}

// TestNoErrorShowsTheCredentialInAnyEncoding sweeps over how an error may be encoded,
// spelled, written and sent. An error that cannot be searched is not passed on.
func TestNoErrorShowsTheCredentialInAnyEncoding(t *testing.T) {
	t.Parallel()
	utf16le := func(s string) []byte {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return b
	}
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ask := r.URL.Query()
		which, err := strconv.Atoi(ask.Get("encoding"))
		if err != nil {
			t.Error(err)
			return
		}
		status, err := strconv.Atoi(ask.Get("status"))
		if err != nil {
			t.Error(err)
			return
		}
		encoding := errorEncodings[which]
		text := []byte(strings.Repeat(" ", 100) + `{"error":{"message":"Incorrect API key provided: ` + errorForms[ask.Get("form")] + `. Find yours in the settings.","type":"invalid_request_error"}}`)
		w.Header().Set("Content-Type", "application/json")
		if ask.Get("sent") == "UTF-16" {
			w.Header().Set("Content-Type", "application/json; charset=utf-16le")
			text = utf16le(string(text))
		}
		if ask.Get("sent") == "UTF-7" {
			w.Header().Set("Content-Type", "text/plain; charset=utf-7")
		}
		if ask.Get("sent") == "events" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		body := packed(t, text, encoding.applied...)
		w.Header()["Content-Encoding"] = encoding.lines
		if ask.Get("sent") == "whole" {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(status)
		n := len(body)
		if ask.Get("sent") == "pieces" {
			n = 7
		}
		for len(body) > 0 {
			k := min(n, len(body))
			if _, err := w.Write(body[:k]); err != nil {
				return
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			body = body[k:]
		}
	}))
	t.Cleanup(there.Close)
	s := newServer(t, options{to: there.URL, more: "upstream any " + there.URL + " {\n\tcredential {env.MOCK_KEY}\n}"})
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	keys := make(map[string]string)
	_, keys["activations"] = s.mint(object{"max_activations": 100_000})
	_, keys["tokens"] = s.mint(object{"max_tokens": 1_000_000_000})
	_, keys["a plain upstream"] = s.mint(object{"max_activations": 100_000, "upstream": "any"})

	var all sync.WaitGroup
	turns := make(chan struct{}, 8)
	for which, encoding := range errorEncodings {
		for form := range errorForms {
			for what, key := range keys {
				for i, sent := range []string{"whole", "chunked", "pieces", "events", "UTF-16", "UTF-7"} {
					status := []int{400, 404, 500, 429, 303, 503}[(which+i)%6]
					all.Add(1)
					turns <- struct{}{}
					go func() {
						defer func() { <-turns; all.Done() }()
						name := fmt.Sprintf("%d in %q (%q), %s, %s, %s", status, encoding.lines, encoding.applied, form, sent, what)
						r := s.request(context.Background(), key)
						r.URL.RawQuery = fmt.Sprintf("encoding=%d&form=%s&sent=%s&status=%d", which, form, sent, status)
						began := time.Now()
						res, err := s.client.Do(r)
						if err != nil {
							t.Errorf("%s: %v", name, err)
							return
						}
						// What is a stream, or has not come within five seconds, passes as it comes,
						// and is broken off.
						begins := sent == "events" || time.Since(began) > 5*time.Second
						defer res.Body.Close()
						body, err := io.ReadAll(res.Body)
						if res.StatusCode != http.StatusBadGateway || res.Header.Get("Till-Refusal") != "till_upstream_failed" || err != nil {
							if !begins || err == nil {
								t.Errorf("%s: %d %v, %v, %.100q", name, res.StatusCode, res.Header, err, body)
							}
						}
						if res.Header.Get("Content-Encoding") != "" || bytes.Contains(body, []byte("sk-")) || bytes.Contains(body, []byte(errorForms[form])) {
							t.Errorf("%s: %v %.300q", name, res.Header, body)
						}
					}()
				}
			}
		}
	}
	all.Wait()
}

// TestErrorsThatShowNothingPass checks that such errors arrive decoded, whatever
// their encoding was.
func TestErrorsThatShowNothingPass(t *testing.T) {
	t.Parallel()
	const text = `{"error":{"message":"The model \"sk-real\" does not exist.","type":"invalid_request_error"}}`
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		which, err := strconv.Atoi(r.URL.Query().Get("encoding"))
		if err != nil {
			t.Error(err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header()["Content-Encoding"] = errorEncodings[which].lines
		w.WriteHeader(http.StatusNotFound)
		if _, err := w.Write(packed(t, []byte(text), errorEncodings[which].applied...)); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(there.Close)
	s := newServer(t, options{to: there.URL})
	_, activations := s.mint(object{"max_activations": 1000})
	_, tokens := s.mint(object{"max_tokens": 1_000_000})
	for which, encoding := range errorEncodings {
		refused := len(encoding.lines) > 0 && (strings.Contains(strings.Join(encoding.lines, ","), "br") || len(encoding.applied) > 3 ||
			encoding.lines[0] == "compress" || encoding.lines[0] == "gzip;q=1" || encoding.lines[0] == "gzip" && encoding.applied == nil)
		for _, key := range []string{activations, tokens} {
			for _, method := range []string{"POST", "HEAD"} {
				r := s.request(t.Context(), key)
				r.URL.RawQuery = fmt.Sprintf("encoding=%d", which)
				if r.Method = method; method == "HEAD" {
					if r.Body, r.ContentLength = nil, 0; key == tokens {
						continue // it has no body to bound
					}
				}
				res, body := s.must(r)
				switch {
				case method == "HEAD":
					if res.StatusCode != http.StatusNotFound {
						t.Errorf("HEAD %q: %d %v", encoding.lines, res.StatusCode, res.Header)
					}
				case refused != (res.StatusCode == http.StatusBadGateway):
					t.Errorf("%q: %d %s", encoding.lines, res.StatusCode, body)
				case !refused && (body != text || res.StatusCode != http.StatusNotFound || len(encoding.applied) > 0 && (res.Header.Get("Content-Encoding") != "" || res.ContentLength != int64(len(text)))):
					t.Errorf("%q: %d %v %q", encoding.lines, res.StatusCode, res.Header, body)
				}
			}
		}
	}
}

// TestAnErrorThatStreamsPassesAsItComes has an upstream that sends an event only
// when the client has read the one before, and in the end shows the credential.
func TestAnErrorThatStreamsPassesAsItComes(t *testing.T) {
	t.Parallel()
	const events = 20
	for _, encoding := range []string{"", "gzip"} {
		for _, contentType := range []string{"text/event-stream", "application/x-ndjson"} {
			for _, limits := range []object{{"max_activations": 10}, {"max_tokens": 100_000}} {
				t.Run(fmt.Sprint(encoding, contentType, limits), func(t *testing.T) {
					t.Parallel()
					read := make(chan struct{})
					there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", contentType)
						out, flush := io.Writer(w), func() error { return nil }
						if encoding != "" {
							w.Header().Set("Content-Encoding", encoding)
							z := gzip.NewWriter(w)
							out, flush = z, z.Flush
						}
						w.WriteHeader(http.StatusNotFound)
						for i := range events {
							text := fmt.Sprintf("data: number %d\n\n", i)
							if i == events-1 {
								text = "data: the key " + realKey + " is wrong\n\n"
							}
							_, err := io.WriteString(out, text)
							if err := errors.Join(err, flush(), http.NewResponseController(w).Flush()); err != nil {
								return
							}
							if i < events-1 {
								select {
								case <-read:
								case <-r.Context().Done():
									return
								}
							}
						}
					}))
					t.Cleanup(there.Close)
					s := newServer(t, options{to: there.URL})
					_, key := s.mint(limits)
					res, err := s.client.Do(s.request(t.Context(), key))
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					if res.StatusCode != http.StatusNotFound || res.Header.Get("Content-Type") != contentType || res.Header.Get("Content-Encoding") != "" {
						t.Fatalf("%s %v", res.Status, res.Header)
					}
					body := bufio.NewReader(res.Body)
					for i := range events - 1 {
						if line, err := body.ReadString('\n'); err != nil || line != fmt.Sprintf("data: number %d\n", i) {
							t.Fatalf("event %d is %q, %v", i, line, err)
						}
						if _, err := body.ReadString('\n'); err != nil {
							t.Fatal(err)
						}
						read <- struct{}{}
					}
					rest, err := io.ReadAll(body)
					if err == nil || !strings.HasPrefix("data: the key ", string(rest)) {
						t.Errorf("then %q, %v", rest, err)
					}
				})
			}
		}
	}
}

// TestALongErrorIsSearchedToItsEnd also covers an error that answers an upgrade.
func TestALongErrorIsSearchedToItsEnd(t *testing.T) {
	t.Parallel()
	const line = "Some words of an error that goes on for long.\n"
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := []byte(strings.Repeat(line, 4000))
		if r.URL.Path == "/ws/refused" {
			text = text[:1000]
		}
		if r.URL.Query().Get("shows") != "" {
			text = append(text, "The key was "+realKey+".\n"+line...)
		}
		encoding := r.URL.Query().Get("encoding")
		w.Header().Set("Content-Type", "text/plain")
		if encoding != "" {
			w.Header().Set("Content-Encoding", encoding)
		}
		body := packed(t, text, encoding)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusForbidden)
		if _, err := w.Write(body); err != nil && r.URL.Query().Get("shows") == "" && encoding != "br" {
			t.Error(err) // what cannot be searched is not read to its end
		}
	}))
	t.Cleanup(there.Close)
	s := newServer(t, options{vendor: upstreamtest.Any, to: there.URL, upstream: "upgrades /ws/*"})
	_, key := s.mint(object{"max_activations": 1000})
	for _, encoding := range []string{"", "gzip", "deflate", "zstd", "br"} {
		for _, shows := range []string{"", "yes"} {
			for _, path := range []string{"/long", "/ws/refused"} {
				r := s.bare("GET", path+"?encoding="+encoding+"&shows="+shows, "")
				r.Header.Set("Authorization", "Bearer "+key)
				if path != "/long" {
					r.Header.Set("Connection", "Upgrade")
					r.Header.Set("Upgrade", "websocket")
				}
				res, err := s.client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				name := fmt.Sprintf("%s in %q, shows %q: %s, %d bytes, %v", path, encoding, shows, res.Status, len(body), err)
				switch {
				case strings.Contains(string(body), "sk-"):
					t.Errorf("%s: %.100q", name, body[max(0, len(body)-100):])
				case encoding == "br" || shows != "" && path == "/ws/refused":
					if res.StatusCode != http.StatusBadGateway || err != nil {
						t.Error(name)
					}
				case shows != "":
					if res.StatusCode != http.StatusForbidden || err == nil {
						t.Error(name)
					}
				case res.StatusCode != http.StatusForbidden || err != nil || !strings.HasPrefix(strings.Repeat(line, 4000), string(body)) || path == "/long" && string(body) != strings.Repeat(line, 4000):
					t.Error(name)
				}
			}
		}
	}
}
