package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// tortureVariable holds how many kills and reloads `make torture` wants.
const tortureVariable = "TILL_TORTURE"

// ciVariable is set by `make thorough`.
const ciVariable = "TILL_CI"

// tortureSize is how many cases to try: a few when nobody says, as many as CI
// does when ciVariable is set, or what tortureVariable says.
func tortureSize(t *testing.T, few, ci int) int {
	t.Helper()
	text := os.Getenv(tortureVariable)
	if text == "" {
		if os.Getenv(ciVariable) != "" {
			return ci
		}
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s must be a positive number, got %q", tortureVariable, text)
	}
	return n
}

const (
	fleetKeys    = 20
	fleetClients = 32
	// refusedPace is how long a client pauses that was refused. It is a load's pace, for
	// which nothing waits: refusals alone would keep all processors busy.
	refusedPace = 50 * time.Millisecond
)

// numberHeader names the key of a request to the upstream.
const numberHeader = "X-Test-Key-Number"

// fleet is a server with many keys in use at once. Keys that have run out are
// replaced, so that ends of budgets meet kills and reloads again and again.
type fleet struct {
	*server
	random func(n int64) int64 // below n

	forwarded atomic.Int64
	busy      atomic.Int64           // requests that were told that the disk is too slow
	strange   atomic.Pointer[string] // an answer that is neither that, 200, 402 nor none

	mu   sync.RWMutex
	all  []*member // in the order of their numbers
	live [fleetKeys]*member
}

// member is one key and what is known of it from both of its sides.
type member struct {
	number     string
	id, key    string
	limit      int64
	forwarded  atomic.Int64 // counted by the upstream
	unanswered atomic.Int64 // counted by the clients
	refused    atomic.Bool  // with 402
}

// countingUpstream calls forwarded for each request, with the number of its key if it has
// one.
func countingUpstream(t *testing.T, forwarded func(number int)) (url string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if number := r.Header.Get(numberHeader); number != "" {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Errorf("the upstream got no key's number: %v", err)
				return
			}
			forwarded(n)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{}`)) // the server may have been killed
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// newFleet starts a server with its store in a directory; "" is one of its own.
func newFleet(t *testing.T, store string) *fleet {
	t.Helper()
	f := new(fleet)
	counter := countingUpstream(t, func(n int) {
		f.mu.RLock()
		m := f.all[n]
		f.mu.RUnlock()
		m.forwarded.Add(1)
		f.forwarded.Add(1)
	})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f.random = rand.New(rand.NewPCG(seed, seed)).Int64N // for the test's own goroutine alone
	f.server = newServer(t, options{vendor: upstreamtest.Any, to: counter, store: store})
	f.replace()
	return f
}

// replace mints a new key for each that was refused.
func (f *fleet) replace() {
	f.t.Helper()
	for i := range f.live {
		if m := f.live[i]; m != nil && !m.refused.Load() {
			continue
		}
		m := &member{limit: 1 + f.random(400)}
		m.id, m.key = f.mint(object{"max_activations": m.limit})
		f.mu.Lock()
		m.number = strconv.Itoa(len(f.all))
		f.all = append(f.all, m)
		f.live[i] = m
		f.mu.Unlock()
	}
}

// pick is any of the keys in use.
func (f *fleet) pick() *member {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.live[rand.IntN(fleetKeys)]
}

// ask makes one request with a key and reports whether it was answered. A disk that takes
// longer than till waits for it, which is five seconds, has the client come again.
func (f *fleet) ask(m *member) bool {
	a := answerTo(f.client, f.request(context.Background(), m.key, numberHeader, m.number))
	switch {
	case a.status == http.StatusOK:
	case a.status == http.StatusPaymentRequired:
		m.refused.Store(true)
	case a.status == 0:
		m.unanswered.Add(1)
		return false
	case a.noStore():
		f.busy.Add(1)
	default:
		f.strange.Store(new(fmt.Sprint(a.status, " ", a.refusal)))
	}
	return true
}

// clients make requests until the returned function is called, which waits for
// them. With once, a client goes home when a request gets no answer.
func (f *fleet) clients(once bool) (wait func()) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range fleetClients {
		wg.Go(func() {
			for !stop.Load() {
				m := f.pick()
				if !f.ask(m) && once {
					return
				}
				if m.refused.Load() {
					time.Sleep(refusedPace)
				}
			}
		})
	}
	return func() {
		stop.Store(true)
		wg.Wait()
	}
}

// spent reports whether every key in use has run out.
func (f *fleet) spent() bool {
	for _, m := range f.live {
		if !m.refused.Load() {
			return false
		}
	}
	return true
}

// drain uses up every key that was ever minted and returns what all of them
// could do, did, and cost their clients.
func (f *fleet) drain() (limit, forwarded, unanswered int64) {
	f.t.Helper()
	if what := f.strange.Load(); what != nil {
		f.t.Errorf("an answer was neither 200 nor 402: %s", *what)
	}
	if n := f.busy.Load(); n > 0 {
		f.t.Logf("%d requests were told that the disk is too slow", n)
	}
	for _, m := range f.all {
		// Twice: what was given back after the first makes a key live again.
		for range 2 {
			f.used(m.id)
			for m.refused.Store(false); !m.refused.Load(); {
				if !f.ask(m) {
					f.t.Fatalf("key %s: no answer from a server at rest\n%s", m.id, f.output())
				}
			}
		}
		if n := f.used(m.id); n != m.limit {
			f.t.Errorf("key %s of %d activations counts %d", m.id, m.limit, n)
		}
		limit += m.limit
		forwarded += m.forwarded.Load()
		unanswered += m.unanswered.Load()
	}
	return limit, forwarded, unanswered
}

func TestTortureKillsForwardNothingExtraAndLoseOnlyWhatIsInFlight(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	f := newFleet(t, "")
	kills := tortureSize(t, 5, 50)
	for range kills {
		home := f.clients(true)
		enough := f.forwarded.Load() + 1 + f.random(300)
		f.eventually("requests go through", func() bool { return f.forwarded.Load() >= enough || f.spent() })
		f.kill9()
		home()
		f.start()
		f.replace()
	}
	limit, forwarded, unanswered := f.drain()
	for _, m := range f.all {
		switch n := m.forwarded.Load(); {
		case n > m.limit:
			t.Errorf("key %s of %d activations forwarded %d", m.id, m.limit, n)
		case n < m.limit-m.unanswered.Load():
			t.Errorf("key %s of %d activations forwarded %d, but only %d were in flight at a kill", m.id, m.limit, n, m.unanswered.Load())
		}
	}
	t.Logf("%d kills, %d keys: forwarded %d of %d, %d in flight at the kills", kills, len(f.all), forwarded, limit, unanswered)
}

func TestTortureReloadsChangeNoCount(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	f := newFleet(t, "")
	reloads := tortureSize(t, 10, 30)
	home := f.clients(false)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range reloads {
		<-tick.C
		f.reloadByAPI()
		f.replace()
	}
	home()
	// The server before the last reload may still be closing them.
	f.client.CloseIdleConnections()
	limit, forwarded, unanswered := f.drain()
	for _, m := range f.all {
		if n := m.forwarded.Load(); n != m.limit {
			t.Errorf("key %s of %d activations forwarded %d", m.id, m.limit, n)
		}
	}
	t.Logf("%d reloads, %d keys: forwarded %d of %d, %d requests without an answer", reloads, len(f.all), forwarded, limit, unanswered)
}
