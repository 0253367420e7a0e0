package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestOneBudgetOverNodesIsForwardedExactlyAndRefusedOnlyWhenSpent sends three times as
// many requests as a key has, 100 at a time, to nodes picked at random. With `make
// torture` there are twelve runs of 1,000; otherwise some, and most of fewer.
func TestOneBudgetOverNodesIsForwardedExactlyAndRefusedOnlyWhenSpent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		nodes  int
		kind   string
		stream bool
		usual  int64
	}{
		{2, "activations", false, 1000},
		{3, "activations", true, 200},
		{2, "tokens", true, 100},
		{3, "tokens", false, 0}, // 0: with make torture alone
		{2, "dollars", false, 0},
		{3, "dollars", true, 100},
		{3, "activations", false, 0},
		{2, "activations", true, 0},
		{3, "tokens", true, 0},
		{2, "tokens", false, 0},
		{3, "dollars", false, 0},
		{2, "dollars", true, 0},
	} {
		worth := test.usual
		if os.Getenv(tortureVariable) != "" {
			worth = 1000
		} else if worth == 0 {
			continue
		}
		t.Run(fmt.Sprintf("%d nodes, %s, streamed %v", test.nodes, test.kind, test.stream), func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			if test.kind == "activations" {
				sharesActivations(t, test.nodes, worth, test.stream)
			} else {
				sharesSpending(t, test.nodes, worth, test.stream, test.kind)
			}
		})
	}
}

func sharesActivations(t *testing.T, nodes int, worth int64, stream bool) {
	c := newCluster(t, clusterOptions{nodes: nodes})
	id, key := c.any().mint(object{"max_activations": worth})
	got := c.share(int(3*worth), 100, func(s *server) *http.Request {
		if stream {
			return s.streaming(context.Background(), key, 3, 0)
		}
		return s.request(context.Background(), key)
	})
	got.neverFalse(t)
	if got.by[http.StatusOK] != worth || got.by[http.StatusPaymentRequired] != 2*worth || c.upstream.Count() != worth {
		t.Errorf("answers %v, and the upstream counted %d, want %d × 200 and %d × 402", got.by, c.upstream.Count(), worth, 2*worth)
	}
	if n := c.usedOn(id); n != worth {
		t.Errorf("the key counts %d, want %d", n, worth)
	}
	for _, s := range c.nodes {
		s.clean()
	}
	t.Logf("%v, %d tried again", got.by, got.held)
}

func sharesSpending(t *testing.T, nodes int, worth int64, stream bool, kind string) {
	const each = spendInput*inputRate + 100*outputRate
	u := newMeteredUpstream(t)
	c := newCluster(t, clusterOptions{nodes: nodes, options: options{to: u.URL, more: "price openai/m 1.00 2.00"}})
	body := spendBody
	if stream {
		body = strings.Replace(body, `{"model"`, `{"stream":true,"stream_options":{"include_usage":true},"model"`, 1)
	}
	// Nearly an answer more: a request is held to a little more than it uses, and the
	// last one has to fit.
	fields := object{"max_spend_usd": record.FormatUSD((worth+1)*each - 1), "fit": false}
	if kind == "tokens" {
		fields = object{"max_tokens": (worth+1)*(spendInput+100) - 1, "fit": false}
	}
	id, key := c.any().mint(fields)
	// Each node learns from answers of its own how large this request is, and holds less
	// from then on: one that has given none could find too large what another forwards.
	for _, s := range c.nodes {
		if a := s.answers(func() *http.Request { return s.post(key, "/v1/chat/completions", body) }); a.status != http.StatusOK {
			t.Fatalf("%+v", a)
		}
	}
	left := worth - int64(len(c.nodes))
	got := c.share(int(3*left), 100, func(s *server) *http.Request { return s.post(key, "/v1/chat/completions", body) })
	got.neverFalse(t)
	if u.answers.Load() != worth || got.by[http.StatusOK] != left {
		t.Errorf("answers %v, want %d × 200, and the upstream gave %d, want %d", got.by, left, u.answers.Load(), worth)
	}
	c.usedOn(id)
	for _, s := range c.nodes {
		k := s.show(id)
		if kind == "tokens" && int64(k["used_tokens"].(float64)) != u.tokens.Load() || kind == "dollars" && k["used_spend_usd"] != record.FormatUSD(u.nano.Load()) {
			t.Errorf("a node shows %v tokens, $%v; the upstream billed %d and $%s", k["used_tokens"], k["used_spend_usd"], u.tokens.Load(), record.FormatUSD(u.nano.Load()))
		}
	}
	t.Logf("%v, %d tried again, %d tokens, $%s of $%s", got.by, got.held, u.tokens.Load(), record.FormatUSD(u.nano.Load()), record.FormatUSD(worth*each))
}
