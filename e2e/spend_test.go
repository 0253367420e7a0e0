package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
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
	omit    bool   // says nothing of what was used
	says    string // instead of what was used; "" for the truth
	input   int64  // tokens that every request has; 0: as many as its text can have
	more    int64  // tokens beyond what was asked for

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
	if u.says != "" {
		usage = u.says
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

	retryHeld = 20 * time.Millisecond // when others hold the rest of a budget
)

// spendAll lets clients ask until the refusal that nothing is left, each at least so
// many times, and returns how many answers they got. If the refusal says that others
// hold the rest, they try again a little later, as SDKs do.
func (s *server) spendAll(key, body string, clients, each int, abort bool) int64 {
	s.t.Helper()
	end := time.Now().Add(6 * patience)
	var answers atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			made := 0
			for n := i; ; n++ {
				ctx, cancel := context.WithCancel(context.Background())
				if abort && n%3 == 0 {
					time.AfterFunc(time.Duration(n%7)*time.Millisecond, cancel) // at some point of the way
				}
				if time.Now().After(end) {
					s.t.Error("it never ends")
					cancel()
					return
				}
				r := s.post(key, "/v1/chat/completions", body).WithContext(ctx)
				res, err := s.client.Do(r)
				if err != nil {
					cancel()
					continue
				}
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				cancel()
				if res.StatusCode != http.StatusTooManyRequests {
					made++
				}
				switch {
				case res.StatusCode == http.StatusOK && err == nil:
					answers.Add(1)
				case res.StatusCode == http.StatusPaymentRequired:
					if made >= each {
						return
					}
				case res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Till-Refusal") == "till_budget_held",
					res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Till-Refusal") == "till_store_unavailable": // its disk was late
					time.Sleep(retryHeld) // a load's pace; nothing waits for it
				case err != nil, res.StatusCode == http.StatusOK:
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

// TestACapWorth1000AnswersIsNeverPassedAndNearlyAllUsed sends three times as many
// requests as a cap is worth, 100 at a time. Every run is of 1,000 answers with `make
// torture`; otherwise some have fewer.
func TestACapWorth1000AnswersIsNeverPassedAndNearlyAllUsed(t *testing.T) {
	t.Parallel()
	const each = spendInput*inputRate + 100*outputRate
	for _, test := range []struct {
		stream, tokens bool
		latency        time.Duration
		usual          int64
	}{
		{false, false, 0, 1000},
		{true, false, time.Second, 1000},
		{true, false, 0, 300},
		{false, false, time.Second, 300},
		{false, true, 0, 300},
		{true, true, 0, 300},
		{false, true, time.Second, 300},
		{true, true, time.Second, 300},
	} {
		t.Run(fmt.Sprintf("streamed %v, tokens %v, %s", test.stream, test.tokens, test.latency), func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			worth := test.usual
			if os.Getenv(tortureVariable) != "" {
				worth = 1000
			}
			u := newMeteredUpstream(t)
			u.latency = test.latency
			s := spendServer(t, u)
			body := spendBody
			if test.stream {
				body = strings.Replace(body, `{"model"`, `{"stream":true,"stream_options":{"include_usage":true},"model"`, 1)
			}
			fields := object{"max_spend_usd": record.FormatUSD(worth * each), "fit": false}
			if test.tokens {
				fields = object{"max_tokens": worth * (spendInput + 100), "fit": false}
			}
			id, key := s.mint(fields)
			answers := s.spendAll(key, body, 100, int(3*worth/100), false)
			s.used(id)
			if u.nano.Load() > worth*each || u.tokens.Load() > worth*(spendInput+100) || answers != u.answers.Load() {
				t.Errorf("%d answers of %d, $%s of $%s", answers, worth, record.FormatUSD(u.nano.Load()), record.FormatUSD(worth*each))
			}
			if 100*answers < 99*worth {
				t.Errorf("%d answers, want at least 99 %% of %d", answers, worth)
			}
			k := s.show(id)
			if test.tokens && int64(k["used_tokens"].(float64)) != u.tokens.Load() || !test.tokens && k["used_spend_usd"] != record.FormatUSD(u.nano.Load()) {
				t.Errorf("the books say %v tokens, $%v; the upstream %d and $%s", k["used_tokens"], k["used_spend_usd"], u.tokens.Load(), record.FormatUSD(u.nano.Load()))
			}
			t.Logf("%d answers of %d, %d tokens, $%s of $%s", answers, worth, u.tokens.Load(), record.FormatUSD(u.nano.Load()), record.FormatUSD(worth*each))
		})
	}
}

func TestNothingThatGoesWrongPassesACap(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*meteredUpstream){
		"as it should be":          func(*meteredUpstream) {},
		"no word of what was used": func(u *meteredUpstream) { u.omit = true },
		"numbers that are none":    func(u *meteredUpstream) { u.says = `{"prompt_tokens":-5,"completion_tokens":"7"}` },
		"numbers cut off":          func(u *meteredUpstream) { u.says = `{"prompt_tokens":5,"completion_tok` },
		"half of the truth":        func(u *meteredUpstream) { u.says = `{"prompt_tokens":5}` },
		// stella#2520, sub2api#6906: 60 of 60 requests passed a key of 1,000 tokens.
		"nothing, though text came": func(u *meteredUpstream) { u.says = `{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}` },
		"a prompt of nothing":       func(u *meteredUpstream) { u.says = `{"prompt_tokens":0,"completion_tokens":100}` }, // OmniRoute#4615
		"fitted to what is left":    func(u *meteredUpstream) { u.input = 10 },
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
				answers := s.spendAll(key, body, 20, 0, true)
				s.used(id)
				if spent := u.nano.Load(); spent > 100_000_000 {
					t.Errorf("$%s of $0.10 after %d answers", record.FormatUSD(spent), answers)
				}
				if answers == 0 {
					t.Error("no answer at all")
				}
				t.Logf("%d answers, $%s of $0.10", u.answers.Load(), record.FormatUSD(u.nano.Load()))
			})
		}
	}
}

func TestADollarWithSlowAnswersIsADollar(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	u := newMeteredUpstream(t)
	u.latency, u.input = time.Second, 10
	s := spendServer(t, u)
	// Each may cost nearly a quarter: peers let all of them through.
	body := strings.Replace(spendBody, ":100}", ":120000}", 1)
	id, key := s.mint(object{"max_spend_usd": "1", "fit": false})
	answers := s.spendAll(key, body, 30, 0, false)
	s.used(id)
	if spent := u.nano.Load(); spent > 1_000_000_000 || answers != 4 {
		t.Errorf("%d answers, $%s of $1", answers, record.FormatUSD(spent))
	}
	t.Logf("%d answers, $%s of $1", answers, record.FormatUSD(u.nano.Load()))
}

// TestACapHoldsOverKill9 kills the server twice on the way, or twenty times with
// `make torture`, while some clients give up at random points.
func TestACapHoldsOverKill9(t *testing.T) {
	t.Parallel()
	const each = spendInput*inputRate + 100*outputRate
	for name, test := range map[string]struct {
		stream, tokens, omit bool
	}{
		"dollars":                   {},
		"dollars, streamed":         {stream: true},
		"tokens":                    {tokens: true},
		"tokens, streamed":          {stream: true, tokens: true},
		"dollars, nothing reported": {omit: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kills := min(tortureSize(t, 2, 2), 20)
			worth := int64(150 * kills)
			u := newMeteredUpstream(t)
			u.latency, u.omit = 5*time.Millisecond, test.omit
			s := spendServer(t, u)
			body := spendBody
			if test.stream {
				body = strings.Replace(body, `{"model"`, `{"stream":true,"model"`, 1)
			}
			fields := object{"max_spend_usd": record.FormatUSD(worth * each), "fit": false}
			if test.tokens {
				fields = object{"max_tokens": worth * (spendInput + 100), "fit": false}
			}
			id, key := s.mint(fields)
			for range kills {
				before := u.answers.Load()
				stop := make(chan struct{})
				var spent atomic.Bool // more may be answered before the kill than is looked for
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						for n := i; ; n++ {
							select {
							case <-stop:
								return
							default:
							}
							ctx, cancel := context.WithCancel(context.Background())
							if n%5 == 0 {
								time.AfterFunc(time.Duration(n%11)*time.Millisecond, cancel)
							}
							if res, err := s.client.Do(s.post(key, "/v1/chat/completions", body).WithContext(ctx)); err == nil {
								_, _ = io.Copy(io.Discard, res.Body) // cut off by the kill
								res.Body.Close()
								if res.StatusCode == http.StatusPaymentRequired {
									spent.Store(true)
								}
							}
							cancel()
						}
					})
				}
				s.eventually("some are answered", func() bool { return u.answers.Load() > before+60 || spent.Load() })
				s.kill9()
				close(stop)
				wg.Wait()
				s.start()
			}
			killed := u.answers.Load()
			s.spendAll(key, body, 20, 0, true)
			s.used(id)
			if spent := u.nano.Load(); spent > worth*each || u.tokens.Load() > worth*(spendInput+100) {
				t.Errorf("%d tokens, $%s of $%s", u.tokens.Load(), record.FormatUSD(spent), record.FormatUSD(worth*each))
			}
			t.Logf("%d answers of %d, %d of them after the kills; $%s of $%s", u.answers.Load(), worth, u.answers.Load()-killed,
				record.FormatUSD(u.nano.Load()), record.FormatUSD(worth*each))
		})
	}
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
	if used := s.show(id)["used_spend_usd"]; used != record.FormatUSD(u.nano.Load()) {
		t.Errorf("the books say $%v, the bill is $%s", used, record.FormatUSD(u.nano.Load()))
	}
}

// sendBody makes one request and returns its status and refusal code.
func (s *server) sendBody(key, body string) (int, string) {
	s.t.Helper()
	res, _ := s.must(s.post(key, "/v1/chat/completions", body))
	return res.StatusCode, res.Header.Get("Till-Refusal")
}
