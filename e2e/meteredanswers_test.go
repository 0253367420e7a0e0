package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// stated is the output bound that the upstream got.
func (u *meteredUpstream) stated(t *testing.T) int64 {
	t.Helper()
	var ask struct {
		Max int64 `json:"max_completion_tokens"`
	}
	if err := json.Unmarshal([]byte(u.last.Load().(string)), &ask); err != nil {
		t.Fatal(err)
	}
	return ask.Max
}

func TestAnswersAreFittedToWhatIsLeft(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	u.input = 10
	s := spendServer(t, u)
	const long = `{"model":"m","messages":[],"max_completion_tokens":5000}`
	const open = `{"model":"m","messages":[]}`
	for _, test := range []struct {
		name   string
		fields object
		body   string
		status int
		code   string
		stated int64 // at the upstream; -1: anything below 5,000
		header bool  // Till-Output-Limit
	}{
		{"enough is left", object{"max_tokens": 100000}, long, 200, "", 5000, false},
		{"less is left", object{"max_tokens": 2000}, long, 200, "", -1, true},
		{"less is left, in dollars", object{"max_spend_usd": "0.002"}, long, 200, "", -1, true},
		{"less is left, and the client states nothing", object{"max_tokens": 2000}, open, 200, "", -1, true},
		{"less than the floor is left", object{"max_tokens": 300}, long, 402, "till_budget_too_small", 0, false},
		{"less than the floor is left, but enough for a small one", object{"max_tokens": 300}, strings.Replace(long, "5000", "50", 1), 200, "", 50, false},
		{"not to be fitted", object{"max_tokens": 2000, "fit": false}, long, 402, "till_budget_too_small", 0, false},
		{"not to be fitted, and nothing stated", object{"max_tokens": 2000, "fit": false}, open, 403, "till_not_meterable", 0, false},
		{"a limit for one request", object{"max_spend_usd": "5", "max_request_spend_usd": "0.002"}, long, 200, "", -1, true},
		{"a limit for one request that is too small", object{"max_spend_usd": "5", "max_request_spend_usd": "0.0001"}, long, 402, "till_budget_too_small", 0, false},
		{"a limit for one request, not to be fitted", object{"max_spend_usd": "5", "max_request_spend_usd": "0.002", "fit": false}, long, 402, "till_budget_too_small", 0, false},
		{"a price that is not known", object{"max_spend_usd": "5"}, strings.Replace(long, `"m"`, `"x"`, 1), 403, "till_price_unknown", 0, false},
		{"a price that need not be known", object{"max_tokens": 100000}, strings.Replace(long, `"m"`, `"x"`, 1), 200, "", 5000, false},
		{"a price that is not known and not minded", object{"max_spend_usd": "5", "unknown_price": "count_only"}, strings.Replace(long, `"m"`, `"x"`, 1), 200, "", 5000, false},
		{"a price that is not known, and nothing stated", object{"max_tokens": 5000000}, strings.Replace(open, `"m"`, `"x"`, 1), 200, "", 16384, false},
		{"a large one, and nothing stated", object{"max_tokens": 5000000}, `{"model":"x","messages":[{"role":"user","content":"` + strings.Repeat("some words, ", 20_000) + `"}]}`, 200, "", 16384, false},
		{"a tool that runs elsewhere", object{"max_tokens": 100000}, strings.Replace(long, `{`, `{"tools":[{"type":"web_search"}],`, 1), 403, "till_not_meterable", 0, false},
		{"a bound twice", object{"max_tokens": 100000}, strings.Replace(long, `{`, `{"max_completion_tokens":1,`, 1), 400, "till_bad_request", 0, false},
		{"wrong JSON", object{"max_tokens": 100000}, `{"model":`, 400, "till_bad_request", 0, false},
	} {
		id, key := s.mint(test.fields)
		before := u.answers.Load()
		res, body := s.must(s.post(key, "/v1/chat/completions", test.body))
		if got := res.Header.Get("Till-Refusal"); res.StatusCode != test.status || got != test.code {
			t.Errorf("%s: %d %q, want %d %q: %s", test.name, res.StatusCode, got, test.status, test.code, body)
			continue
		}
		k := s.show(id)
		if test.status != http.StatusOK {
			if used, _ := k["used_tokens"].(float64); used != 0 || u.answers.Load() != before {
				t.Errorf("%s: a refusal took something: %v", test.name, k)
			}
			continue
		}
		stated := u.stated(t)
		if test.stated >= 0 && stated != test.stated || test.stated < 0 && (stated >= 5000 || stated < 256) {
			t.Errorf("%s: the upstream may answer with %d tokens, want %d", test.name, stated, test.stated)
		}
		if got := res.Header.Get("Till-Output-Limit"); (got != "") != test.header {
			t.Errorf("%s: Till-Output-Limit is %q", test.name, got)
		}
		if test.fields["max_tokens"] != nil && res.Header.Get("Till-Tokens-Remaining") == "" || test.fields["max_spend_usd"] != nil && res.Header.Get("Till-Spend-Remaining") == "" {
			t.Errorf("%s: what is left is not told: %v", test.name, res.Header)
		}
	}
}

func TestUsageIsAskedForAndHidden(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	s := spendServer(t, u)
	const body = `{"model":"m","stream":true,"messages":[],"max_completion_tokens":50}`
	for _, asks := range []bool{false, true} {
		id, key := s.mint(object{"max_tokens": 10000})
		sent := body
		if asks {
			sent = strings.Replace(body, `{`, `{"stream_options":{"include_usage":true},`, 1)
		}
		_, answer := s.must(s.post(key, "/v1/chat/completions", sent))
		if got := strings.Contains(answer, `"usage"`); got != asks {
			t.Errorf("asked %v: %s", asks, answer)
		}
		if strings.Count(answer, "data: ") != map[bool]int{false: 4, true: 5}[asks] || !strings.HasSuffix(answer, "data: [DONE]\n\n") {
			t.Errorf("asked %v: %s", asks, answer)
		}
		s.used(id)
		if used := s.show(id)["used_tokens"]; used != 52.0 {
			t.Errorf("asked %v: %v tokens are charged, want 52", asks, used)
		}
	}
	_, key := s.mint(object{"max_activations": 1})
	s.must(s.post(key, "/v1/chat/completions", body))
	if got := u.last.Load().(string); got != body {
		t.Errorf("without a limit in tokens the body was changed: %s", got)
	}
}

// TestEveryVendorsUseIsMeasured compares the books with what the stand-in says
// that it used, plain and streamed, by the vendors' own SDKs.
func TestEveryVendorsUseIsMeasured(t *testing.T) {
	t.Parallel()
	for client, vendor := range map[string]upstreamtest.Vendor{
		"openai": upstreamtest.OpenAI, "anthropic": upstreamtest.Anthropic, "gemini": upstreamtest.Gemini, "mistral": upstreamtest.Mistral, "cohere": upstreamtest.Cohere,
	} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: vendor, more: "price " + string(vendor) + "/m 1.00 2.00"})
			id, key := s.mint(object{"max_tokens": 100000, "max_spend_usd": "5"})
			for _, o := range sdk(t, client, "plain,stream", "http://"+s.addr, key, nil) {
				if o.Error != nil {
					t.Errorf("%v", o.Error)
				}
			}
			s.used(id)
			// Two answers of 5 tokens in and 2 out.
			if k := s.show(id); k["used_tokens"] != 14.0 || k["used_spend_usd"] != "0.000018" {
				t.Errorf("used %v tokens, $%v; want 14, $0.000018", k["used_tokens"], k["used_spend_usd"])
			}
			s.clean()
		})
	}
}

func TestARequestThatFailsGivesTokensBack(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_tokens": 100000})
	for _, test := range []struct {
		name   string
		header []string
		gives  bool
	}{
		{"a mistake of the client's", []string{upstreamtest.HeaderStatus, "400"}, true},
		{"too many requests", []string{upstreamtest.HeaderStatus, "429"}, true},
		{"an error in the upstream's own words", []string{upstreamtest.HeaderStatus, "500"}, true},
		{"a reset before the answer", []string{upstreamtest.HeaderFail, "before"}, false},
		{"a reset in the answer", []string{upstreamtest.HeaderFail, "after"}, false},
	} {
		s.used(id)
		before := s.show(id)["used_tokens"].(float64)
		res, err := s.client.Do(s.post(key, "/v1/chat/completions", `{"model":"m","stream":true,"messages":[],"max_completion_tokens":500}`, test.header...))
		if err == nil {
			res.Body.Close()
		}
		s.used(id)
		if used := s.show(id)["used_tokens"].(float64) - before; (used == 0) != test.gives || !test.gives && used < 500 {
			t.Errorf("%s: %v tokens are charged", test.name, used)
		}
	}
}

func TestKeysOfARoleShareItsDollars(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	s := newServer(t, options{to: u.URL, site: "metrics /metrics", more: "price openai/m 1.00 2.00\nrole ci {\n\tbudget spend $0.01\n}"})
	keys := make([]string, 3)
	for i := range keys {
		// No limit of their own but time.
		_, keys[i] = s.mint(object{"role": "ci", "expires_in": "1h", "fit": false})
	}
	for i := 0; ; i++ {
		status, code := s.sendBody(keys[i%3], spendBody)
		if status == http.StatusOK && i < 1000 {
			continue
		}
		if status != http.StatusPaymentRequired || code != "till_budget_too_small" && code != "till_spend_exhausted" {
			t.Errorf("after %d: %d %s", i, status, code)
		}
		break
	}
	if spent := u.nano.Load(); spent > 10_000_000 || spent < 9_000_000 {
		t.Errorf("%d nano-dollars of $0.01", spent)
	}
	text := s.adminPage("/metrics")
	answers := u.answers.Load()
	for _, want := range []string{
		fmt.Sprintf(`caddy_till_tokens_total{kind="output",upstream="mock"} %d`, 100*answers),
		fmt.Sprintf(`caddy_till_tokens_total{kind="input",upstream="mock"} %d`, spendInput*answers),
		`caddy_till_spend_usd_total{upstream="mock"} 0.009`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}
