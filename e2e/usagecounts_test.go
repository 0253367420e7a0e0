package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bookkeeper is an upstream that keeps books of its own, by the key that a request
// came with, and reports what the test asks for.
type bookkeeper struct {
	*httptest.Server
	requests, tokens sync.Map // by number: *atomic.Int64
	hold             chan struct{}
}

const reportHeader = "X-Test-Report"

// bookedBody uses 12 tokens, of which 5 come out, unless something else is to be said.
const bookedBody = `{"model":"gpt-6-sol","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}`

func newBookkeeper(t *testing.T) *bookkeeper {
	b := &bookkeeper{hold: make(chan struct{})}
	b.Server = httptest.NewServer(b)
	t.Cleanup(func() {
		b.CloseClientConnections()
		b.Close()
	})
	return b
}

func count(m *sync.Map, number string) *atomic.Int64 {
	n, _ := m.LoadOrStore(number, new(atomic.Int64))
	return n.(*atomic.Int64)
}

func (b *bookkeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	number := r.Header.Get(numberHeader)
	count(&b.requests, number).Add(1)
	report := r.Header.Get(reportHeader)
	if report == "" {
		count(&b.tokens, number).Add(12)
		report = `{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}`
	}
	if strings.Contains(string(body), `"stream":true`) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Some words.\"}}]}\n\n")
		if r.Header.Get("X-Test-Hold") != "" {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-b.hold:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = fmt.Fprintf(w, "data: {\"choices\":[],\"usage\":%s}\n\ndata: [DONE]\n\n", report)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"model":"gpt-6-sol","choices":[{"index":0,"message":{"role":"assistant","content":"Some words."}}],"usage":%s}`, report)
}

// countingServer has roles with a budget and without.
func countingServer(t *testing.T) (*server, *bookkeeper) {
	b := newBookkeeper(t)
	return newServer(t, options{to: b.URL, more: `role budget {
	permissions keys:read
	budget activations 100000 spend $1000
}
role free {
	permissions keys:read
}`}), b
}

// sums are what the server says of all keys, and of its roles.
func (s *server) sums() (stats, roles object) {
	s.t.Helper()
	s.eventually("nothing is held", func() bool {
		_, stats = s.api("GET", "/stats", nil)
		return stats["holds"] == 0.0
	})
	_, answer := s.api("GET", "/roles", nil)
	roles = object{}
	for _, r := range answer["roles"].([]any) {
		roles[r.(object)["name"].(string)] = r
	}
	return stats, roles
}

// TestEveryKeysCountsSurviveAKill9 makes requests with keys of every sort, limited in
// what is counted or not, and holds what is shown of them after a kill -9 against the
// upstream's own books.
func TestEveryKeysCountsSurviveAKill9(t *testing.T) {
	t.Parallel()
	s, b := countingServer(t)
	_, parent := s.mint(object{"expires_in": "1h", "delegate": true})
	keys := make(map[string][2]string)
	for sort, fields := range map[string]object{
		"unlimited": {"unlimited": true}, "expiry": {"expires_in": "1h"}, "idleness": {"idle_timeout": "1h", "unlimited": true}, "first use": {"first_use_within": "1h", "unlimited": true},
		"rate": {"rate": "1000/s", "unlimited": true}, "concurrency": {"max_concurrency": 10, "unlimited": true},
		"activations": {"max_activations": 1000}, "tokens": {"max_tokens": 1_000_000}, "spend": {"max_spend_usd": "10"},
		"role budget": {"role": "budget", "expires_in": "1h"}, "role": {"role": "free", "expires_in": "1h"},
	} {
		id, key := s.mint(fields)
		keys[sort] = [2]string{id, key}
	}
	id, key := s.child(parent, object{"expires_in": "30m"})
	keys["child"] = [2]string{id, key}

	const each = 5
	for sort, k := range keys {
		for range each {
			if status := s.statusOf(s.post(k[1], "/v1/chat/completions", bookedBody, numberHeader, sort)); status != http.StatusOK {
				t.Fatalf("%s: %d", sort, status)
			}
		}
	}
	before, rolesBefore := s.sums()
	s.kill9()
	s.start()
	after, roles := s.sums()
	for _, field := range []string{"used_activations", "used_tokens", "used_spend_usd"} {
		if before[field] != after[field] {
			t.Errorf("all keys: %s was %v before and is %v", field, before[field], after[field])
		}
	}
	for _, name := range []string{"budget", "free"} {
		if was, is := fmt.Sprint(rolesBefore[name]), fmt.Sprint(roles[name]); was != is {
			t.Errorf("role %s was %s before and is %s", name, was, is)
		}
	}
	for sort, k := range keys {
		shown := s.show(k[0])
		requests, tokens := count(&b.requests, sort).Load(), count(&b.tokens, sort).Load()
		if got := shown["used_activations"].(float64); int64(got) != requests || requests != each {
			t.Errorf("%s: %v activations, and the upstream answered %d", sort, got, requests)
		}
		if got, metered := shown["used_tokens"].(float64); metered && int64(got) != tokens {
			t.Errorf("%s: %v tokens, and the upstream reported %d", sort, got, tokens)
		}
		if shown["first_used_at"] == nil || shown["last_used_at"] == nil {
			t.Errorf("%s: first used at %v, last at %v", sort, shown["first_used_at"], shown["last_used_at"])
		}
		_, usage := s.api("GET", "/keys/"+k[0]+"/usage", nil)
		sum := 0.0
		for _, hour := range usage["hours"].([]any) {
			sum += hour.(object)["activations"].(float64)
		}
		if int64(sum) != requests {
			t.Errorf("%s: its history has %v activations, want %d", sort, sum, requests)
		}
	}
}

// statusOf is the status of a request that has to be answered.
func (s *server) statusOf(r *http.Request) int {
	s.t.Helper()
	res, _ := s.must(r)
	return res.StatusCode
}

// TestAReportThatCannotBeTrueStandsInNoSum covers the sums of the key, of its role
// and of all keys.
func TestAReportThatCannotBeTrueStandsInNoSum(t *testing.T) {
	t.Parallel()
	s, _ := countingServer(t)
	const absurd = `{"prompt_tokens":7,"completion_tokens":9223372036854775807,"total_tokens":9223372036854775807}`
	limited := map[string]object{
		"tokens": {"max_tokens": 1_000_000}, "spend": {"max_spend_usd": "10"}, "role": {"role": "budget", "expires_in": "1h"}, "none": {"unlimited": true},
	}
	for name, fields := range limited {
		id, key := s.mint(fields)
		for _, stream := range []bool{false, true} {
			body := bookedBody
			if stream {
				body = strings.Replace(body, `{`, `{"stream":true,`, 1)
			}
			if status := s.statusOf(s.post(key, "/v1/chat/completions", body, reportHeader, absurd)); status != http.StatusOK {
				t.Fatalf("%s: %d", name, status)
			}
		}
		if status, code := s.sendBody(key, bookedBody); status != http.StatusOK {
			t.Errorf("%s: the next request is answered %d %s", name, status, code)
		}
		s.used(id)
		if by, ok := s.show(id)["tokens_by_kind"].(object); ok && by["unmeasured"] == 0.0 {
			t.Errorf("%s: %v", name, by)
		}
	}
	stats, roles := s.sums()
	if tokens, usd := stats["used_tokens"].(float64), fmt.Sprint(stats["used_spend_usd"]); tokens > 10_000 || !strings.HasPrefix(usd, "0.0") {
		t.Errorf("all keys: %v tokens, $%s", tokens, usd)
	}
	if used := fmt.Sprint(roles["budget"]); strings.Contains(used, "1125899") {
		t.Errorf("the role: %s", used)
	}
	s.says("more than its model can use")
	if n := strings.Count(s.output(), "more than its model can use"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

// TestAKeyIsIdleFromTheEndOfAStream has a stream that takes longer than the key, or
// its parent, may be idle.
func TestAKeyIsIdleFromTheEndOfAStream(t *testing.T) {
	t.Parallel()
	const idle = 10 * time.Second
	s, b := countingServer(t)
	parentID, parent := s.mint(object{"idle_timeout": "1h", "delegate": true, "unlimited": true})
	id, key := s.child(parent, object{"idle_timeout": "1h", "unlimited": true})
	r := s.post(key, "/v1/chat/completions", strings.Replace(bookedBody, `{`, `{"stream":true,`, 1), "X-Test-Hold", "yes")
	res, err := s.client.Do(r.WithContext(context.WithoutCancel(r.Context())))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()                      //nolint:errcheck // it was read
	for _, id := range []string{id, parentID} { // not before the stream runs, however long that took
		if status, answer := s.api("PATCH", "/keys/"+id, object{"idle_timeout": idle.String()}); status != http.StatusOK {
			t.Fatal(status, answer)
		}
	}
	began := time.Now()
	s.eventually("the stream takes longer than the key may be idle", func() bool { return time.Since(began) > idle+time.Second })
	ended := time.Now()
	close(b.hold)
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	// A machine that has stood still since for so long has idle keys.
	if status, code := s.sendBody(key, bookedBody); status != http.StatusOK && time.Since(ended) < idle {
		t.Errorf("after it: %d %s", status, code)
	}
	for _, id := range []string{id, parentID} {
		if shown := s.show(id); shown["status"] != "active" && time.Since(ended) < idle {
			t.Errorf("%v, last used at %v", shown["status"], shown["last_used_at"])
		}
	}
}
