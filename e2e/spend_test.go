package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

// till counts in whole numbers, and so does this: dollars per million tokens
// are nano-dollars by the thousand a token.
const (
	inputRate  = 1_000 // nano-dollars a token: price openai/m 1.00 2.00
	outputRate = 2_000
)

// meteredUpstream answers chat completions and keeps the bill: what it says
// that it used, and what that costs.
type meteredUpstream struct {
	*httptest.Server
	latency time.Duration
	omit    bool  // says nothing of what was used
	input   int64 // tokens that every request has; 0: as many as its text can have
	more    int64 // tokens beyond what was asked for

	answers, tokens, nano atomic.Int64
	last                  atomic.Value // string: the body that came last
}

func newMeteredUpstream(t *testing.T) *meteredUpstream {
	u := &meteredUpstream{}
	u.Server = httptest.NewServer(u)
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

func (u *meteredUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var ask struct {
		Messages json.RawMessage
		Max      int64 `json:"max_completion_tokens"`
		Stream   bool  `json:"stream"`
		Options  struct {
			Usage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := json.Unmarshal(b, &ask); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	u.last.Store(string(b))
	input, output := u.input, ask.Max+u.more
	if input == 0 {
		input = int64(len(ask.Messages))
	}
	// The bill is written before a byte of the answer: a client that goes
	// pays all the same.
	u.answers.Add(1)
	u.tokens.Add(input + output)
	u.nano.Add(input*inputRate + output*outputRate)
	if u.latency > 0 {
		select {
		case <-time.After(u.latency):
		case <-r.Context().Done():
			return
		}
	}
	usage := fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, input, output, input+output)
	if u.omit {
		usage = "null"
	}
	if !ask.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hello"}}],"usage":%s}`, usage)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for range 3 {
		fmt.Fprint(w, "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n")
		if http.NewResponseController(w).Flush() != nil {
			return
		}
	}
	if ask.Options.Usage && !u.omit {
		fmt.Fprintf(w, "data: {\"id\":\"x\",\"choices\":[],\"usage\":%s}\n\n", usage)
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// spendServer is a till in front of a metered upstream.
func spendServer(t *testing.T, u *meteredUpstream) *server {
	t.Helper()
	return newServer(t, options{to: u.URL, more: "price openai/m 1.00 2.00"})
}

const (
	spendMessages = `[{"role":"user","content":"how long is a piece of string?"}]`
	spendBody     = `{"model":"m","messages":` + spendMessages + `,"max_completion_tokens":100}`
	spendInput    = int64(len(spendMessages)) // tokens, as the upstream counts
)

// spendAll lets clients ask until they are told that nothing is left, and
// returns how many answers they got. Where they are told that others hold the
// rest, they try again, as SDKs do.
func (s *server) spendAll(key, body string, clients int, abort bool) int64 {
	s.t.Helper()
	var answers, asked atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for n := i; ; n++ {
				ctx, cancel := context.WithCancel(context.Background())
				if abort && n%3 == 0 {
					time.AfterFunc(time.Duration(n%7)*time.Millisecond, cancel) // at some point of the way
				}
				r := s.post(key, "/v1/chat/completions", body).WithContext(ctx)
				res, err := s.client.Do(r)
				if asked.Add(1) > 100_000 {
					s.t.Error("it never ends")
					cancel()
					return
				}
				if err != nil {
					cancel()
					continue
				}
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				cancel()
				switch {
				case res.StatusCode == http.StatusOK && err == nil:
					answers.Add(1)
				case res.StatusCode == http.StatusPaymentRequired:
					return
				case res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Till-Refusal") == "till_budget_held", err != nil, res.StatusCode == http.StatusOK:
				default:
					s.t.Errorf("answered %d %s", res.StatusCode, res.Header.Get("Till-Refusal"))
					return
				}
			}
		})
	}
	wg.Wait()
	return answers.Load()
}

func TestACapWorth1000AnswersIsNeverPassedAndNearlyAllUsed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		stream  bool
		latency time.Duration
		tokens  bool
	}{
		{"dollars, plain", false, 0, false},
		{"dollars, streamed", true, 0, false},
		{"dollars, slow", false, time.Second, false},
		{"tokens, plain", false, 0, true},
		{"tokens, streamed and slow", true, 200 * time.Millisecond, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			u := newMeteredUpstream(t)
			u.latency = test.latency
			s := spendServer(t, u)
			body := spendBody
			if test.stream {
				body = strings.Replace(body, `{"model"`, `{"stream":true,"stream_options":{"include_usage":true},"model"`, 1)
			}
			const each = spendInput*inputRate + 100*outputRate
			fields := object{"max_spend_usd": limiter.FormatUSD(1000 * each), "fit": false}
			if test.tokens {
				fields = object{"max_tokens": 1000 * (spendInput + 100), "fit": false}
			}
			id, key := s.mint(fields)
			answers := s.spendAll(key, body, 100, false)
			s.used(id)
			if u.nano.Load() > 1000*each || answers != u.answers.Load() {
				t.Errorf("%d answers of 1,000, $%s of $%s", answers, limiter.FormatUSD(u.nano.Load()), limiter.FormatUSD(1000*each))
			}
			if answers < 990 {
				t.Errorf("%d answers, want at least 990 of 1,000", answers)
			}
			k := s.show(id)
			if test.tokens && int64(k["used_tokens"].(float64)) != u.tokens.Load() || !test.tokens && k["used_spend_usd"] != limiter.FormatUSD(u.nano.Load()) {
				t.Errorf("the books say %v tokens, $%v; the upstream %d and $%s", k["used_tokens"], k["used_spend_usd"], u.tokens.Load(), limiter.FormatUSD(u.nano.Load()))
			}
			t.Logf("%d answers of 1,000, $%s of $%s", answers, limiter.FormatUSD(u.nano.Load()), limiter.FormatUSD(1000*each))
		})
	}
}

func TestNothingThatGoesWrongPassesACap(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*meteredUpstream){
		"as it should be":          func(*meteredUpstream) {},
		"no word of what was used": func(u *meteredUpstream) { u.omit = true },
		"fitted to what is left":   func(u *meteredUpstream) { u.input = 10 },
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, streamed %v", name, stream), func(t *testing.T) {
				t.Parallel()
				u := newMeteredUpstream(t)
				change(u)
				s := spendServer(t, u)
				body := spendBody
				if stream {
					body = strings.Replace(body, `{"model"`, `{"stream":true,"model"`, 1)
				}
				id, key := s.mint(object{"max_spend_usd": "0.10"})
				answers := s.spendAll(key, body, 20, true)
				s.used(id)
				if spent := u.nano.Load(); spent > 100_000_000 {
					t.Errorf("$%s of $0.10 after %d answers", limiter.FormatUSD(spent), answers)
				}
				if answers == 0 {
					t.Error("no answer at all")
				}
			})
		}
	}
}

func TestADollarWithSlowAnswersIsADollar(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	u.latency, u.input = time.Second, 10
	s := spendServer(t, u)
	// Each may cost nearly a quarter: peers let all of them through.
	body := strings.Replace(spendBody, ":100}", ":120000}", 1)
	id, key := s.mint(object{"max_spend_usd": "1", "fit": false})
	answers := s.spendAll(key, body, 30, false)
	s.used(id)
	if spent := u.nano.Load(); spent > 1_000_000_000 || answers != 4 {
		t.Errorf("%d answers, $%s of $1", answers, limiter.FormatUSD(spent))
	}
	t.Logf("%d answers, $%s of $1", answers, limiter.FormatUSD(u.nano.Load()))
}

func TestACapHoldsOverKill9(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	u.latency = 5 * time.Millisecond
	s := spendServer(t, u)
	const each = spendInput*inputRate + 100*outputRate
	id, key := s.mint(object{"max_spend_usd": limiter.FormatUSD(1000 * each), "fit": false})
	for round := range 2 {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if res, err := s.client.Do(s.post(key, "/v1/chat/completions", spendBody)); err == nil {
						_, _ = io.Copy(io.Discard, res.Body) // cut off by the kill
						res.Body.Close()
					}
				}
			})
		}
		s.eventually("some are answered", func() bool { return u.answers.Load() > int64(300*(round+1)) })
		s.kill9()
		close(stop)
		wg.Wait()
		s.start()
	}
	answers := s.spendAll(key, spendBody, 20, false)
	s.used(id)
	if spent := u.nano.Load(); spent > 1000*each {
		t.Errorf("$%s of $%s", limiter.FormatUSD(spent), limiter.FormatUSD(1000*each))
	}
	t.Logf("%d answers of 1,000, %d of them after the kills", u.answers.Load(), answers)
}

func TestAnUpstreamThatSendsMoreThanAskedKillsTheKey(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	u.more = 1_000_000
	s := spendServer(t, u)
	id, key := s.mint(object{"max_spend_usd": "0.10"})
	if status, _ := s.sendBody(key, spendBody); status != http.StatusOK {
		t.Fatal(status)
	}
	s.used(id)
	if status, code := s.sendBody(key, spendBody); status != http.StatusPaymentRequired || code != "till_spend_exhausted" {
		t.Errorf("then: %d %s", status, code)
	}
	if used := s.show(id)["used_spend_usd"]; used != limiter.FormatUSD(u.nano.Load()) {
		t.Errorf("the books say $%v, the bill is $%s", used, limiter.FormatUSD(u.nano.Load()))
	}
}

// sendBody makes one request and returns its status and refusal code.
func (s *server) sendBody(key, body string) (int, string) {
	s.t.Helper()
	res, _ := s.must(s.post(key, "/v1/chat/completions", body))
	return res.StatusCode, res.Header.Get("Till-Refusal")
}
