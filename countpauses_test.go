package till

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/till-proxy/till/limiter/record"
)

var (
	noEndpoint = countFailure{false, countAbsent}
	overload   = countFailure{true, countRetry}
	noon       = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
)

// TestOneKeysCountsSpeakForItAlone, and those of several keys for the upstream. The
// record stays small.
func TestOneKeysCountsSpeakForItAlone(t *testing.T) {
	t.Parallel()
	p, now := new(countPauses), noon
	isPaused := func(id string) bool {
		is, _ := p.check(id, now)
		return is
	}
	fails := func(id string, why countFailure) bool {
		_, _, news := p.fail(id, now, why)
		return news
	}
	for i := range pausedKeys - 1 {
		id := fmt.Sprint("key_", i)
		if !fails(id, noEndpoint) || fails(id, noEndpoint) || !isPaused(id) {
			t.Fatalf("%s is not paused once", id)
		}
		if isPaused("other") {
			t.Fatalf("%d keys speak for all", i+1)
		}
	}
	fails("last", overload)
	if !isPaused("other") {
		t.Errorf("%d keys do not speak for the upstream", pausedKeys)
	}
	now = now.Add(countRetry)
	if isPaused("other") || isPaused("last") || !isPaused("key_0") {
		t.Error("after the short pause")
	}
	now = now.Add(countAbsent)
	if isPaused("key_0") || len(p.of) != 0 {
		t.Errorf("an hour later %d are noted", len(p.of))
	}
}

// TestAVendorThatNeverCountsIsFoundOut: while it may be over soon, a client is told to come
// again, but not for ever, however often it does, and however many keys take turns.
func TestAVendorThatNeverCountsIsFoundOut(t *testing.T) {
	t.Parallel()
	for _, keys := range []int{1, pausedKeys, 1000} {
		p, now := new(countPauses), noon
		told := func(id string) time.Duration { // what a request of the key is told
			paused, again := p.check(id, now)
			if !paused {
				_, again, _ = p.fail(id, now, overload)
			}
			return again
		}
		for now.Sub(noon) < countPatience-longestRetry {
			for i := range keys {
				if again := told(fmt.Sprint("key_", i)); again <= 0 || again > longestRetry {
					t.Fatalf("of %d keys, %d is told %s after %s", keys, i, again, now.Sub(noon))
				}
			}
			now = now.Add(countRetry)
		}
		now = noon.Add(countPatience + time.Second)
		for range 3 {
			for i := range keys {
				told(fmt.Sprint("key_", i)) // those of which the first has to try
			}
			for i := range keys {
				if again := told(fmt.Sprint("key_", i)); again != 0 {
					t.Fatalf("of %d keys, %d is told %s after %s", keys, i, again, now.Sub(noon))
				}
			}
			now = now.Add(countPause + time.Second)
		}
		// A count begins all of it again.
		p.counted("key_0")
		if again := told("key_0"); again == 0 && keys == 1 {
			t.Errorf("after a count a failure is final")
		}
		now = now.Add(2*countPatience + countPause)
		if _, again, news := p.fail("key_1", now, overload); again == 0 || !news || len(p.of) != 1 {
			t.Errorf("of %d keys, long after: %s, news %t, %d are noted", keys, again, news, len(p.of))
		}
	}
}

// TestOneKeyThatFailsForLongTakesNoHopeFromOthers: a holder chooses what is counted.
func TestOneKeyThatFailsForLongTakesNoHopeFromOthers(t *testing.T) {
	t.Parallel()
	p, now := new(countPauses), noon
	for now.Sub(noon) <= 2*countPatience {
		p.fail("bad", now, overload)
		now = now.Add(countRetry)
	}
	if _, again, _ := p.fail("bad", now, overload); again != 0 {
		t.Errorf("its own: %s", again)
	}
	if _, again, news := p.fail("good", now, overload); again != countRetry || !news {
		t.Errorf("another's: %s", again)
	}
}

// TestFailuresThatAreMinutesApartAreNotFinal: nobody has asked between them.
func TestFailuresThatAreMinutesApartAreNotFinal(t *testing.T) {
	t.Parallel()
	p, now := new(countPauses), noon
	for i := range countTries {
		if _, again, _ := p.fail("key", now, overload); (again == 0) != (i == countTries-1) {
			t.Errorf("failure %d: %s", i+1, again)
		}
		now = now.Add(countPatience)
	}
}

// countedBy returns a site with an upstream of OpenAI's dialect, whose endpoint for counting
// answers so. By the clock of its pauses it is noon, however busy the machine is.
func countedBy(t *testing.T, answer http.HandlerFunc) (s *site, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/v1/responses/input_tokens" {
			t.Errorf("it is asked at %s", r.URL.Path)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // whoever has asked waits no longer
		}
		answer(w, r)
	}))
	t.Cleanup(vendor.Close)
	s = newSite(t, nil)
	to := s.h.app.targets["openai"]
	to.vendorCount.wait = 5 * time.Minute // a busy machine's count comes, too
	to.vendorCount.now = func() time.Time { return noon }
	address := strings.TrimPrefix(vendor.URL, "http://")
	to.origins = []origin{{scheme: "http", network: "tcp", address: address, host: address}}
	way := &Transport{target: to, HTTPTransport: reverseproxy.HTTPTransport{Transport: new(http.Transport)}}
	t.Cleanup(way.Transport.CloseIdleConnections)
	to.vendorCount.transport.Store(way)
	return s, asked
}

// TestARefusalForWantOfACountIsFinalOnlyIfNoneWillCome: a final one ends an agent, whose
// budget may be enough for its request.
func TestARefusalForWantOfACountIsFinalOnlyIfNoneWillCome(t *testing.T) {
	t.Parallel()
	status := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}
	}
	says := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	breaksOff := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"input_tokens":`)
	}
	comeAt := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", noon.Add(20*time.Second).Format(http.TimeFormat))
		w.WriteHeader(http.StatusTooManyRequests)
	}
	const final = 0
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		again  int64 // seconds; final: never
		asks   int64 // of two requests
	}{
		"429, and when to come again":  {status(429, "Retry-After", "7"), 7, 1},
		"429, and a date":              {comeAt, 20, 1},
		"429, and at once":             {status(429, "Retry-After", "0"), 1, 1},
		"429, and in an hour":          {status(429, "Retry-After", "3600"), 50, 1},
		"429, and nonsense":            {status(429, "Retry-After", "-1"), 10, 1},
		"429":                          {status(429), 10, 1},
		"500":                          {status(500), 10, 1},
		"503":                          {status(503), 10, 1},
		"503, and when to come again":  {status(503, "Retry-After", "3"), 3, 1},
		"529":                          {status(529), 10, 1},
		"408":                          {status(408), 10, 1},
		"no answer in time":            {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 10, 1},
		"a connection that breaks":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 10, 1},
		"an answer that breaks off":    {breaksOff, 10, 1},
		"garbage":                      {says("<html>"), final, 1},
		"no count":                     {says("{}"), final, 1},
		"a count that is too small":    {says(`{"input_tokens":5}`), final, 2},
		"a count of what is too large": {says(`{"input_tokens":29900}`), final, 2},
		"400":                          {status(400), final, 2},
		"401":                          {status(401), final, 1},
		"403":                          {status(403), final, 1},
		"404":                          {status(404), final, 1},
		"405":                          {status(405), final, 1},
		"501":                          {status(501), final, 1},
		"another address":              {status(307, "Location", "/v1/responses"), final, 1},
	} {
		for kind, limit := range map[string]func(*record.Key){
			"tokens":                 func(k *record.Key) { k.Limit[record.Tokens] = 30_000 },
			"dollars of one request": func(k *record.Key) { k.Limit[record.Nanodollars], k.MaxRequestSpend = 1e12, 8_000_000 },
		} {
			if name == "a count of what is too large" && kind != "tokens" {
				continue
			}
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				s, asked := countedBy(t, test.answer)
				if name == "no answer in time" {
					s.h.app.targets["openai"].vendorCount.wait = 10 * time.Second // nearly always long enough to be asked
				}
				k := s.mint(limit)
				for range 2 {
					status, again, answer := s.comesAgain(k, tooLong)
					if test.again == final && (status != http.StatusPaymentRequired || again != 0) ||
						test.again != final && (status != http.StatusTooManyRequests || again != test.again) {
						t.Errorf("%d, again in %d s: %s", status, again, answer)
					}
				}
				// A machine that is busy for longer than that may not have asked before it was over.
				if n := asked.Load(); n != test.asks && (name != "no answer in time" || n > 0) {
					t.Errorf("it was asked %d times, want %d", n, test.asks)
				}
				if s.forwarded.Load() != 0 || s.view(k).Used[record.Activations] != 0 || s.view(k).InFlight != 0 {
					t.Errorf("forwarded %d, %+v", s.forwarded.Load(), s.view(k))
				}
			})
		}
	}
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		s, _ := countedBy(t, status(500))
		to := s.h.app.targets["openai"]
		to.origins[0].address = "127.0.0.1:1"
		k := s.mint(func(k *record.Key) { k.Limit[record.Tokens] = 30_000 })
		if status, again, answer := s.comesAgain(k, tooLong); status != http.StatusTooManyRequests || again != 10 {
			t.Errorf("%d, again in %d s: %s", status, again, answer)
		}
	})
}

// comesAgain returns the status of a refusal, and when it says to come again.
func (s *site) comesAgain(k minted, a asks) (status int, again int64, answer string) {
	s.t.Helper()
	var h http.Header
	status, h, answer = s.serveAll(k, a)
	if text := h.Get("Retry-After"); text != "" {
		var err error
		if again, err = strconv.ParseInt(text, 10, 64); err != nil {
			s.t.Error(err)
		}
	}
	if retries := h.Get("X-Should-Retry"); status != http.StatusOK && (again == 0) != (retries == "false") {
		s.t.Errorf("again in %d s, and should retry: %q", again, retries)
	}
	return status, again, answer
}

// TestAVendorThatCountsAgainIsAsked, and a request passes that was told to come again.
func TestAVendorThatCountsAgainIsAsked(t *testing.T) {
	t.Parallel()
	var works atomic.Bool
	s, asked := countedBy(t, func(w http.ResponseWriter, _ *http.Request) {
		if !works.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"input_tokens":14000}`)
	})
	k := s.mint(func(k *record.Key) { k.Limit[record.Tokens] = 30_000 })
	p := &s.h.app.targets["openai"].vendorCount.pauses
	pass := func(d time.Duration) {
		p.mu.Lock()
		defer p.mu.Unlock()
		f := p.of[k.id]
		f.since, f.until, f.tries = f.since.Add(-d), f.until.Add(-d), countTries // in which it went on asking
		p.of[k.id], p.since = f, p.since.Add(-d)
	}
	if status, _, answer := s.comesAgain(k, tooLong); status != http.StatusTooManyRequests {
		t.Errorf("%d %s", status, answer)
	}
	pass(countPatience)
	if status, _, answer := s.comesAgain(k, tooLong); status != http.StatusPaymentRequired || asked.Load() != 2 {
		t.Errorf("in the end: %d %s, asked %d times", status, answer, asked.Load())
	}
	works.Store(true)
	pass(countPause)
	if status, _, answer := s.comesAgain(k, tooLong); status != http.StatusOK || len(p.of) != 0 {
		t.Errorf("once it counts: %d %s, %v", status, answer, p.of)
	}
}
