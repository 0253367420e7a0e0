package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// cluster is several Caddy processes that share a database and an upstream.
type cluster struct {
	t        *testing.T
	nodes    []*server
	consoles []string              // address of each node's console
	networks []*postgrestest.Proxy // between each node and the database; nil without apart
	database *postgrestest.Server
	upstream *upstreamtest.Server
	client   *http.Client
}

// clusterOptions say what differs from two nodes over the database that all tests share.
type clusterOptions struct {
	options
	nodes int
	apart bool                 // each node has a network of its own to the database
	on    *postgrestest.Server // the test's own
}

func newCluster(t *testing.T, o clusterOptions) *cluster {
	t.Helper()
	takesPlace(t)
	c := &cluster{t: t, database: o.on, upstream: o.before}
	if c.database == nil {
		c.database = postgrestest.Shared(t)
	}
	if c.upstream == nil {
		vendor := o.vendor
		if vendor == "" {
			vendor = upstreamtest.OpenAI
		}
		c.upstream = upstreamtest.Start(t, vendor, realKey)
	}
	o.before = c.upstream
	schema := schemaOf(t)
	o.more += "\nseal_key " + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n" // all nodes must have the same
	for i := range max(2, o.nodes) {
		dsn := c.database.DSN()
		if o.apart {
			network := postgrestest.NewProxy(t, c.database)
			c.networks = append(c.networks, network)
			dsn = network.DSN()
		}
		console := freePort(t)
		o.sites = "http://:" + port(console) + " {\n\ttill_console\n}\n"
		c.consoles = append(c.consoles, console)
		o.options.database = inDatabase(dsn, schema, "node-"+string(rune('a'+i)))
		c.nodes = append(c.nodes, newServer(t, o.options))
	}
	for _, s := range c.nodes {
		s.isReady()
	}
	c.client = c.nodes[0].client
	return c
}

var schemas atomic.Int64

// schemaOf is the name of a schema that no other test has.
func schemaOf(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("cluster%d", schemas.Add(1))
}

// any is one of the nodes, as a balancer that spreads at random picks it.
func (c *cluster) any() *server { return c.nodes[rand.IntN(len(c.nodes))] }

// clusterAnswer is how a request ended.
type clusterAnswer struct {
	status  int // 0: none came
	refusal string
	after   string // Retry-After
	began   time.Time
	ended   time.Time
	err     error
}

// held reports whether the refusal says that the rest of a budget may still be given
// back: the client is to try again.
func (a clusterAnswer) held() bool {
	return a.status == http.StatusTooManyRequests && a.refusal == "till_budget_held"
}

// away reports whether the node lacks its database.
func (a clusterAnswer) away() bool { return a.status == http.StatusServiceUnavailable }

// again reports whether the client is told to try again, and that nothing was forwarded.
func (a clusterAnswer) again() bool { return a.held() || a.noStore() }

// noStore reports whether that is so because the database, or a disk, did not answer in time.
func (a clusterAnswer) noStore() bool {
	return a.away() && a.refusal == "till_store_unavailable" && a.after != ""
}

// answerTo sends a request and reads the answer to its end.
func answerTo(client *http.Client, r *http.Request) (a clusterAnswer) {
	a.began = time.Now()
	defer func() { a.ended = time.Now() }()
	res, err := client.Do(r)
	if err != nil {
		a.err = err
		return a
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		a.err = err
		return a
	}
	a.status, a.refusal, a.after = res.StatusCode, res.Header.Get("Till-Refusal"), res.Header.Get("Retry-After")
	return a
}

// shared is how the requests of many clients on one budget ended.
type shared struct {
	mu          sync.Mutex
	by          map[int]int64 // status
	strange     []string
	held        int64     // answers that were to be tried again: most of a budget that is held
	firstSpent  time.Time // when the first refusal came that said that nothing is left
	lastAllowed time.Time // when the last request was sent that was forwarded
}

func (g *shared) add(a clusterAnswer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case a.again():
		g.held++
		if n, err := strconv.Atoi(a.after); err != nil || n < 1 {
			g.strange = append(g.strange, fmt.Sprintf("%d, and Retry-After is %q", a.status, a.after))
		}
		return
	case a.status == http.StatusOK:
		if a.began.After(g.lastAllowed) {
			g.lastAllowed = a.began
		}
	case a.status == http.StatusPaymentRequired:
		if g.firstSpent.IsZero() || a.ended.Before(g.firstSpent) {
			g.firstSpent = a.ended
		}
	default:
		g.strange = append(g.strange, fmt.Sprintf("%d %s %v", a.status, a.refusal, a.err))
	}
	g.by[a.status]++
}

// share lets clients make n requests in all, each at a node picked at random, and tries
// again where the rest of the budget is held, or a node lacks its database.
func (c *cluster) share(n, clients int, request func(s *server) *http.Request) *shared {
	c.t.Helper()
	got := &shared{by: map[int]int64{}}
	var next atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(patience)
	for range clients {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				for {
					a := answerTo(c.client, request(c.any()))
					got.add(a)
					if !a.again() {
						break
					}
					if time.Now().After(end) {
						c.t.Error("a client is told for ever to try again")
						return
					}
					time.Sleep(retryHeld) // a load's pace; nothing waits for it
				}
			}
		})
	}
	wg.Wait()
	return got
}

// neverFalse fails the test when a refusal said that nothing is left before a later
// request was forwarded, or when an answer was none of those that are expected.
func (g *shared) neverFalse(t *testing.T) {
	t.Helper()
	if len(g.strange) > 0 {
		t.Errorf("%d answers were neither 200, 402 nor to be tried again: %s", len(g.strange), strings.Join(g.strange[:min(5, len(g.strange))], "; "))
	}
	if !g.firstSpent.IsZero() && g.lastAllowed.After(g.firstSpent) {
		t.Errorf("a request was refused for good %s before another was sent that was forwarded", g.lastAllowed.Sub(g.firstSpent))
	}
}

// usedOn waits until nothing of the key is held anywhere, and returns what it has used
// as every node shows it.
func (c *cluster) usedOn(id string) int64 {
	c.t.Helper()
	var n int64
	c.nodes[0].eventually("all nodes show the same use", func() bool {
		n = c.nodes[0].used(id)
		return !slices.ContainsFunc(c.nodes[1:], func(s *server) bool { return s.used(id) != n })
	})
	return n
}

// chatOn makes a chat request at one node.
func (c *cluster) chatOn(s *server, key string) clusterAnswer {
	return answerTo(c.client, s.request(context.Background(), key))
}

// answerOn does the same, again while that is what the answer says.
func (c *cluster) answerOn(s *server, key string) clusterAnswer {
	c.t.Helper()
	return s.answers(func() *http.Request { return s.request(context.Background(), key) })
}

// answers sends a request, again while the rest of the budget is held, as long as another
// node has not said what it has spent of it, or while the node lacks its database, as one
// that is ready may for a moment.
func (s *server) answers(request func() *http.Request) (a clusterAnswer) {
	s.t.Helper()
	s.eventually("the answer is about the key", func() bool {
		a = answerTo(s.client, request())
		return !a.again()
	})
	return a
}
