package limiter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

func TestOnlyTheNodeThatLeadsSweepsForAll(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		p.a.SweepDue() // it is the first to lead
		expires := p.a.Time().Add(5 * time.Second)
		k := p.a.mint(func(k *record.Key) { k.ExpiresAt = expires })
		p.cluster.Advance(6 * time.Second)
		if nodes, err := p.b.Nodes(); err != nil || len(nodes) != 2 || !nodes[0].Leads || nodes[1].Leads {
			t.Fatalf("the nodes are %+v, %v", nodes, err)
		}
		p.b.SweepDue()
		if n := p.b.Due(); n != 1 {
			t.Errorf("%d keys are due after a sweep by the node that does not lead, want 1", n)
		}
		p.a.SweepDue()
		if n := p.a.Due(); n != 0 || k.view().EndedStatus != record.Expired {
			t.Errorf("%d keys are due after a sweep by the node that leads", n)
		}
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		p.b.mint(func(k *record.Key) { k.ExpiresAt = p.b.Time().Add(5 * time.Second) })
		p.cluster.Advance(6 * time.Second)
		p.b.SweepDue()
		if n := p.b.Due(); n != 0 {
			t.Errorf("%d keys are due after a sweep by the node that leads now", n)
		}
	})
}

func TestAKeyThatOneNodeUsesIsNotIdleToTheOther(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		p.a.SweepDue() // so it leads
		k := p.a.mint(func(k *record.Key) { k.IdleTimeout = time.Minute })
		for _, w := range []*world{p.a, p.b} {
			if code := k.on(w).use(); code != "" {
				t.Fatal(code)
			}
		}
		for range 5 { // each time a moment before it would be idle
			p.advance(57 * time.Second)
			if code := k.on(p.b).use(); code != "" {
				t.Fatalf("the node that uses it: %s", code)
			}
			p.advance(2 * time.Second)
			p.a.SweepActive()
			p.a.SweepDue() // has heard of no use for 61 seconds
			p.b.SweepActive()
			if err := p.b.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			if v := k.view(); v.EndedStatus != "" {
				t.Fatalf("it has ended: %s", v.EndedReason)
			}
		}
		if code := k.on(p.a).use(); code != "" {
			t.Errorf("the other node: %s", code)
		}
		p.advance(2 * time.Minute)
		p.a.SweepDue()
		if v := k.view(); v.EndedReason != string(record.CodeKeyIdle) {
			t.Errorf("two minutes later it has ended: %q", v.EndedReason)
		}
	})
}

func TestNothingIsLeftOfAKeyThatIsForgotten(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.mint(activations(100))
		for _, w := range []*world{p.a, p.b} {
			if code := k.on(w).use(); code != "" {
				t.Fatal(code)
			}
		}
		if _, _, err := p.a.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it has given back what it had
		if err := p.a.Forget(ctx, limiter.Operator, k.id); err != nil {
			t.Fatal(err)
		}
		left, err := p.a.Left(k.id)
		left = slices.DeleteFunc(left, func(row string) bool { return strings.Contains(row, "/events/") }) // of which feeds tell
		account, _ := record.KeyAccount(k.id)
		err = errors.Join(err, p.cluster.View(func(r store.Reader) error {
			return r.Scan(record.PartPrefix(account), nil, false, func(key, _ []byte) (bool, error) {
				left = append(left, string(key))
				return true, nil
			})
		}))
		if err != nil || len(left) > 0 {
			t.Errorf("left are %q, %v", left, err)
		}
	})
}
