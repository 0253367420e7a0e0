package till

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
)

// maxEvents is how many events may wait to be delivered. More are dropped, and the
// log says how many: no request ever waits for an event's handler.
const maxEvents = 4096

// events delivers what happens to keys to Caddy's events app, in order and outside
// of requests. It lives as long as the store is in use; events go to the handlers of
// the configuration that started last.
type events struct {
	queue   chan event.Event
	stop    chan struct{}
	stopped chan struct{}
	dropped atomic.Int64
	sink    atomic.Pointer[eventSink]
}

type eventSink struct {
	ctx caddy.Context
	app *caddyevents.App
	log *slog.Logger
}

func newEvents() *events {
	return &events{queue: make(chan event.Event, maxEvents), stop: make(chan struct{}), stopped: make(chan struct{})}
}

// add queues an event. It never blocks.
func (e *events) add(ev event.Event) {
	select {
	case e.queue <- ev:
	default:
		e.dropped.Add(1)
	}
}

// run delivers events until stop is closed.
func (e *events) run() {
	defer close(e.stopped)
	for {
		select {
		case <-e.stop:
			return
		case ev := <-e.queue:
			sink := e.sink.Load()
			if sink == nil {
				continue
			}
			if n := e.dropped.Swap(0); n > 0 {
				sink.log.Warn("events were dropped: their handlers are too slow", "events", n)
			}
			if sink.app.ShouldEmit(string(ev.Name)) {
				sink.app.Emit(sink.ctx, string(ev.Name), ev.Data())
			}
		}
	}
}

// findEvents finds the app that receives events once this configuration has started.
func (a *App) findEvents() error {
	v, err := a.ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %w", err)
	}
	a.sink = &eventSink{ctx: a.ctx, app: v.(*caddyevents.App), log: a.slogger}
	return nil
}

// observer is what the limiter reports to.
type observer struct {
	*metrics
	events *events
}

// Happened implements limiter.Observer.
func (o observer) Happened(e event.Event) { o.events.add(e) }

// Interface guard
var _ limiter.Observer = observer{}
