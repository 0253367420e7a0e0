package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// brokenReader is a body that breaks off.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken off") }

// TestNoClientTakesAnUpstreamFromTheOthers: where one failure keeps all requests from an
// upstream for a while, what a client does wrong with its body is none.
func TestNoClientTakesAnUpstreamFromTheOthers(t *testing.T) {
	t.Parallel()
	const site = "request_body {\n\tmax_size 1MB\n}"
	s := newServer(t, options{vendor: upstreamtest.Any, upstream: "fail_duration 1m\nunhealthy_status 5xx", site: site})
	s.says("unhealthy_status includes 502")
	base, trust := s.secure(site)
	second := http2Client(t, trust)
	id, key := s.mint(object{"max_activations": 100, "max_concurrency": 1})
	_, other := s.mint(object{"max_activations": 100})
	begin := "POST /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\n"
	cut := func(request string) func() (string, error) {
		return func() (string, error) {
			conn := s.dial()
			_, err := io.WriteString(conn, request)
			if err == nil {
				err = conn.(*net.TCPConn).CloseWrite()
			}
			// Until its request is over: it may begin later than that of the next client.
			_, _ = io.Copy(io.Discard, conn) // its end may be a reset
			return "", errors.Join(err, conn.Close())
		}
	}
	for name, test := range map[string]struct {
		misbehave func() (string, error)
		want      string
	}{
		"a chunk that is none": {func() (string, error) {
			status, code, err := s.raw(begin + "Transfer-Encoding: chunked\r\n\r\nzz\r\n")
			return fmt.Sprint(status, " ", code), err
		}, "400 till_bad_request"},
		"too many chunks": {func() (string, error) {
			status, code, err := s.raw(begin + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+strings.Repeat("x", 0x10000)+"\r\n", 20))
			return fmt.Sprint(status, " ", code), err
		}, "413 till_body_too_large"},
		"a chunk that breaks off": {cut(begin + "Transfer-Encoding: chunked\r\n\r\n10\r\nhalf"), ""},
		"a body that breaks off":  {cut(begin + "Content-Length: 10000\r\n\r\nhalf"), ""},
		"a stream that breaks off": {func() (string, error) {
			r, err := http.NewRequestWithContext(t.Context(), "POST", base+"/x", io.MultiReader(strings.NewReader("half"), brokenReader{}))
			if err != nil {
				return "", err
			}
			r.Header.Set("Authorization", "Bearer "+key)
			if res, err := second.Do(r); err == nil {
				return res.Status, res.Body.Close()
			}
			return "", nil
		}, ""},
	} {
		before := s.used(id)
		if got, err := test.misbehave(); got != test.want || err != nil {
			t.Errorf("%s: %s (%v), want %s", name, got, err, test.want)
		}
		s.eventually(name+": its request is over", func() bool {
			res, _ := s.must(s.post(key, "/x", "{}"))
			if res.StatusCode == http.StatusTooManyRequests {
				return false
			}
			if res.StatusCode != http.StatusOK {
				t.Errorf("%s: then %d %s", name, res.StatusCode, res.Header.Get("Till-Refusal"))
			}
			return true
		})
		if res, body := s.must(s.post(other, "/x", "{}")); res.StatusCode != http.StatusOK {
			t.Errorf("%s: the other key gets %d %s", name, res.StatusCode, body)
		}
		if n := s.used(id) - before; n < 1 || n > 2 {
			t.Errorf("%s: used %d, and the request after it is one", name, n)
		}
	}
}

// TestOnlyTheAddressThatFailedCounts: Caddy tries a GET again that had reached an upstream,
// which till does not send again, and the address where it would have been sent did nothing.
func TestOnlyTheAddressThatFailedCounts(t *testing.T) {
	t.Parallel()
	resets := rogueTCP(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096)) // and closes without an answer
	})
	var answered atomic.Int64
	answers := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { answered.Add(1) }))
	t.Cleanup(answers.Close)
	s := newServer(t, options{more: "upstream two {\n\tto http://" + resets + " " + answers.URL + "\n\tcredential {env.MOCK_KEY}\n\tlb_policy first\n\tlb_try_duration 1h\n\tfail_duration 1h\n}"})
	id, key := s.mint(object{"upstream": "two", "max_activations": 10})
	get := func() (*http.Response, string) {
		r := s.bare("GET", "/x", "")
		r.Header.Set("Authorization", "Bearer "+key)
		return s.must(r)
	}
	if res, body := get(); res.StatusCode != http.StatusBadGateway || res.Header.Get("Till-Refusal") != "till_upstream_failed" { // within the client's patience
		t.Errorf("%d %s", res.StatusCode, body)
	}
	s.says("upstream failed")
	if res, body := get(); res.StatusCode != http.StatusOK || answered.Load() != 1 || s.used(id) != 2 {
		t.Errorf("%d %s, answered %d, used %d", res.StatusCode, body, answered.Load(), s.used(id))
	}
}
