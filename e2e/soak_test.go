package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// soakVariable says for how many minutes `make soak` runs.
const soakVariable = "TILL_SOAK"

const (
	soakKeys    = 24
	soakClients = 16
	soakPause   = 5 * time.Millisecond // a client's, between two requests
	leastOf     = 100                  // looks at its memory, half a minute
	soakWarm    = 3000                 // changes at the beginning; see warm
)

// bill is what the upstream has seen of a key.
type bill struct{ requests, tokens atomic.Int64 }

// tenant is a key of the soak, and what its clients do with it.
type tenant struct {
	number   int
	id, key  string
	metered  bool // limited in tokens and dollars: its answers are read to the end
	streams  bool // and left in the middle, now and then
	renews   bool // so it is never at its end
	bill     bill
	refused  atomic.Bool
	stopping sync.RWMutex // held while a request could be lost by a revocation
	revoked  bool
}

// soak is a server under a mixed load, with an upstream that keeps the books.
type soak struct {
	*server
	began time.Time

	mu   sync.RWMutex
	all  []*tenant
	live [soakKeys]*tenant

	total                           bill
	aborted, cut, unanswered, slow  atomic.Int64
	warmed                          atomic.Int64
	mints, grants, revokes, reloads int64
	extensions                      int64
	changes                         atomic.Int64
}

func (s *soak) serve(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.Header.Get(numberHeader))
	if err != nil {
		s.t.Errorf("the upstream got no key's number: %v", err)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var ask struct {
		Stream  bool
		Max     int64 `json:"max_completion_tokens"`
		Options struct {
			Include bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := json.Unmarshal(body, &ask); err != nil {
		s.t.Errorf("the upstream got %q: %v", body, err)
		return
	}
	s.mu.RLock()
	m := s.all[n]
	s.mu.RUnlock()
	output := 1 + rand.Int64N(max(ask.Max, 1))
	m.bill.requests.Add(1)
	s.total.requests.Add(1)
	if m.metered {
		m.bill.tokens.Add(10 + output)
		s.total.tokens.Add(10 + output)
	}
	usage := fmt.Sprintf(`{"prompt_tokens":10,"completion_tokens":%d,"total_tokens":%d}`, output, 10+output)
	if !ask.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"x","object":"chat.completion","model":"m","choices":[],"usage":%s}`, usage)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for range 1 + rand.IntN(20) {
		fmt.Fprint(w, "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n")
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
	if ask.Options.Include {
		fmt.Fprintf(w, "data: {\"id\":\"x\",\"choices\":[],\"usage\":%s}\n\n", usage)
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// replace mints a key for each that is used up or revoked.
func (s *soak) replace() {
	for i, m := range s.live {
		if m != nil && !m.refused.Load() && !m.revoked {
			continue
		}
		next := &tenant{number: len(s.all), metered: i%4 == 1, streams: i%4 == 2, renews: i%4 == 3}
		fields := object{"max_activations": 50 + rand.IntN(4000), "expires_in": "2h"}
		switch {
		case next.metered:
			fields["max_tokens"], fields["max_spend_usd"] = 1_000_000, "1.50"
		case next.renews:
			fields["renews"] = "day"
		}
		next.id, next.key = s.mint(fields)
		s.mints++
		s.mu.Lock()
		s.all = append(s.all, next)
		s.live[i] = next
		s.mu.Unlock()
	}
}

// ask makes one request of the kind that the key is for.
func (s *soak) ask() {
	s.mu.RLock()
	m := s.live[rand.IntN(soakKeys)]
	s.mu.RUnlock()
	stream := m.streams || m.metered && rand.IntN(4) == 0
	body := `{"model":"m","messages":[{"role":"user","content":"hello, upstream"}],"max_completion_tokens":100}`
	if stream {
		body = strings.Replace(body, "{", `{"stream":true,`, 1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := s.request(ctx, m.key, numberHeader, strconv.Itoa(m.number))
	r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(body)), int64(len(body)), nil

	// Until the upstream has counted it, a request must not be cut.
	m.stopping.RLock()
	counted := sync.OnceFunc(m.stopping.RUnlock)
	defer counted()
	res, err := s.client.Do(r)
	if err != nil {
		s.unanswered.Add(1) // a reload closed the connection under it
		return
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusPaymentRequired, http.StatusForbidden:
		m.refused.Store(true)
		return
	case http.StatusServiceUnavailable:
		s.slow.Add(1) // the disk did not answer in time, and nothing was forwarded
		return
	default:
		b, err := io.ReadAll(res.Body)
		s.t.Errorf("answer %s: %.300s %v", res.Status, b, err)
		return
	}
	if !m.streams {
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			s.unanswered.Add(1)
		}
		return
	}
	lines := bufio.NewReader(res.Body)
	_, err = lines.ReadString('\n')
	counted() // the first event has come
	leave := rand.IntN(20)
	for n := 0; err == nil; n++ {
		if n == leave {
			s.aborted.Add(1)
			return
		}
		_, err = lines.ReadString('\n')
	}
	if err != io.EOF {
		s.cut.Add(1)
	}
}

// memory is what the server has resident, in bytes: its own, and the pages of
// files that it maps, its program and the store's, which are the kernel's cache
// and come and go with it.
type memory struct{ own, mapped int64 }

func (m memory) String() string {
	return fmt.Sprintf("RSS %.1f MB, of it mapped files %.1f MB", float64(m.own+m.mapped)/1e6, float64(m.mapped)/1e6)
}

// rss is the resident memory of the server: the least of some looks, because a
// collector's garbage, and tables that are just being rewritten, come and go.
func (s *soak) rss(looks int) memory {
	s.t.Helper()
	var seen []memory
	for range looks {
		s.server.mu.Lock()
		pid := s.cmd.Process.Pid
		s.server.mu.Unlock()
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		pages := strings.Fields(string(b))
		all := must(strconv.ParseInt(pages[1], 10, 64))(s.t)
		shared := must(strconv.ParseInt(pages[2], 10, 64))(s.t)
		page := int64(os.Getpagesize())
		seen = append(seen, memory{(all - shared) * page, shared * page})
		time.Sleep(300 * time.Millisecond) // between two looks
	}
	return slices.MinFunc(seen, func(a, b memory) int { return cmp.Compare(a.own, b.own) })
}

// warm brings the store's log and tables to the size that they keep: many large
// changes, so that their growth does not hide another. It ends with the context.
func (s *soak) warm(ctx context.Context) {
	for ctx.Err() == nil && s.warmed.Add(1) <= soakWarm {
		s.mu.RLock()
		m := s.live[rand.IntN(soakKeys)]
		s.mu.RUnlock()
		labels := object{}
		for i := range 8 {
			labels[strconv.Itoa(i)] = strings.Repeat(string(rune('a'+rand.IntN(26))), 500)
		}
		status, answer := s.api("PATCH", "/keys/"+m.id, object{"labels": labels})
		if status != http.StatusOK {
			s.t.Errorf("change: %d %v", status, answer)
		}
		s.changes.Add(1)
	}
}

// manage does every half second what operators do now and then.
func (s *soak) manage(tick int) {
	pick := func() *tenant { return s.live[rand.IntN(soakKeys)] }
	must := func(what string, status int, answer object) {
		if status != http.StatusOK {
			s.t.Errorf("%s: %d %v", what, status, answer)
		}
	}
	s.replace()
	if tick%10 == 0 && tick > 100 { // not under the calls of warm, whose connections it may reset
		s.reloadByAPI()
		s.reloads++
	}
	if m := pick(); tick%4 == 1 {
		status, answer := s.api("POST", "/keys/"+m.id+"/grant", object{"activations": 1 + rand.IntN(500)})
		must("grant", status, answer)
		m.refused.Store(false)
		s.grants++
	}
	if m := pick(); tick%30 == 7 {
		status, answer := s.api("POST", "/keys/"+m.id+"/grant", object{"expires_in": "1h"})
		must("another hour", status, answer)
		s.extensions++
	}
	if m := pick(); tick%12 == 3 && !m.refused.Load() {
		status, answer := s.api("PATCH", "/keys/"+m.id, object{"name": "renamed " + strconv.Itoa(tick)})
		must("change", status, answer)
		s.changes.Add(1)
	}
	if m := pick(); tick%16 == 5 {
		m.stopping.Lock()
		status, answer := s.api("POST", "/keys/"+m.id+"/revoke", object{"reason": "soak"})
		m.stopping.Unlock()
		must("revoke", status, answer)
		m.revoked = true
		s.revokes++
	}
}

// TestSoak runs for as many minutes as soakVariable says, and compares what
// the upstream, the store, the metrics and the audit log say.
func TestSoak(t *testing.T) {
	text := os.Getenv(soakVariable)
	if text == "" {
		t.Skip("run: make soak MINUTES=30")
	}
	minutes, err := strconv.ParseFloat(text, 64)
	if err != nil || minutes <= 0 || runtime.GOOS != "linux" {
		t.Fatalf("%s must be a number of minutes, on Linux; got %q", soakVariable, text)
	}
	s := new(soak)
	counter := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		counter.CloseClientConnections()
		counter.Close()
	})
	s.server = newServer(t, options{to: counter.URL, more: "price openai/m 1.00 2.00"})
	s.t = t
	s.replace()

	var stop atomic.Bool
	var wg sync.WaitGroup
	for range soakClients {
		wg.Go(func() {
			for !stop.Load() {
				s.ask()
				time.Sleep(soakPause) // what a client does between two requests
			}
		})
	}
	s.began = time.Now()
	warming, cold := context.WithTimeout(context.Background(), 40*time.Second)
	defer cold()
	for range 4 {
		wg.Go(func() { s.warm(warming) })
	}
	duration := time.Duration(minutes * float64(time.Minute))
	var first memory
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for tick := 0; time.Since(s.began) < duration; tick++ {
		<-ticker.C
		s.manage(tick)
		if elapsed := time.Since(s.began); first.own == 0 && elapsed >= min(time.Minute, duration/2) {
			first = s.rss(leastOf)
		}
		if tick%120 == 119 {
			t.Logf("%5.1f min: %d requests, %d keys, %s", time.Since(s.began).Minutes(), s.total.requests.Load(), len(s.all), s.rss(1))
		}
	}
	last := s.rss(leastOf)
	stop.Store(true)
	wg.Wait()
	s.compare(first, last)
}
