package till

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	// maxDrains is how many answers of clients that went away may be read on in this
	// process, and maxDrainsOfKey how many of them to one key and those below it: a client that
	// often leaves must not take the places of others.
	maxDrains      = 512
	maxDrainsOfKey = 128
	// maxDrained is how much of one answer is read on, in bytes.
	maxDrained = 16 << 20
	// drainBuffer is how much is read at a time, in bytes.
	drainBuffer = 8 << 10
)

// drains counts the answers that are being read on, over all configurations of this
// process.
var drains = drainSlots{of: make(map[string]int)}

// drainSlots are places that requests take while they drain.
type drainSlots struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by the id of the topmost key; those with at least one
}

// take takes a place for a key, and reports whether there was one.
func (p *drainSlots) take(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxDrains || p.of[key] >= maxDrainsOfKey {
		return false
	}
	p.all++
	p.of[key]++
	return true
}

func (p *drainSlots) give(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.of[key]--; p.of[key] == 0 {
		delete(p.of, key)
	}
}

func (p *drainSlots) taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

const drainCheck = 200 * time.Millisecond

// drain lets a request outlive its client. What an answer used is reported at its
// end, and a client that does not wait for it would otherwise pay for everything that
// the answer could have used. What is read on goes to the meter and nowhere else.
type drain struct {
	x        *exchange
	client   context.Context
	cancel   context.CancelFunc // ends the round trip
	unhook   func() bool
	complete atomic.Bool // the answer has reported all of its use

	mu     sync.Mutex
	timer  *time.Timer // running since the client went away
	until  time.Time
	closed bool
}

// outlive returns the context of the request to the upstream. It ends with the
// client's, or, if the rest of the answer may report its use, as much later as the
// upstream's drain allows. cancel ends it at once, and must be called.
func (x *exchange) outlive(client context.Context) (ctx context.Context, cancel context.CancelFunc) {
	if x.usage == nil || x.target.drain <= 0 {
		return context.WithCancel(client)
	}
	ctx = context.WithoutCancel(client)
	var end context.CancelFunc
	if deadline, ok := client.Deadline(); ok {
		ctx, end = context.WithDeadline(ctx, deadline) // the deadline is not the client's own, so it applies
	} else {
		ctx, end = context.WithCancel(ctx)
	}
	d := &drain{x: x, client: client, cancel: end}
	x.drain = d
	d.unhook = context.AfterFunc(client, func() { d.begin() })
	return ctx, d.close
}

// begin starts the drain unless it is running already, and reports whether there is
// time left. A request that was never sent has used nothing and ends.
func (d *drain) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return false
	case d.timer != nil:
		return true
	case errors.Is(d.client.Err(), context.DeadlineExceeded):
		return false // ctx has the same deadline
	case d.complete.Load(), !d.x.dispatched.Load(), d.x.grant.Cut() != nil, caddy.Exiting(), !drains.take(d.x.usage.family):
		d.cancel()
		return false
	}
	d.until = time.Now().Add(d.x.target.drain)
	d.timer = time.AfterFunc(min(d.x.target.drain, drainCheck), d.check)
	return true
}

// check ends the round trip when the time is over, or when the process is to end.
func (d *drain) check() {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := time.Until(d.until)
	switch {
	case d.closed:
	case left <= 0, caddy.Exiting():
		d.cancel()
	default:
		d.timer.Reset(min(left, drainCheck))
	}
}

// close ends the round trip and gives the place back. It may be called more than once.
func (d *drain) close() {
	d.unhook()
	d.mu.Lock()
	if !d.closed && d.timer != nil {
		d.timer.Stop()
		drains.give(d.x.usage.family)
	}
	d.closed = true
	d.mu.Unlock()
	d.cancel()
}

func (d *drain) clientGone() bool { return d != nil && d.client.Err() != nil }

// readOn reads until the answer has reported all of its use, or the time is over.
func (b *answerBody) readOn(p []byte) {
	for most := maxDrained; !b.ended && most > 0 && !b.x.drain.complete.Load() && b.x.drain.begin(); {
		n, err := b.ReadCloser.Read(p)
		b.noteEnd(err)
		most -= n
	}
	b.ended = true
}

// noteEnd notes after each read whether there is anything left to wait for.
func (b *answerBody) noteEnd(err error) {
	b.ended = err != nil
	if d := b.x.drain; d != nil && !d.complete.Load() && b.x.usage.meter.Ended() {
		d.complete.Store(true)
	}
}
