package e2e

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// screensVariable names the directory that pictures of the console go to.
const screensVariable = "TILL_SCREENS"

// TestScreens takes the pictures of docs/img: `make screens`.
func TestScreens(t *testing.T) {
	dir := os.Getenv(screensVariable)
	if dir == "" {
		t.Skip("only for make screens")
	}
	dir, err := filepath.Abs(filepath.Join("..", dir)) // from where make runs
	if err != nil {
		t.Fatal(err)
	}
	c, shown := newLivedConsole(t)
	status, answer := c.api("POST", "/keys/"+shown["contractor-maria"]+"/suspend", nil)
	if status != http.StatusOK {
		t.Fatal(status, answer)
	}
	c.api("POST", "/keys/"+shown["summer-demo"]+"/revoke", object{"reason": "the demo is over"})
	c.plan = object{"dir": dir, "key": shown["support-triage"]}
	c.browser("screens")
}

// newLivedConsole is a console over keys that were used for a month, all or those
// named, and their ids by name.
func newLivedConsole(t *testing.T, names ...string) (*console, map[string]string) {
	t.Helper()
	addr := freePort(t)
	o := consoleOptions(addr)
	for _, name := range []string{"openai", "anthropic", "github https://api.github.com"} {
		o.more += "\n\t\tupstream " + name + " {\n\t\t\tcredential {env.MOCK_KEY}\n\t\t}"
	}
	c := &console{server: newServer(t, o), base: "http://" + addr}
	c.stop()
	if err := os.RemoveAll(c.store()); err != nil { // it has seen today
		t.Fatal(err)
	}
	shown := livedMonth(t, c.store(), names)
	c.start()
	return c, shown
}

// monthClock is a clock that is set.
type monthClock struct {
	mu       sync.Mutex
	at, from time.Time
}

func (c *monthClock) Now() (time.Time, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at, c.at.Sub(c.from)
}

func (c *monthClock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

// livedMonth fills a store with keys and a month of their use, by a clock that
// runs a month within seconds, and returns their ids by name.
func livedMonth(t *testing.T, dir string, names []string) map[string]string {
	t.Helper()
	store, err := store.OpenBadger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Round(0)
	at := now.Add(-35 * 24 * time.Hour)
	clock := &monthClock{at: at, from: at}
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: store, Anchor: filepath.Join(dir, "anchor"), Shadow: filepath.Join(dir, "shadow"), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	life := []struct {
		name, owner, upstream string
		age, lasts            time.Duration
		activations, tokens   int64
		dollars               int64
		models                []string
		an                    float64 // requests in a busy hour
		refused               map[record.Code]float64
	}{
		{name: "release-notes", owner: "docs", upstream: "github", age: 33 * day, lasts: 90 * day, activations: 300},
		{name: "evals-batch", owner: "research", upstream: "openai", age: 21 * day, lasts: 45 * day, activations: 20000, dollars: 120, models: []string{"gpt-5-mini"}, an: 34},
		{name: "support-triage", owner: "support", upstream: "anthropic", age: 18 * day, lasts: 30 * day, activations: 8000, tokens: 20_000_000, dollars: 60, models: []string{"claude-haiku-4-5"}, an: 21,
			refused: map[record.Code]float64{record.CodeRateLimited: 2.1, record.CodeModelNotAllowed: .4, record.CodeConcurrency: .6}},
		{name: "summer-demo", owner: "sales", upstream: "openai", age: 16 * day, lasts: 20 * day, activations: 100, an: .2},
		{name: "contractor-maria", owner: "design", upstream: "openai", age: 12 * day, lasts: 30 * day, activations: 2000, dollars: 25, an: 4},
		{name: "docs-writer", owner: "docs", upstream: "anthropic", age: 9 * day, lasts: 14 * day, activations: 1500, dollars: 20, an: 6},
		{name: "issue-import", owner: "data", upstream: "github", age: 5 * day, activations: 240, an: 30},
		{name: "ci-smoke", owner: "platform", upstream: "openai", age: 3 * day, lasts: 7 * day, tokens: 2_000_000, an: 9},
		{name: "nightly-review", owner: "platform", upstream: "anthropic", age: 13 * time.Hour, lasts: 24 * time.Hour, activations: 500, tokens: 1_000_000, dollars: 5, models: []string{"claude-haiku-4-5"}, an: 33,
			refused: map[record.Code]float64{record.CodeRateLimited: 1}},
	}
	random := rand.New(rand.NewPCG(7, 7)) // the same pictures each time
	ids, keys := map[string]string{}, map[string]*limiter.Live{}
	for ; at.Before(now.Add(-time.Minute)); at = at.Add(time.Hour) {
		clock.set(at)
		busy := .15
		if hour := at.UTC().Hour(); hour > 6 && hour < 19 && at.Weekday() != time.Saturday && at.Weekday() != time.Sunday {
			busy = .5 + .5*random.Float64()
		}
		for _, k := range life {
			live := keys[k.name]
			if live == nil {
				if now.Sub(at) > k.age || len(names) > 0 && !slices.Contains(names, k.name) {
					continue
				}
				_, lookup, err := token.MintKey()
				if err != nil {
					t.Fatal(err)
				}
				spec := &record.Key{Name: k.name, Owner: k.owner, Upstream: k.upstream, Custody: record.CustodyHeld, Limit: record.NoLimits(), SelfRevoke: true}
				spec.Scope.Models = k.models
				for kind, n := range map[record.Kind]int64{record.Activations: k.activations, record.Tokens: k.tokens, record.Nanodollars: k.dollars * 1e9} {
					if n > 0 {
						spec.Limit[kind] = n
					}
				}
				if k.lasts > 0 {
					spec.ExpiresAt = at.Add(k.lasts)
				}
				view, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup})
				if err != nil {
					t.Fatal(err)
				}
				found, refusal := l.Find(t.Context(), lookup)
				if refusal != nil {
					t.Fatal(refusal.Message)
				}
				live, keys[k.name], ids[k.name] = found, found, view.ID
			}
			for range int(k.an*busy + random.Float64()) {
				use(live, random, k.upstream != "github", k.models)
			}
			for code, often := range k.refused {
				for range int(often*busy + random.Float64()) {
					live.Count(code)
				}
			}
		}
	}
	clock.set(now)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return ids
}

// use makes one request of a key; a dead one refuses it.
func use(k *limiter.Live, random *rand.Rand, metered bool, models []string) {
	var used record.Amounts
	used[record.Activations] = 1
	kinds := record.TokenKinds{}
	if metered {
		kinds.Input, kinds.Output = 400+random.Int64N(900), 80+random.Int64N(500)
		used[record.Tokens] = kinds.Input + kinds.Output
		used[record.Nanodollars] = kinds.Input*1000 + kinds.Output*5000
	}
	ask := limiter.Ask{Bound: used, Addr: netip.MustParseAddr("10.4.1.20"), Method: "POST", Path: "/v1/messages", Models: slices.Clone(models), Named: len(models) > 0}
	var g limiter.Grant
	if refusal := k.Reserve(context.Background(), &ask, &g); refusal != nil {
		return
	}
	g.Measured(kinds)
	g.Settle(used)
}
