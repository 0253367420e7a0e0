package limiter_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// lookedAt is a node whose look-ups are counted.
type lookedAt struct {
	store.Shared
	views, running, most atomic.Int64
	hold                 chan struct{} // nil: looks end at once
}

// View implements store.Store.
func (s *lookedAt) View(fn func(store.Reader) error) error {
	s.views.Add(1)
	n := s.running.Add(1)
	defer s.running.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	if s.hold != nil {
		<-s.hold
	}
	return s.Shared.View(fn)
}

func TestAFloodOfUnknownKeysIsNoFloodOfQueries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cluster := storetest.NewCluster()
		s := &lookedAt{Shared: cluster.Node("node-a")}
		l, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Clock: cluster.Clock("node-a")})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		synctest.Wait()
		unknown := lookup()
		before := s.views.Load()
		for range 1000 {
			if _, refusal := l.Find(ctx, unknown); refusal == nil || refusal.Code != record.CodeKeyInvalid {
				t.Fatalf("an unknown key: %+v", refusal)
			}
		}
		if n := s.views.Load() - before; n != 1 {
			t.Errorf("1,000 requests with one unknown key are %d queries", n)
		}
		cluster.Advance(11 * time.Second)
		synctest.Wait()
		l.Find(ctx, unknown)
		if n := s.views.Load() - before; n != 2 {
			t.Errorf("after eleven seconds %d queries were made, want 2", n)
		}

		s.hold = make(chan struct{})
		s.most.Store(0)
		before = s.views.Load()
		ended := make(chan *record.Refusal, 500)
		for range cap(ended) {
			go func() {
				_, refusal := l.Find(ctx, lookup())
				ended <- refusal
			}()
		}
		synctest.Wait()
		if n := s.most.Load(); n != limiter.MaxLookUps {
			t.Errorf("%d are looked for at a time, want %d", n, limiter.MaxLookUps)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, refusal := l.Find(gone, lookup()); refusal == nil || refusal.Code != record.CodeStoreUnavailable {
			t.Errorf("a client that has gone: %+v", refusal)
		}
		close(s.hold)
		for range cap(ended) {
			if refusal := <-ended; refusal == nil || refusal.Code != record.CodeKeyInvalid {
				t.Errorf("one of the others: %+v", refusal)
			}
		}
		if n := s.views.Load() - before; n > 6 {
			t.Errorf("requests with 500 unknown keys are %d queries", n)
		}
	})
}

func TestAKeyThatWasUnknownIsFoundAsSoonAsItIsMinted(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		next := lookup()
		if _, refusal := p.b.Find(ctx, next); refusal == nil {
			t.Fatal("it is found before it exists")
		}
		spec := &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits()}
		v, err := p.a.Mint(limiter.Operator, spec, limiter.Birth{Lookup: next, Unlimited: true})
		if err != nil {
			t.Fatal(err)
		}
		if pending := p.a.Pending(); len(pending) > 0 {
			t.Fatal(pending)
		}
		if k, refusal := p.b.Find(ctx, next); refusal != nil || k.Key().ID != v.ID {
			t.Errorf("afterwards: %+v", refusal)
		}
	})
}

func TestAStringThatAKeyWasGivenIsFoundBeforeTheNodeHasHeardOfIt(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.MintMany(1, func(int, *record.Key) {})[0]
		if code := k.on(p.b).use(); code != "" {
			t.Fatal(code)
		}
		synctest.Wait()
		p.cluster.Lose("node-b", true)
		next := lookup()
		if _, _, err := p.a.Rotate(limiter.Operator, k.id, record.Issue{Lookup: next}, time.Hour); err != nil {
			t.Fatal(err)
		}
		for what, lookup := range map[string]token.Lookup{"the new string": next, "the former one, which still works": k.lookup} {
			live, refusal := p.b.Find(ctx, lookup)
			if refusal == nil {
				_, refusal = live.Number(live.Key(), lookup, netip.Addr{})
			}
			if refusal != nil {
				t.Errorf("%s: %+v", what, refusal)
			}
		}
	})
}
