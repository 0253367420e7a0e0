package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// clientAnswer is what a client in the background received.
type clientAnswer struct {
	status int
	code   string
	retry  string
}

// send sends a request in the background.
func (s *server) send(r *http.Request) <-chan clientAnswer {
	out := make(chan clientAnswer, 1)
	go func() {
		res, err := s.client.Do(r)
		if err != nil {
			out <- clientAnswer{}
			return
		}
		res.Body.Close()
		out <- clientAnswer{res.StatusCode, res.Header.Get("Till-Refusal"), res.Header.Get("Retry-After")}
	}()
	return out
}

// TestWhatRequestsInFlightHoldIsWaitedFor: a request that could be admitted once
// others have settled is refused neither for good nor until later.
func TestWhatRequestsInFlightHoldIsWaitedFor(t *testing.T) {
	t.Parallel()
	const whole = `{"model":"m","messages":[],"max_completion_tokens":700}`
	const open = `{"model":"m","messages":[]}`
	settles := func(_ *server, _ string, release, _ func()) { release() }
	for _, test := range []struct {
		name   string
		fields object
		body   string
		then   func(s *server, id string, release, leave func())
		want   clientAnswer
	}{
		{"fitted", object{"max_tokens": 1000}, open, settles, clientAnswer{status: 200}},
		{"as a whole", object{"max_tokens": 1000, "fit": false}, whole, settles, clientAnswer{status: 200}},
		{"in dollars", object{"max_spend_usd": "0.0015"}, open, settles, clientAnswer{status: 200}},
		{"of a success that may fail", object{"max_activations": 1, "charge": "success"}, open, settles, clientAnswer{402, "till_activations_exhausted", ""}},
		{"until the key is revoked", object{"max_tokens": 1000}, open, func(s *server, id string, _, _ func()) {
			if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 || answer["streams_cut"].(float64) != 1 {
				s.t.Errorf("%d %v", status, answer)
			}
		}, clientAnswer{403, "till_key_revoked", ""}},
		{"until the client leaves", object{"max_tokens": 1000}, open, func(_ *server, _ string, _, leave func()) { leave() }, clientAnswer{}},
		{"until the server ends", object{"max_tokens": 1000}, open, func(s *server, _ string, _, _ func()) {
			if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				s.t.Error(err)
			}
		}, clientAnswer{429, "till_budget_held", "1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{more: "price openai/m 1.00 2.00"})
			id, key := s.mint(test.fields)
			first := s.send(s.post(key, "/v1/chat/completions", whole, upstreamtest.HeaderHold, "1"))
			if err := s.upstream.Held(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			second := s.send(s.post(key, "/v1/chat/completions", test.body).WithContext(ctx))
			s.eventually("the second waits", func() bool { return s.gauge("waiting") == "1" && s.gauge("holds") == "1" })
			release := sync.OnceFunc(s.upstream.Release)
			test.then(s, id, release, leave)
			if got := <-second; got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if test.want.retry == "" {
				s.eventually("nobody waits", func() bool { return s.gauge("waiting") == "0" })
			}
			release()
			<-first
		})
	}
}

// TestARequestThatWaitsIsHeldToWhatAnswersSayMeanwhile: of its input only the length was
// known when it came, and that does not fit into what the first one leaves.
func TestARequestThatWaitsIsHeldToWhatAnswersSayMeanwhile(t *testing.T) {
	t.Parallel()
	came, release := make(chan struct{}, 2), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"model":"m","choices":[{"message":{"content":"ok"}}],"usage":{"prompt_tokens":1000,"completion_tokens":10,"total_tokens":1010}}`)
	}))
	t.Cleanup(upstream.Close)
	s := newServer(t, options{to: upstream.URL})
	body := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("word ", 1000) + `"}],"max_completion_tokens":20}`
	_, key := s.mint(object{"max_tokens": 6000, "fit": false})
	first := s.send(s.post(key, "/v1/chat/completions", body))
	<-came
	second := s.send(s.post(key, "/v1/chat/completions", body))
	s.eventually("the second waits", func() bool { return s.gauge("waiting") == "1" })
	close(release)
	for _, answer := range []<-chan clientAnswer{first, second} {
		if got := <-answer; got.status != http.StatusOK {
			t.Errorf("%+v", got)
		}
	}
}

// TestOnlySoManyRequestsWait: one more is refused at once, until later.
func TestOnlySoManyRequestsWait(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_tokens": 1000, "fit": false})
	const body = `{"model":"m","messages":[],"max_completion_tokens":700}`
	first := s.send(s.post(key, "/v1/chat/completions", body, upstreamtest.HeaderHold, "1"))
	if err := s.upstream.Held(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range limiter.MaxKeyTurns {
		s.send(s.post(key, "/v1/chat/completions", body).WithContext(ctx))
	}
	s.eventually("all wait that may", func() bool { return s.gauge("waiting") == strconv.Itoa(limiter.MaxKeyTurns) })
	res, answer := s.must(s.post(key, "/v1/chat/completions", body))
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Till-Refusal") != "till_budget_held" || res.Header.Get("Retry-After") == "" || res.Header.Get("X-Should-Retry") != "" {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, answer)
	}
	if held := s.show(id)["held_tokens"]; held == 0.0 {
		t.Error("nothing is held")
	}
	leave()
	s.eventually("nobody waits", func() bool { return s.gauge("waiting") == "0" })
	s.upstream.Release()
	if got := <-first; got.status != http.StatusOK {
		t.Errorf("the first: %+v", got)
	}
	s.used(id)
	if status, code := s.sendBody(key, body); status != http.StatusOK {
		t.Errorf("after the first gave back: %d %s", status, code)
	}
}

// TestTwoClientsSpendAKeyWithoutBeingRefused: each request may use all that is
// left near the key's end, and uses little.
func TestTwoClientsSpendAKeyWithoutBeingRefused(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	u.latency, u.says = 2*time.Millisecond, `{"prompt_tokens":10,"completion_tokens":90,"total_tokens":100}`
	s := spendServer(t, u)
	id, key := s.mint(object{"max_tokens": 12_000})
	var mu sync.Mutex
	codes := make(map[string]int)
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				got := <-s.send(s.post(key, "/v1/chat/completions", `{"model":"m","messages":[],"max_completion_tokens":5000}`))
				mu.Lock()
				codes[got.code]++
				mu.Unlock()
				if got.status != http.StatusOK {
					done.Store(true)
				}
			}
		})
	}
	wg.Wait()
	s.used(id)
	left := 12_000 - s.show(id)["used_tokens"].(float64)
	if codes["till_budget_held"] != 0 || codes[""] < 110 || codes["till_budget_too_small"]+codes["till_tokens_exhausted"] == 0 || left > 500 || left < 0 {
		t.Errorf("%v; %.0f tokens are left", codes, left)
	}
}
