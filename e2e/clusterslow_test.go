package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// slowAnswers counts what clients get while the database is slow: status 200, 429 because
// another node holds the rest, or 503. The latter two say when to try again.
type slowAnswers struct {
	*cluster
	by map[int]int
}

// asks makes one request, and reports whether it was forwarded.
func (got *slowAnswers) asks(s *server, key string) bool {
	got.t.Helper()
	a := got.chatOn(s, key)
	got.by[a.status]++
	switch {
	case a.status == http.StatusOK:
		return true
	case (a.held() || a.away()) && a.after != "":
	default:
		got.t.Errorf("while the database is slow, a client gets %d %s, Retry-After %q, %v", a.status, a.refusal, a.after, a.err)
	}
	return false
}

// spends uses up a key at every node, and returns how often it worked.
func (c *cluster) spends(key string) (n int) {
	c.t.Helper()
	for i := range 2 * len(c.nodes) { // what was given back after the first makes a key live again
		s := c.nodes[i%len(c.nodes)]
		s.eventually("the key is spent", func() bool {
			for {
				switch a := c.chatOn(s, key); {
				case a.status == http.StatusOK:
					n++
				case a.status == http.StatusPaymentRequired:
					return true
				default:
					return false
				}
			}
		})
	}
	return n
}

// TestClientsOfASlowDatabaseWaitOrAreToldToTryAgain: 250 ms each way cost time alone; at
// 2.5 s the nodes lose touch, and refuse everything until it is quick again.
func TestClientsOfASlowDatabaseWaitOrAreToldToTryAgain(t *testing.T) {
	t.Parallel()
	const limit = 300
	for name, test := range map[string]struct {
		delay   time.Duration
		touches bool // the nodes stay in touch
	}{
		"250 ms each way":   {250 * time.Millisecond, true},
		"2,500 ms each way": {2500 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			c := newCluster(t, clusterOptions{nodes: 2, apart: true})
			a, b := c.nodes[0], c.nodes[1]
			mints := func(n int) (id, key string) { return a.mint(object{"max_activations": n}) }
			_, busy := mints(limit)
			_, unused := mints(2)
			streamed, streams := mints(1)
			got := &slowAnswers{c, map[int]int{}}
			n := 0
			use := func(key string, at ...*server) {
				for _, s := range at {
					if got.asks(s, key) {
						n++
					}
				}
			}
			for range 20 {
				use(busy, a, b)
			}
			stream := c.opens(a, streams)
			clear(got.by)
			for _, network := range c.networks {
				network.Slow(postgrestest.Latency{Delay: test.delay})
			}
			if test.touches {
				for range 20 {
					use(busy, a, b)
				}
				if got.by[http.StatusOK] == 0 {
					t.Errorf("a busy key gets %v", got.by)
				}
				b.eventually("a key that needs the database is admitted", func() bool { return got.asks(b, unused) })
				b.eventually("a key is minted", func() bool {
					status, _ := b.api("POST", "/keys", object{"upstream": "mock", "max_activations": 1})
					return status == http.StatusCreated
				})
			} else {
				for _, s := range c.nodes {
					s.eventually("it has lost touch", func() bool { use(busy, s); return strings.HasPrefix(s.adminPage("/till/ready"), "not ready") })
				}
				clear(got.by)
				use(busy, a, b)
				if got.asks(a, unused) || got.by[http.StatusServiceUnavailable] != 3 {
					t.Errorf("nodes that have lost touch answer %v", got.by)
				}
				if end := c.end(stream); !strings.Contains(end.last, "till_store_unavailable") {
					t.Errorf("a stream of a node that has lost touch ends with %q", end.last)
				}
			}
			t.Logf("while it was slow: %v", got.by)
			for i, network := range c.networks {
				network.Heal()
				c.nodes[i].isReady()
			}
			if test.touches { // the stream has gone on all the time, unless the machine was slow as well
				b.eventually("its key is revoked", func() bool {
					status, _ := b.api("POST", "/keys/"+streamed+"/revoke", object{})
					return status == http.StatusOK
				})
				c.endsBy(a, stream, "till_key_revoked")
			}
			if n += c.spends(busy); n != limit {
				t.Errorf("%d requests of %d", n, limit)
			}
			rest := c.spends(unused)
			if test.touches {
				rest++
			}
			if rest != 2 {
				t.Errorf("%d requests of 2", rest)
			}
			if forwarded := c.upstream.Count(); forwarded != limit+2+1 {
				t.Errorf("the upstream has got %d, want %d", forwarded, limit+2+1)
			}
			c.verified()
		})
	}
}
