package till

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// metrics are the collectors of one store. They live as long as the store is in use,
// and not only as long as one configuration, so that a reload resets nothing. There is
// never a label per key.
type metrics struct {
	activations *prometheus.CounterVec // by upstream
	refusals    *prometheus.CounterVec // by upstream, code
	commits     prometheus.Histogram   // seconds
	overhead    prometheus.Histogram   // seconds
	tokens      *prometheus.CounterVec // by upstream, kind
	spend       *prometheus.CounterVec // dollars, by upstream
	// contradictions are answers that passed what was held, and refusals of what till
	// wrote, by upstream and by the option that fixes it.
	contradictions *prometheus.CounterVec
	doubts         prometheus.Counter
	collectors     []prometheus.Collector
	limiter        atomic.Pointer[limiter.Limiter]

	mu       sync.Mutex
	admitted map[string]prometheus.Counter // children of activations, by upstream
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "caddy_till_" + name, Help: help}, labels)
	}
	seconds := func(name, help string, least float64, buckets int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "caddy_till_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(least, 2, buckets)})
	}
	m := &metrics{
		admitted:       make(map[string]prometheus.Counter),
		activations:    counter("activations_total", "Requests admitted and charged to a key.", "upstream"),
		refusals:       counter("refusals_total", "Requests refused, by till's code.", "upstream", "code"),
		commits:        seconds("store_commit_seconds", "How long a group commit to the store took.", 50e-6, 16),
		overhead:       seconds("overhead_seconds", "Time between a request's arrival and its admission, including waits for the store but not for others of its budget.", 2e-6, 20),
		tokens:         counter("tokens_total", "Tokens charged to keys with a limit in tokens or dollars. Kind unmeasured is what was charged at its bound.", "upstream", "kind"),
		spend:          counter("spend_usd_total", "US dollars charged to keys with a limit in dollars.", "upstream"),
		contradictions: counter("contradictions_total", "Upstreams found not to do what limits rely on, by the option that fixes it.", "upstream", "option"),
	}
	m.doubts = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "caddy_till_store_contradictions_total", Help: "Times that this node was closed because a record of the shared database contradicts what it knows.",
	})
	reading := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "caddy_till_draining", Help: "Requests in flight whose client went away, and whose answer is read on to learn what it used.",
	}, func() float64 { return float64(drains.taken()) })
	m.collectors = []prometheus.Collector{m.activations, m.refusals, m.commits, m.overhead, m.tokens, m.spend, m.contradictions, m.doubts, reading,
		&nodeCollector{m, prometheus.NewDesc("caddy_till_ready", "Whether keys are admitted: 1, or 0 while the store is closed or out of touch.", nil, nil),
			prometheus.NewDesc("caddy_till_leads", "Whether this node does what one node does for all that share the store.", nil, nil),
			prometheus.NewDesc("caddy_till_nodes", "Servers that share the store, by state: fresh, behind, gone.", []string{"state"}, nil)},
		&limiterCollector{m, prometheus.NewDesc("caddy_till_holds", "Requests in flight.", nil, nil),
			prometheus.NewDesc("caddy_till_waiting", "Requests that wait for budget that others of their key or role hold.", nil, nil),
			prometheus.NewDesc("caddy_till_keys", "Keys by recorded status.", []string{"status"}, nil),
			prometheus.NewDesc("caddy_till_forfeited_activations_total",
				"Activations that count as used, at most, because a crash left open whether they were; not those of requests that it ended.", nil, nil)}}
	return m
}

// usageMetrics are the counters of tokens and dollars of one upstream.
type usageMetrics struct {
	input, cached, written, output, unmeasured, dollars prometheus.Counter
}

// usageOf returns the counters of an upstream's tokens and dollars.
func (m *metrics) usageOf(upstream string) *usageMetrics {
	kind := func(kind string) prometheus.Counter { return m.tokens.WithLabelValues(upstream, kind) }
	return &usageMetrics{kind("input"), kind("cached_input"), kind("cache_write"), kind("output"), kind("unmeasured"), m.spend.WithLabelValues(upstream)}
}

func (m *usageMetrics) add(kinds *record.TokenKinds, nano int64) {
	for _, c := range [...]struct {
		counter prometheus.Counter
		n       float64
	}{
		{m.dollars, float64(nano) / 1e9}, {m.input, float64(kinds.Input)}, {m.cached, float64(kinds.CachedInput)},
		{m.written, float64(kinds.CacheWrite)}, {m.output, float64(kinds.Output)}, {m.unmeasured, float64(kinds.Unmeasured)},
	} {
		if c.n != 0 {
			c.counter.Add(c.n)
		}
	}
}

func (m *metrics) register(r *prometheus.Registry) error {
	for _, c := range m.collectors {
		if err := r.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

func (m *metrics) setLimiter(l *limiter.Limiter) { m.limiter.Store(l) }

// Committed observes a commit; see [limiter.Observer].
func (m *metrics) Committed(took time.Duration, _ int) { m.commits.Observe(took.Seconds()) }

// activationsOf returns the counter of an upstream's activations, so that counting
// needs no lookup for each request.
func (m *metrics) activationsOf(upstream string) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.admitted[upstream]
	if c == nil {
		c = m.activations.WithLabelValues(upstream)
		m.admitted[upstream] = c
	}
	return c
}

func (m *metrics) countRefusal(upstream string, code record.Code) {
	m.refusals.WithLabelValues(upstream, string(code)).Inc()
}

// limiterCollector reads the limiter's state when metrics are scraped.
type limiterCollector struct {
	m                               *metrics
	holds, waiting, keys, forfeited *prometheus.Desc
}

func (c *limiterCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.holds
	ch <- c.waiting
	ch <- c.keys
	ch <- c.forfeited
}

func (c *limiterCollector) Collect(ch chan<- prometheus.Metric) {
	l := c.m.limiter.Load()
	if l == nil {
		return
	}
	s := l.Stats()
	ch <- prometheus.MustNewConstMetric(c.holds, prometheus.GaugeValue, float64(s.Holds))
	ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(l.Turns()))
	ch <- prometheus.MustNewConstMetric(c.forfeited, prometheus.CounterValue, float64(s.Forfeited))
	for _, status := range []record.Status{record.Active, record.Exhausted, record.Expired, record.Revoked, record.Suspended} {
		ch <- prometheus.MustNewConstMetric(c.keys, prometheus.GaugeValue, float64(s.Keys[status]), string(status))
	}
}

// nodeCollector reads how this server stands among those that share its store.
type nodeCollector struct {
	m                   *metrics
	ready, leads, nodes *prometheus.Desc
}

func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.ready
	ch <- c.leads
	ch <- c.nodes
}

func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, n, labels...)
	}
	is := map[bool]float64{true: 1}
	l := c.m.limiter.Load()
	ready := l != nil && l.Ready() == nil
	gauge(c.ready, is[ready])
	if !ready { // a scrape does not wait for a database that is away
		return
	}
	gauge(c.leads, is[l.Leads()])
	nodes, err := l.Nodes()
	if err != nil || nodes == nil {
		return
	}
	states := map[string]float64{wire.NodeFresh: 0, wire.NodeBehind: 0, wire.NodeGone: 0}
	for i := range nodes {
		states[wire.StateOf(&nodes[i])]++
	}
	for state, n := range states {
		gauge(c.nodes, n, state)
	}
}

// Interface guards
var (
	_ prometheus.Collector = (*nodeCollector)(nil)
	_ prometheus.Collector = (*limiterCollector)(nil)
)
