package e2e

import (
	"bufio"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var sentAt = regexp.MustCompile(`at (\d+);`)

// delays reads an event stream and returns how long each event was on its way.
func delays(t *testing.T, client *http.Client, r *http.Request) []time.Duration {
	t.Helper()
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	body := io.Reader(res.Body)
	if encoding := res.Header.Get("Content-Encoding"); encoding != r.Header.Get("Accept-Encoding") {
		t.Fatalf("encoded with %q, want %q", encoding, r.Header.Get("Accept-Encoding"))
	} else if encoding != "" {
		if body, err = gzip.NewReader(res.Body); err != nil {
			t.Fatal(err)
		}
	}
	var all []time.Duration
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if m := sentAt.FindStringSubmatch(lines.Text()); m != nil {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, time.Since(time.Unix(0, n)))
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

const streamBody = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`

// streaming makes a request for a stream of n events.
func (s *server) streaming(ctx context.Context, key string, n int, pause time.Duration) *http.Request {
	r := s.request(ctx, key, "X-Test-Events", strconv.Itoa(n), "X-Test-Pause", pause.String())
	r.Body = io.NopCloser(strings.NewReader(streamBody))
	r.ContentLength = int64(len(streamBody))
	return r
}

// TestStreamsArriveEventByEvent compares the time that events take through
// till, plain and through encode, with that of a direct connection. Other
// tests share the processors, so up to five streams may be tried: a proxy that
// holds events back does so in each of them.
func TestStreamsArriveEventByEvent(t *testing.T) {
	const events, pause = 100, 5 * time.Millisecond
	for _, test := range []struct{ name, site, accept string }{
		{name: "plain"},
		{name: "encode that leaves it alone", site: "encode gzip zstd"},
		{name: "encode that compresses", site: "encode gzip {\nminimum_length 1\n}", accept: "gzip"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, options{site: test.site})
			_, key := s.mint(object{"max_activations": 10})
			var added time.Duration
			for range 5 {
				direct := s.streaming(context.Background(), realKey, events, pause)
				direct.URL.Host = strings.TrimPrefix(s.upstream.URL, "http://")
				base := delays(t, s.client, direct)
				through := s.streaming(context.Background(), key, events, pause)
				if test.accept != "" {
					through.Header.Set("Accept-Encoding", test.accept)
				}
				till := delays(t, s.client, through)
				if len(till) != events || len(base) != events {
					t.Fatalf("%d and %d events, want %d", len(till), len(base), events)
				}
				added = till[events/2] - base[events/2]
				t.Logf("median delay of an event: direct %s, through till %s, added %s (race detector: %v)", base[events/2], till[events/2], added, raced)
				if added < time.Millisecond {
					break
				}
			}
			if added >= time.Millisecond {
				t.Errorf("%s added to an event at the median, want less than 1 ms", added)
			}
		})
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

// TestRevokeEndsAStreamWithin100ms tries up to five streams, because other tests
// share the processors: what waited for something would do so in each of them.
func TestRevokeEndsAStreamWithin100ms(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	var took time.Duration
	for range 5 {
		if took = s.revokesAStream(); took <= 100*time.Millisecond {
			return
		}
	}
	t.Errorf("it took %s, want at most 100 ms", took)
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
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() {
		t.Fatal("no event", lines.Err())
	}
	ended := make(chan string)
	go func() {
		last := ""
		for lines.Scan() {
			if lines.Text() != "" {
				last = lines.Text()
			}
		}
		if err := lines.Err(); err != nil {
			last = "broken off: " + err.Error()
		}
		ended <- last
	}()
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
