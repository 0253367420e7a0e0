package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

const (
	clusterKeys    = 6
	clusterClients = 16
	// clientPatience is how long a client waits for an answer, which a node that is
	// stopped does not give.
	clientPatience = 3 * time.Second
	// answerTime is how long the upstream takes for an answer to these clients: most of
	// their requests are on their way when something happens, and the machine has room
	// for it to happen.
	answerTime = 100 * time.Millisecond
)

// clusterLoad is a cluster with many keys in use at once, before an upstream that counts
// each of them.
type clusterLoad struct {
	*cluster

	forwarded atomic.Int64
	inUse     atomic.Bool // by clients
	answers   sync.Map    // *atomic.Int64 by what an answer was

	mu      sync.RWMutex
	numbers []*member            // all that there are
	all     []*member            // those that are to be used up
	live    [clusterKeys]*member // of these, those that clients use
}

func newClusterLoad(t *testing.T, o clusterOptions) *clusterLoad {
	t.Helper()
	l := new(clusterLoad)
	o.vendor, o.to = upstreamtest.Any, countingUpstream(t, func(n int) {
		l.mu.RLock()
		m := l.numbers[n]
		l.mu.RUnlock()
		m.forwarded.Add(1)
		l.forwarded.Add(1)
		if l.inUse.Load() {
			time.Sleep(answerTime)
		}
	})
	l.cluster = newCluster(t, o)
	return l
}

// renew mints a key at a node in place of each that was refused for good, with at most so
// many activations.
func (l *clusterLoad) renew(at *server, most int64) {
	l.t.Helper()
	for i := range l.live {
		if m := l.live[i]; m != nil && !m.refused.Load() {
			continue
		}
		m := l.key(at, 1+most/2+rand.Int64N(most/2+1))
		l.mu.Lock()
		l.all = append(l.all, m)
		l.live[i] = m
		l.mu.Unlock()
	}
}

// key mints a key that clients do not use by themselves.
func (l *clusterLoad) key(at *server, limit int64) *member {
	l.t.Helper()
	m := &member{limit: limit}
	at.eventually("a key is minted", func() bool { // the database may have just come back
		status, answer := at.api("POST", "/keys", object{"upstream": "mock", "max_activations": limit})
		if status != http.StatusCreated {
			return false
		}
		m.id, m.key = answer["id"].(string), answer["scoped_key"].(string)
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	m.number = strconv.Itoa(len(l.numbers))
	l.numbers = append(l.numbers, m)
	return m
}

// pick is any of the keys in use.
func (l *clusterLoad) pick() *member {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.live[rand.IntN(clusterKeys)]
}

// ask makes one request with a key at a node, and counts the answer.
func (l *clusterLoad) ask(s *server, m *member) clusterAnswer {
	ctx, cancel := context.WithTimeout(context.Background(), clientPatience)
	defer cancel()
	a := answerTo(l.client, s.request(ctx, m.key, numberHeader, m.number))
	what := strconv.Itoa(a.status)
	switch {
	case a.status == http.StatusOK:
	case a.status == http.StatusPaymentRequired:
		m.refused.Store(true)
	case a.held():
		what = "held"
	case a.away():
		what = "503"
	case a.status != 0:
		what = fmt.Sprint("strange ", a.status, " ", a.refusal)
	case strings.Contains(a.err.Error(), syscall.ECONNREFUSED.Error()):
		what = "nobody listens"
	default:
		m.unanswered.Add(1)
		what = "none"
	}
	n, _ := l.answers.LoadOrStore(what, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	return a
}

// clients make requests at nodes picked at random until the returned function is called,
// which waits for them.
func (l *clusterLoad) clients() (wait func()) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	l.inUse.Store(true)
	for range clusterClients {
		wg.Go(func() {
			for !stop.Load() {
				if a := l.ask(l.any(), l.pick()); a.status != http.StatusOK {
					time.Sleep(refusedPace)
				}
			}
		})
	}
	return func() {
		stop.Store(true)
		wg.Wait()
		l.inUse.Store(false)
	}
}

// flows waits until so many requests more were forwarded, or all keys have run out.
func (l *clusterLoad) flows(more int64) {
	l.t.Helper()
	enough := l.forwarded.Load() + more
	l.nodes[0].eventually("requests go through", func() bool { return l.forwarded.Load() >= enough || l.spent() })
}

// spent reports whether every key in use has run out.
func (l *clusterLoad) spent() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, m := range l.live {
		if !m.refused.Load() {
			return false
		}
	}
	return true
}

// sums are what the keys could do, did, and what their clients do not know of.
type sums struct{ limit, forwarded, unanswered int64 }

func (s sums) lost() int64 { return s.limit - s.forwarded }

// drain uses up every key that was ever minted, at every node, and fails the test if one
// of them passed its limit.
func (l *clusterLoad) drain() (all sums) {
	l.t.Helper()
	l.client.CloseIdleConnections() // those of processes that were killed lead nowhere
	for _, m := range l.all {
		for i := range 2 * len(l.nodes) { // what was given back after the first makes a key live again
			s := l.nodes[i%len(l.nodes)]
			s.eventually("key "+m.id+" is spent", func() bool {
				for {
					switch a := l.ask(s, m); {
					case a.status == http.StatusPaymentRequired:
						return true
					case a.status != http.StatusOK:
						return false
					}
				}
			})
		}
		if n := m.forwarded.Load(); n > m.limit {
			l.t.Errorf("key %s of %d activations forwarded %d", m.id, m.limit, n)
		}
		all.limit += m.limit
		all.forwarded += m.forwarded.Load()
		all.unanswered += m.unanswered.Load()
	}
	l.answers.Range(func(what, _ any) bool {
		if strings.HasPrefix(what.(string), "strange") {
			l.t.Errorf("an answer was %v", what)
		}
		return true
	})
	return all
}

// losesAtMost fails the test if more of all limits is gone without having been forwarded
// than what clients got no answer for and so many more, or if the audit log is not one
// chain.
func (l *clusterLoad) losesAtMost(forfeit int64, after string) {
	l.t.Helper()
	all := l.drain()
	if all.lost()-all.unanswered > forfeit {
		l.t.Errorf("%d of %d were not forwarded, and %d were unanswered", all.lost(), all.limit, all.unanswered)
	}
	l.verified()
	l.t.Logf("%s: %d keys, forwarded %d of %d, %d unanswered (%s)", after, len(l.all), all.forwarded, all.limit, all.unanswered, l.answered())
}

// areReady waits until every node is ready.
func (c *cluster) areReady() {
	c.t.Helper()
	for _, s := range c.nodes {
		s.isReady()
	}
}

// answered lists how often each kind of answer came.
func (l *clusterLoad) answered() string {
	var list []string
	l.answers.Range(func(what, n any) bool {
		list = append(list, fmt.Sprintf("%v: %d", what, n.(*atomic.Int64).Load()))
		return true
	})
	return strings.Join(list, ", ")
}

// verified fails the test unless the audit log is one chain, as each node reads it.
func (c *cluster) verified() {
	c.t.Helper()
	for _, s := range c.nodes {
		if status, answer := s.inTouch("GET", "/audit/verify", nil); status != http.StatusOK || answer["ok"] != true {
			c.t.Errorf("the audit log at a node: %d %v", status, answer)
		}
	}
}
