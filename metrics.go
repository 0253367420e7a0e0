package till

import (
	"errors"
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
	// contradictions are answers that exceeded what was held, and refusals of what till
	// wrote, by upstream and by the option that fixes it.
	contradictions *prometheus.CounterVec
	doubts         prometheus.Counter
	collectors     []prometheus.Collector
	limiter        atomic.Pointer[limiter.Limiter]
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "caddy_till_" + name, Help: help}, labels)
	}
	seconds := func(name, help string, least float64, buckets int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "caddy_till_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(least, 2, buckets)})
	}
	m := &metrics{
		activations:    counter("activations_total", "Requests admitted and charged to a key.", "upstream"),
		refusals:       counter("refusals_total", "Requests refused, by till's code.", "upstream", "code"),
		commits:        seconds("store_commit_seconds", "How long a group commit to the store took.", 50e-6, 16),
		overhead:       seconds("overhead_seconds", "Time between a request's arrival and its admission, including waits for the store, but not waits for other requests to release budget.", 2e-6, 20),
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
		m.nodeState(), m.limiterState()}
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

// giveCounters gives an upstream its counters, so that counting needs no look-up by its
// name.
func (m *metrics) giveCounters(t *target, upstream string) {
	t.admitted, t.spent = m.activations.WithLabelValues(upstream), m.usageOf(upstream)
	t.refusals = m.refusals.MustCurryWith(prometheus.Labels{"upstream": upstream})
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

func (m *metrics) countRefusal(upstream string, code record.Code) {
	m.refusals.WithLabelValues(upstream, string(code)).Inc()
}

// scraped are metrics that are read when somebody scrapes them.
type scraped struct {
	descs []*prometheus.Desc
	read  func(chan<- prometheus.Metric)
}

func (s *scraped) add(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("caddy_till_"+name, help, labels, nil)
	s.descs = append(s.descs, d)
	return d
}

// Describe implements prometheus.Collector.
func (s *scraped) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range s.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *scraped) Collect(ch chan<- prometheus.Metric) { s.read(ch) }

// limiterState is what the limiter counts.
func (m *metrics) limiterState() *scraped {
	s := new(scraped)
	holds := s.add("holds", "Requests in flight.")
	waiting := s.add("waiting", "Requests that wait for budget that others of their key or role hold.")
	keys := s.add("keys", "Keys by recorded status.", "status")
	forfeited := s.add("forfeited_activations_total",
		"Activations that count as used, at most, because a crash left open whether they were; not those of requests that it ended.")
	s.read = func(ch chan<- prometheus.Metric) {
		l := m.limiter.Load()
		if l == nil {
			return
		}
		stats := l.Stats()
		ch <- prometheus.MustNewConstMetric(holds, prometheus.GaugeValue, float64(stats.Holds))
		ch <- prometheus.MustNewConstMetric(waiting, prometheus.GaugeValue, float64(l.Turns()))
		ch <- prometheus.MustNewConstMetric(forfeited, prometheus.CounterValue, float64(stats.Forfeited))
		for _, status := range record.Statuses {
			ch <- prometheus.MustNewConstMetric(keys, prometheus.GaugeValue, float64(stats.Keys[status]), string(status))
		}
	}
	return s
}

// nodeState is how this server stands among those that share its store.
func (m *metrics) nodeState() *scraped {
	s := new(scraped)
	readyNow := s.add("ready", "Whether keys are admitted: 1, or 0 while the store is closed or out of touch.")
	leads := s.add("leads", "Whether this node is the leader, which runs the shared jobs: sweeps, webhooks, bulk revocations.")
	nodesBy := s.add("nodes", "Servers that share the store, by state: fresh, behind, gone.", "state")
	s.read = func(ch chan<- prometheus.Metric) {
		gauge := func(desc *prometheus.Desc, n float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, n, labels...)
		}
		is := map[bool]float64{true: 1}
		l := m.limiter.Load()
		ready := l != nil && l.Ready() == nil
		gauge(readyNow, is[ready])
		if !ready { // a scrape does not wait for a database that is away
			return
		}
		gauge(leads, is[l.Leads()])
		nodes, err := l.Nodes()
		if err != nil || nodes == nil {
			return
		}
		states := map[string]float64{wire.NodeFresh: 0, wire.NodeBehind: 0, wire.NodeGone: 0}
		for i := range nodes {
			states[wire.StateOf(&nodes[i])]++
		}
		for state, n := range states {
			gauge(nodesBy, n, state)
		}
	}
	return s
}

// Interface guard
var _ prometheus.Collector = (*scraped)(nil)
