package postgres_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
)

// slowPair are two nodes, each with a network of its own to one server.
func slowPair(t *testing.T) (p *pair, networks []*postgrestest.Proxy) {
	t.Helper()
	server := postgrestest.Start(t)
	networks = []*postgrestest.Proxy{postgrestest.NewProxy(t, server), postgrestest.NewProxy(t, server)}
	return newPair(t, server, networks[0].DSN(), networks[1].DSN()), networks
}

// heal makes networks quick again, and waits until the nodes are well by themselves.
func (p *pair) heal(networks ...*postgrestest.Proxy) {
	p.t.Helper()
	for _, network := range networks {
		network.Heal()
	}
	for _, l := range p.nodes {
		if l.Failed() != nil {
			p.t.Errorf("it does not heal by itself: %v", l.Failed())
		}
		eventually(p.t, "the node is ready", func() bool { return l.Ready() == nil && l.Ping(p.t.Context()) == nil })
	}
}

// renewed waits until each of these nodes has renewed its session so often. Meanwhile, late
// reports whether one has not renewed it for longer than it does when the machine has time:
// that one may have lost touch.
func (p *pair) renewed(times int, meanwhile func(late func() bool), nodes ...string) {
	p.t.Helper()
	seen := "SELECT seen FROM till.session WHERE name IN ('" + strings.Join(nodes, "', '") + "') ORDER BY name"
	last, n := p.server.Exec(p.t, seen), make([]int, len(nodes))
	eventually(p.t, "the nodes renew their sessions", func() bool {
		meanwhile(func() bool {
			return p.server.Exec(p.t, "SELECT clock_timestamp() - least('"+strings.Join(last, "'::timestamptz, '")+"'::timestamptz) > interval '3500 ms'")[0] == "t"
		})
		now := p.server.Exec(p.t, seen)
		for i := range n {
			if now[i] != last[i] {
				n[i]++
			}
		}
		last = now
		return slices.Min(n) >= times
	})
}

// TestADatabaseThatAnswersLateCostsTimeAndNothingElse: whatever the network does, what is
// reserved stays exact, and the nodes are well again once it is.
func TestADatabaseThatAnswersLateCostsTimeAndNothingElse(t *testing.T) {
	t.Parallel()
	const limit = 300
	type holds int
	const (
		maybe holds = iota
		yes
		no
	)
	for name, test := range map[string]struct {
		latency         postgrestest.Latency
		fresh, reserves holds
	}{
		"50 ms each way, and up to 50 ms more": {postgrestest.Latency{Delay: 50 * time.Millisecond, Jitter: 50 * time.Millisecond}, yes, yes},
		"250 ms each way":                      {postgrestest.Latency{Delay: 250 * time.Millisecond}, yes, yes},
		"500 ms each way":                      {postgrestest.Latency{Delay: 500 * time.Millisecond}, yes, no},
		"2,500 ms each way":                    {postgrestest.Latency{Delay: 2500 * time.Millisecond}, no, no},
		"up to 500 ms each way, at random":     {postgrestest.Latency{Jitter: 500 * time.Millisecond}, yes, maybe},
		"20 kB/s":                              {postgrestest.Latency{Bandwidth: 20_000}, yes, yes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, networks := slowPair(t)
			k, unused := mint(t, p.nodes[0], limit), mint(t, p.nodes[0], 1)
			n, slow := p.use(k, 20), map[record.Code]int{}
			try := func() {
				for _, l := range p.nodes {
					code := use(l, k)
					if slow[code]++; code == "" {
						n++
					}
				}
			}
			test.latency.Seed = rand.Uint64()
			t.Logf("seed %d", test.latency.Seed)
			for _, network := range networks {
				network.Slow(test.latency)
			}
			if test.fresh == no {
				for _, l := range p.nodes {
					eventually(t, "the node has lost touch", func() bool { return l.Ready() != nil })
				}
				try()
				if slow[record.CodeStoreUnavailable] != 2 {
					t.Errorf("of nodes that have lost touch: %v", slow)
				}
			} else {
				// More than a session lives.
				p.renewed(4, func(late func() bool) {
					for _, l := range p.nodes {
						if err := l.Ready(); err != nil && !late() {
							t.Errorf("a node that renews its session in time: %v", err)
						}
					}
				}, "one", "two")
			}
			used := int64(0)
			reserve := func() bool {
				code := use(p.nodes[1], unused)
				if slow[code]++; code == "" {
					used++
				}
				return code == ""
			}
			if test.reserves == yes {
				eventually(t, "a key that needs the database is admitted", reserve)
			} else if reserve() && test.reserves == no {
				t.Error("a key that needs the database is admitted")
			}
			for range 2 {
				try()
			}
			for code := range slow {
				if code != "" && code != record.CodeStoreUnavailable && code != record.CodeBudgetHeld {
					t.Errorf("clients get %s", code)
				}
			}
			t.Logf("while it was slow: %v", slow)
			p.heal(networks...)
			if n += p.drain(k); n != limit {
				t.Errorf("%d requests of %d", n, limit)
			}
			if used += p.drain(unused); used != 1 {
				t.Errorf("%d requests of 1", used)
			}
		})
	}
}

// TestABusyKeyHardlyNoticesADatabaseThatIsFarAway: at 50 ms each way, few requests wait.
func TestABusyKeyHardlyNoticesADatabaseThatIsFarAway(t *testing.T) {
	t.Parallel()
	const limit, clients, requests = 20_000, 8, 3000
	p, networks := slowPair(t)
	k := mint(t, p.nodes[0], limit)
	for _, network := range networks {
		network.Slow(postgrestest.Latency{Delay: 50 * time.Millisecond})
	}
	load := func(requests int64) {
		t.Helper()
		var left atomic.Int64
		left.Store(requests)
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for left.Add(-1) >= 0 {
					forward(t, p.nodes[0], k)
				}
			})
		}
		all.Wait()
	}
	load(requests) // from here on the key is known to be busy
	networks[0].Trips()
	began := time.Now()
	load(requests)
	// It is some 20 where the machine has time. On a busy one fewer requests come while a
	// block lasts, which is for a quarter of a second. If all waited, those of eight clients
	// would share ten transactions a second.
	took := time.Since(began)
	most := max(requests/30, int(8*took.Seconds()))
	if writes := len(networks[0].Trips().Writes); writes > most {
		t.Errorf("%d requests took %d transactions in %s, want at most %d", requests, writes, took, most)
	} else {
		t.Logf("%d requests took %d transactions in %s", requests, writes, took)
	}
	p.heal(networks...)
	if n := p.drain(k) + 2*requests; n != limit {
		t.Errorf("%d requests of %d", n, limit)
	}
}

// TestANodeWithASlowLineHoldsNobodyUp: its transactions are long, and those of others go
// on beside them; what others revoke it refuses, or it is not fresh.
func TestANodeWithASlowLineHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	for name, latency := range map[string]postgrestest.Latency{
		"100 ms each way":   {Delay: 100 * time.Millisecond},
		"500 ms each way":   {Delay: 500 * time.Millisecond},
		"2,500 ms each way": {Delay: 2500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const limit = 5000
			p, networks := slowPair(t)
			slow, quick := p.nodes[0], p.nodes[1]
			k, revoked := mint(t, quick, limit), mint(t, quick, limit)
			n := int64(0)
			for _, l := range p.nodes {
				forward(t, l, revoked)
			}
			networks[0].Slow(latency)
			over := make(chan struct{})
			var others sync.WaitGroup
			var elsewhere atomic.Int64
			others.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
					}
					if code := use(slow, k); code == "" {
						elsewhere.Add(1)
					}
					tryMint(slow, activations(1)) // alone in the cluster
				}
			})
			p.renewed(2, func(late func() bool) {
				if code := use(quick, k); code == "" {
					n++
				} else if code != record.CodeBudgetHeld && (code != record.CodeStoreUnavailable || !late()) {
					t.Errorf("the other node: %s", code)
				}
			}, "two")
			live, refusal := quick.Find(t.Context(), revoked)
			if refusal != nil {
				t.Fatal(refusal)
			}
			if _, _, err := quick.Revoke(t.Context(), limiter.Operator, live.Key().ID, ""); err != nil {
				t.Fatal(err)
			}
			behind := quick.Pending()
			if code := use(slow, revoked); code != record.CodeKeyRevoked && code != record.CodeStoreUnavailable {
				t.Errorf("the node with the slow line, when the revocation has returned: %q", code)
			}
			t.Logf("not followed: %v", behind)
			close(over)
			others.Wait()
			p.heal(networks...)
			if n += elsewhere.Load() + p.drain(k); n != limit {
				t.Errorf("%d requests of %d", n, limit)
			}
		})
	}
}
