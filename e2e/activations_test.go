package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// comesAgain is chat, again where the store takes longer than till waits for it.
func (s *server) comesAgain(key string) int {
	for end := time.Now().Add(patience); ; time.Sleep(refusedPace) {
		a := answerTo(s.client, s.request(context.Background(), key))
		if !a.noStore() || time.Now().After(end) {
			return a.status
		}
	}
}

// load makes n requests with the key, parallel at a time, and counts them by
// status; 0 is a request that got no answer.
func (s *server) load(key string, n, parallel int) map[int]int64 {
	var mu sync.Mutex
	counts := map[int]int64{}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				status := s.comesAgain(key)
				mu.Lock()
				counts[status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return counts
}

func TestKeyWith1000ActivationsForwardsExactly1000(t *testing.T) {
	t.Parallel()
	for _, latency := range []time.Duration{0, 50 * time.Millisecond} {
		t.Run(latency.String(), func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			s := newServer(t, options{})
			s.upstream.SetLatency(latency)
			id, key := s.mint(object{"max_activations": 1000})
			counts := s.load(key, 3000, 100)
			if counts[http.StatusOK] != 1000 || counts[http.StatusPaymentRequired] != 2000 {
				t.Errorf("answers by status: %v, want 1000 × 200 and 2000 × 402", counts)
			}
			if n := s.upstream.Count(); n != 1000 {
				t.Errorf("the upstream counted %d, want 1000", n)
			}
			if n := s.used(id); n != 1000 {
				t.Errorf("the key counts %d, want 1000", n)
			}
			s.clean()
			t.Logf("latency %s: %v", latency, counts)
		})
	}
}

func TestHundredFirstRequestsAtOnceShareFiveActivations(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	s := newServer(t, options{})
	_, key := s.mint(object{"max_activations": 5})
	counts := s.load(key, 100, 100)
	if n := s.upstream.Count(); n != 5 || counts[http.StatusPaymentRequired] != 95 {
		t.Errorf("the upstream counted %d; answers %v", n, counts)
	}
}

// TestKill9NeverForwardsMoreAndLosesOnlyWhatIsInFlight kills the server three
// times under load.
func TestKill9NeverForwardsMoreAndLosesOnlyWhatIsInFlight(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	killUnderLoad(t, 3)
}

func killUnderLoad(t *testing.T, kills int) {
	s := newServer(t, options{})
	s.upstream.SetLatency(time.Millisecond)
	const limit, parallel = 1000, 50
	_, key := s.mint(object{"max_activations": limit})
	var unanswered atomic.Int64
	for range kills {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		before := s.upstream.Count()
		for range parallel {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if s.chat(key) == 0 {
						// It was in flight when the server died.
						unanswered.Add(1)
						return
					}
				}
			})
		}
		s.eventually("requests go through", func() bool { return s.upstream.Count() >= before+int64(limit/(2*kills)) })
		s.kill9()
		close(stop)
		wg.Wait()
		s.start()
	}
	counts := s.load(key, 3*limit, parallel)
	forwarded, lost := s.upstream.Count(), unanswered.Load()
	t.Logf("over %d kills: forwarded %d of %d, %d in flight at the kills; afterwards %v", kills, forwarded, limit, lost, counts)
	if forwarded > limit {
		t.Errorf("the upstream counted %d, more than %d", forwarded, limit)
	}
	// What was in flight either reached the upstream, and is counted there,
	// or did not, and is lost.
	if forwarded < limit-lost {
		t.Errorf("the upstream counted %d of %d, but only %d were in flight at the kills", forwarded, limit, lost)
	}
	if counts[http.StatusPaymentRequired] == 0 {
		t.Error("the key was never refused")
	}
	s.clean("reading the body: unexpected EOF") // a kill may come in the middle of one
}

// TestReloadsUnderLoadChangeNoCount reloads every 300 ms, until the key has
// run out.
func TestReloadsUnderLoadChangeNoCount(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	s := newServer(t, options{})
	s.upstream.SetLatency(30 * time.Millisecond) // 1,000 take about two seconds
	id, key := s.mint(object{"max_activations": 1000})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var reloads atomic.Int64 // while the key was alive
	wg.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.reloadByAPI()
				if s.upstream.Count() < 1000 {
					reloads.Add(1)
				}
			case <-stop:
				return
			}
		}
	})
	// Clients may lose a connection to a reload; what they then ask again is
	// a request of its own. The key ends when all 1,000 are used.
	total := map[int]int64{}
	for ended := false; !ended && !t.Failed(); {
		if s.upstream.Count() >= 700 { // where reloads are slow and requests are not
			s.eventually("three reloads", func() bool { return reloads.Load() >= 3 })
		}
		counts := s.load(key, 200, 16)
		for status, n := range counts {
			total[status] += n
		}
		ended = counts[http.StatusPaymentRequired] > 0 && counts[http.StatusOK] == 0
	}
	close(stop)
	wg.Wait()
	t.Logf("%d reloads while the key lived: %v", reloads.Load(), total)
	if n := s.upstream.Count(); n != 1000 {
		t.Errorf("the upstream counted %d, want exactly 1000", n)
	}
	if n := s.used(id); n != 1000 {
		t.Errorf("the key counts %d, want exactly 1000", n)
	}
}

func TestCountsSurviveACleanRestart(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 100})
	for range 3 {
		if counts := s.load(key, 20, 5); counts[http.StatusOK] != 20 {
			t.Fatal(counts)
		}
		s.stop()
		s.start()
	}
	if counts := s.load(key, 100, 10); counts[http.StatusOK] != 40 || s.upstream.Count() != 100 {
		t.Errorf("after 3 × 20 and three restarts: %v, the upstream counted %d", counts, s.upstream.Count())
	}
	if n := s.used(id); n != 100 {
		t.Errorf("used %d", n)
	}
}

// TestChargeSuccessCountsSuccesses gives failures back, within twice the
// attempts.
func TestChargeSuccessCountsSuccesses(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 3, "charge": "success"})
	for range 3 {
		if status := s.chat(key, "X-Test-Status", "500"); status != 500 {
			t.Fatal(status)
		}
	}
	if n := s.used(id); n != 0 {
		t.Errorf("after three failures: used %d", n)
	}
	for i := range 3 {
		if status := s.chat(key); status != 200 {
			t.Fatalf("success %d: %d", i, status)
		}
	}
	if status := s.chat(key); status != http.StatusPaymentRequired {
		t.Errorf("the seventh: %d", status)
	}
	if got := fmt.Sprint(s.used(id), s.upstream.Count()); got != "3 6" {
		t.Errorf("used and forwarded: %s, want 3 6", got)
	}
}
