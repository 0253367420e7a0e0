package e2e

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

var sentAt = regexp.MustCompile(`at (\d+);`)

const streamBody = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`

// streaming makes a request for a stream of n events.
func (s *server) streaming(ctx context.Context, key string, n int, pause time.Duration) *http.Request {
	r := s.request(ctx, key, "X-Test-Events", strconv.Itoa(n), "X-Test-Pause", pause.String())
	r.Body = io.NopCloser(strings.NewReader(streamBody))
	r.ContentLength = int64(len(streamBody))
	return r
}

// TestStreamsArriveEventByEvent has an upstream that sends an event only when the
// client has read the one before: a proxy that held one back would wait for ever.
func TestStreamsArriveEventByEvent(t *testing.T) {
	t.Parallel()
	const events = 100
	for _, test := range []struct{ name, site, accept string }{
		{name: "plain"},
		{name: "encode that leaves it alone", site: "encode gzip zstd"},
		{name: "encode that compresses", site: "encode gzip {\nminimum_length 1\n}", accept: "gzip"},
	} {
		for _, limits := range []object{{"max_activations": 10}, {"max_tokens": 100_000}} {
			t.Run(fmt.Sprint(test.name, limits), func(t *testing.T) {
				t.Parallel()
				read := make(chan struct{})
				there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					for i := range events {
						if i > 0 {
							select {
							case <-read:
							case <-r.Context().Done():
								return
							}
						}
						if _, err := fmt.Fprintf(w, "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"at %d;\"}}]}\n\n", i); err != nil {
							return
						}
						if err := http.NewResponseController(w).Flush(); err != nil {
							return
						}
					}
				}))
				t.Cleanup(there.Close)
				s := newServer(t, options{site: test.site, to: there.URL})
				_, key := s.mint(limits)
				r := s.streaming(t.Context(), key, events, 0)
				if test.accept != "" {
					r.Header.Set("Accept-Encoding", test.accept)
				}
				res, err := s.client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body := io.Reader(res.Body)
				if encoding := res.Header.Get("Content-Encoding"); res.StatusCode != http.StatusOK || encoding != test.accept {
					t.Fatalf("%s, encoded with %q, want %q", res.Status, encoding, test.accept)
				} else if encoding != "" {
					if body, err = gzip.NewReader(res.Body); err != nil {
						t.Fatal(err)
					}
				}
				n := 0
				lines := bufio.NewScanner(body)
				for lines.Scan() {
					m := sentAt.FindStringSubmatch(lines.Text())
					if m == nil {
						continue
					}
					if m[1] != strconv.Itoa(n) {
						t.Fatalf("event %s comes as number %d", m[1], n)
					}
					if n++; n < events {
						read <- struct{}{}
					}
				}
				if err := lines.Err(); err != nil || n != events {
					t.Errorf("%d of %d events, %v", n, events, err)
				}
			})
		}
	}
}

// TestAStreamMayBeSilentBeforeItsEnd, for longer than a write may take. On a busy machine any
// write may take that long, so there are some tries.
func TestAStreamMayBeSilentBeforeItsEnd(t *testing.T) {
	t.Parallel()
	const (
		event     = "data: hi\n\n"
		writeIdle = 500 * time.Millisecond
		tries     = 10
	)
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if _, err := io.WriteString(w, event); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		time.Sleep(3 * writeIdle) // the silence
	}))
	t.Cleanup(there.Close)
	s := newServer(t, options{
		vendor: upstreamtest.Any, to: there.URL,
		site:   "route /guarded/* {\n\ttill guard\n\treverse_proxy " + strings.TrimPrefix(there.URL, "http://") + "\n}\n",
		global: "servers {\n\ttimeouts {\n\t\twrite_idle " + writeIdle.String() + "\n\t}\n}",
	})
	_, key := s.mint(object{"max_activations": 100})
	reads := func(path string) error {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		res, err := s.client.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err == nil && string(body) != event {
			t.Fatalf("%s: %s %q", path, res.Status, body)
		}
		return err
	}
	for _, path := range []string{"/proxied", "/guarded"} {
		err := reads(path + "/x")
		for n := 1; err != nil && n < tries; n++ {
			err = reads(path + "/x")
		}
		if err != nil {
			t.Errorf("%s: the stream broke off: %v", path, err)
		}
	}
}

func TestAStreamSurvivesAReload(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 10})
	res, err := s.client.Do(s.streaming(context.Background(), key, 300, 5*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	events := 0
	for lines.Scan() {
		if sentAt.MatchString(lines.Text()) {
			if events++; events == 10 {
				s.reload()
			}
		}
	}
	if err := lines.Err(); err != nil || events != 300 {
		t.Errorf("%d of 300 events over a reload, %v", events, err)
	}
	if n := s.used(id); n != 1 {
		t.Errorf("used %d", n)
	}
	s.clean()
}

// TestRevokeEndsAStreamWithin100ms tries some streams, because others use the
// processors: what waited for something would do so in each of them. Where the
// machine is so busy that calls take long, the end of a stream may take as much
// more as some calls do.
func TestRevokeEndsAStreamWithin100ms(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	took, call := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range 10 {
		began := time.Now()
		if status, answer := s.api("GET", "/stats", nil); status != http.StatusOK {
			t.Fatal(status, answer)
		}
		call = min(call, time.Since(began))
		if took = min(took, s.revokesAStream()); took <= 100*time.Millisecond {
			return
		}
	}
	if took > 100*time.Millisecond+10*call {
		t.Errorf("it took %s, want at most 100 ms, where a call takes %s", took, call)
	}
}

// revokesAStream returns how long a stream went on after the call to revoke its
// key began.
func (s *server) revokesAStream() time.Duration {
	t := s.t
	t.Helper()
	id, key := s.mint(object{"max_activations": 10})
	res, err := s.client.Do(s.streaming(context.Background(), key, 1_000_000, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	ended := lastEvent(t, res)
	start := time.Now()
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 || answer["streams_cut"].(float64) != 1 {
		t.Fatalf("revoke: %d %v", status, answer)
	}
	last := <-ended
	took := time.Since(start)
	t.Logf("ended %s after the call to revoke began", took)
	if !strings.HasPrefix(last, `data: {"error":`) || !strings.Contains(last, "till_key_revoked") {
		t.Errorf("the stream ended with %q, want the dialect's error event", last)
	}
	if status := s.chat(key); status != http.StatusForbidden {
		t.Errorf("the next request: %d", status)
	}
	return took
}

func TestRevokeRefusesARequestThatStillWaits(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 10})
	type result struct {
		status int
		body   string
	}
	answer := make(chan result)
	go func() {
		res, err := s.client.Do(s.request(context.Background(), key, "X-Test-Fail", "hang"))
		if err != nil {
			answer <- result{0, err.Error()}
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			b = []byte(err.Error())
		}
		answer <- result{res.StatusCode, string(b)}
	}()
	s.eventually("the request hangs", func() bool { return s.upstream.Count() == 1 })
	if status, _ := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 {
		t.Fatal(status)
	}
	if got := <-answer; got.status != http.StatusForbidden || !strings.Contains(got.body, "till_key_revoked") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if n := s.used(id); n != 1 {
		t.Errorf("used %d, want 1: it was dispatched", n)
	}
}
