package limiter_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func TestRateIsATokenBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.Rate = record.Rate{N: 60, Per: time.Minute} })
	burst := func() (n int) {
		for k.use() == "" {
			n++
		}
		return n
	}
	if n := burst(); n != 60 {
		t.Errorf("a full bucket let %d through, want 60", n)
	}
	_, refusal := k.ask()
	if refusal.Code != record.CodeRateLimited || refusal.RetryAfter <= 0 || refusal.RetryAfter > time.Second {
		t.Errorf("refusal %v, retry after %s", refusal, refusal.RetryAfter)
	}
	w.clock.advance(10 * time.Second)
	if n := burst(); n != 10 {
		t.Errorf("10 s later %d went through, want 10", n)
	}
	w.clock.advance(time.Hour)
	if n := burst(); n != 60 {
		t.Errorf("an hour later %d went through, want 60: the bucket holds no more", n)
	}
}

func TestConcurrencyCountsWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.MaxConcurrency = 3 })
	var running []*limiter.Grant
	for range 3 {
		g, refusal := k.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		running = append(running, g)
	}
	if code := k.use(); code != record.CodeConcurrency {
		t.Fatalf("a fourth: %q", code)
	}
	running[1].Settle(record.Amounts{record.Activations: 1})
	if code := k.use(); code != "" {
		t.Fatalf("after one ended: %s", code)
	}
}

func TestEventStreamsHavePlacesOfTheirOwnAndAsMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(1000), func(k *record.Key) { k.MaxConcurrency = 2 }))
	c := p.mustChild(activations(100))
	var running []*limiter.Grant
	for _, k := range []*key{p, c} {
		for _, kind := range []func(*limiter.Ask){listens, func(*limiter.Ask) {}} {
			g, refusal := k.ask(kind)
			if refusal != nil {
				t.Fatal(refusal)
			}
			running = append(running, g)
		}
	}
	full := func(when string, streams, requests record.Code) {
		t.Helper()
		for _, k := range []*key{p, c} {
			if code := k.use(listens); code != streams {
				t.Errorf("%s: one more stream: %q, want %q", when, code, streams)
			}
			if code := k.use(); code != requests {
				t.Errorf("%s: one more request: %q, want %q", when, code, requests)
			}
		}
	}
	full("two of each", record.CodeConcurrency, record.CodeConcurrency)
	w.fail(true)
	w.heal(nil)
	full("in the store that was opened again", record.CodeConcurrency, record.CodeConcurrency)
	if v := p.view(); v.InFlight != 2 {
		t.Errorf("%d in flight, want 2", v.InFlight)
	}
	running[0].Settle(record.Amounts{1})
	full("a stream of the parent ended", "", record.CodeConcurrency)
	running[3].Settle(record.Amounts{1})
	full("and a request of the child", "", "")
	live, refusal := w.Find(ctx, p.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	var other *limiter.Grant
	if other, refusal = p.ask(listens); refusal != nil {
		t.Fatal(refusal)
	}
	if refusal := live.Precheck(ctx, &limiter.Ask{Listens: true}); refusal == nil || !strings.Contains(refusal.Message, "2 event streams") {
		t.Errorf("before its body would be read: %v", refusal)
	}
	other.Cancel()
}

// A client that listens on a stream that costs nothing would else keep its key
// from ending for as long as it does.
func TestAKeyEndsThoughAFreeStreamOfItIsOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(2))
	stream, refusal := k.ask(free, listens)
	if refusal != nil {
		t.Fatal(refusal)
	}
	k.drain(record.CodeActivationsExhausted)
	if err := w.Ping(ctx); err != nil { // what was on its way to the store is there
		t.Fatal(err)
	}
	if v := k.view(); v.EndedAt.IsZero() {
		t.Error("it has not ended")
	}
	stream.Settle(record.Amounts{1})
	if v := k.view(); v.Used[record.Activations] != 2 || v.InFlight != 0 {
		t.Errorf("%d used, %d in flight", v.Used[record.Activations], v.InFlight)
	}
	w.agree(t)
}

func TestFreeRequestsTakeNoActivationButNeedALiveKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(2))
	for i := range 60 {
		if code := k.use(free); code != "" {
			t.Fatalf("free request %d: %s", i, code)
		}
	}
	if code := k.use(free); code != record.CodeRateLimited {
		t.Errorf("the 61st in a minute: %q", code)
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 2 {
		t.Errorf("%d activations were left, want 2", n)
	}
	w.clock.advance(time.Hour)
	if code := k.use(free); code != record.CodeActivationsExhausted {
		t.Errorf("a free request of a dead key: %q", code)
	}
}

func TestPinIPBindsToTheFirstAddress(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ first, same, other string }{
		{"192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"},
	} {
		w := newWorld(t)
		k := w.mint(func(k *record.Key) { k.Scope.PinIP = true; k.Limit[record.Activations] = 100 })
		if code := k.use(from(test.first)); code != "" {
			t.Fatal(code)
		}
		w.kill(true) // the pin is on disk before the first request goes out
		if code := k.use(from(test.same)); code != "" {
			t.Errorf("%s after %s: %s", test.same, test.first, code)
		}
		if code := k.use(from(test.other)); code != record.CodeIPNotAllowed {
			t.Errorf("%s after %s: %q", test.other, test.first, code)
		}
		live, _ := w.Find(ctx, k.lookup)
		if r := live.Touch(ctx, netip.MustParseAddr(test.other)); r == nil || r.Code != record.CodeIPNotAllowed {
			t.Errorf("asking about the key from %s: %v", test.other, r)
		}
	}
}

func TestScopeRefusesByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) {
		k.Scope.Methods = []string{"POST"}
		k.Scope.Paths = []string{"/v1/chat/completions"}
		k.Scope.IPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		k.Scope.Models = []string{"gpt-5-mini", "claude-*"}
		k.Limit[record.Activations] = 1
	})
	for _, test := range []struct {
		name string
		opt  func(*limiter.Ask)
		want record.Code
	}{
		{"method", func(a *limiter.Ask) { a.Method = "GET" }, record.CodeMethodNotAllowed},
		{"path", func(a *limiter.Ask) { a.Path = "/v1/models" }, record.CodePathNotAllowed},
		{"address", from("198.51.100.1"), record.CodeIPNotAllowed},
		{"model", func(a *limiter.Ask) { a.Models, a.Named = []string{"gpt-5-mini", "gpt-5"}, true }, record.CodeModelNotAllowed},
		{"no model", func(*limiter.Ask) {}, record.CodeModelNotAllowed},
		{"a fallback alone", func(a *limiter.Ask) { a.Models = []string{"gpt-5-mini"} }, record.CodeModelNotAllowed},
		{"all right", func(a *limiter.Ask) { a.Models, a.Named = []string{"claude-haiku-5"}, true }, ""},
	} {
		if code := k.use(test.opt); code != test.want {
			t.Errorf("%s: %q, want %q", test.name, code, test.want)
		}
	}
}

func TestACanaryIsNeverAdmitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(0))
	if code := k.use(); code != record.CodeActivationsExhausted {
		t.Errorf("%q", code)
	}
}

// TestARateOutlivesTheKeysStayInMemory: whoever waits until the key has left
// memory has no new bucket.
func TestARateOutlivesTheKeysStayInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) {
		k.Limit[record.Activations], k.Rate = 1000, record.Rate{N: 24, Per: 24 * time.Hour}
	})
	if n := k.drain(record.CodeRateLimited); n != 24 {
		t.Fatalf("%d at once of a rate of 24 a day", n)
	}
	forget := func() {
		t.Helper()
		for range 30 { // until the sweeper has let it go
			w.clock.advance(2 * time.Minute)
			w.SweepActive()
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			w.SweepIdle()
		}
		if w.InMemory(k.id) {
			t.Fatal("it is still in memory")
		}
	}
	for range 3 {
		forget() // an hour later
		if n := k.drain(record.CodeRateLimited); n != 1 {
			t.Errorf("%d in an hour, want 1", n)
		}
	}
	forget()
	w.fail(false) // and another limiter comes
	w.heal(nil)
	if n := k.drain(record.CodeRateLimited); n != 1 {
		t.Errorf("%d in the hour in which the store was opened again, want 1", n)
	}
	w.clock.advance(24 * time.Hour)
	w.SweepIdle()
	if n := w.Paced(); n != 0 {
		t.Errorf("%d rates are kept that are full again", n)
	}
	if n := k.drain(record.CodeRateLimited); n != 24 {
		t.Errorf("%d a day later, want 24", n)
	}
}
