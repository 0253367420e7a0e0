package limiter

import (
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// places counts the running requests of a key and of all keys below it, for MaxConcurrency.
// Streams of events are counted separately; see [Ask.Listens].
//
// A request has its place until its answer is over, which is before it is settled: a
// client that sends one request after another begins the next as soon as an answer
// ends, and the previous request must not seem to be still running then.
type places struct{ requests, streams atomic.Int64 }

func (p *places) of(streams bool) *atomic.Int64 {
	if streams {
		return &p.streams
	}
	return &p.requests
}

// tooMany judges the concurrency of one key. Its children's requests count, too.
func (k *Live) tooMany(ask *Ask, nanos int64) *record.Refusal {
	if k.key.MaxConcurrency == 0 {
		return nil
	}
	words := "may run %d requests at a time, and %d are running"
	if ask.Listens {
		words = "may keep %d event streams open at a time, and %d are open"
	}
	taken := int(k.places.of(ask.Listens).Load())
	if limit := int(k.portion(int64(k.key.MaxConcurrency), nanos)); limit > 0 && taken >= limit {
		return k.key.Refuse(record.CodeConcurrency, words, limit, taken).After(time.Second)
	}
	return nil
}

// enter takes a place for a request. Callers hold the key and all above it.
func (k *Live) enter(g *Grant, ask *Ask) {
	g.listens, g.placed, g.counted = ask.Listens, true, false
	for a := k; a != nil; a = a.parent {
		a.places.of(g.listens).Add(1)
		g.counted = g.counted || a.key.MaxConcurrency > 0
	}
}

// leave frees the place of a request, if it has one. Callers hold the key.
func (k *Live) leave(g *Grant) {
	if !g.placed {
		return
	}
	g.placed = false
	for a := k; a != nil; a = a.parent {
		a.places.of(g.listens).Add(-1)
	}
}

// move moves a place to the same key in a reopened store. Callers hold both.
func (g *Grant) move(from, to *Live) {
	if !g.placed {
		return
	}
	for was, a := from, to; was != nil && a != nil; was, a = was.parent, a.parent {
		was.places.of(g.listens).Add(-1)
		a.places.of(g.listens).Add(1)
	}
}

// Counts reports whether a limit on concurrent requests counts this one.
func (g *Grant) Counts() bool { return g.counted }

// Answered frees the place of the request, because its client is about to have the
// whole answer. Until it is settled, the request keeps its hold and can be cut. Calls
// after the first do nothing.
func (g *Grant) Answered() {
	if !g.counted || g.done.Load() {
		return
	}
	k := g.lock()
	k.leave(g)
	k.mu.Unlock()
}
