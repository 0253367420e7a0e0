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
	// maxDrains bounds how many answers of clients that went away are read on in
	// this process, and maxDrainsOfKey how many of those are one key's: whoever leaves
	// often must not take the places of others.
	maxDrains      = 512
	maxDrainsOfKey = 128
	// maxDrained bounds what is read of one, in bytes.
	maxDrained = 16 << 20
	// drainBuffer is what is read of one at a time, in bytes.
	drainBuffer = 8 << 10
)

// drains are the answers that are being read on, over all configurations of this
// process.
var drains = drainSlots{of: make(map[string]int)}

// drainSlots are taken by requests of keys.
type drainSlots struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by the ids of keys that have any
}

// take reports whether there was a place.
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

// drainCheck is how long one goes on before it is noticed that the process is to
// end.
const drainCheck = 200 * time.Millisecond

// drain lets a request outlive its client: what an answer used stands at its end,
// and who does not wait for that would pay for all that the answer could have
// been. Nothing of what is read on goes anywhere but to the meter.
type drain struct {
	x        *exchange
	client   context.Context
	cancel   context.CancelFunc // of the round trip
	unhook   func() bool
	complete atomic.Bool // the answer has said all about its use

	mu     sync.Mutex
	timer  *time.Timer // runs since the client went away
	until  time.Time
	closed bool
}

// outlive returns the context of the request that leaves. It ends with the
// client's, or as much later as the upstream's drain allows where that may tell
// what was used. cancel ends it at once, and must be called.
func (x *exchange) outlive(client context.Context) (ctx context.Context, cancel context.CancelFunc) {
	if x.usage == nil || x.target.drain <= 0 {
		return context.WithCancel(client)
	}
	ctx = context.WithoutCancel(client)
	var end context.CancelFunc
	if deadline, ok := client.Deadline(); ok {
		ctx, end = context.WithDeadline(ctx, deadline) // it is not the client's, and stays
	} else {
		ctx, end = context.WithCancel(ctx)
	}
	d := &drain{x: x, client: client, cancel: end}
	x.drain = d
	d.unhook = context.AfterFunc(client, func() { d.begin() })
	return ctx, d.close
}

// begin starts the time that is left, unless it runs already, and reports whether
// there is any. A request that never left has used nothing, and ends.
func (d *drain) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return false
	case d.timer != nil:
		return true
	case errors.Is(d.client.Err(), context.DeadlineExceeded):
		return false // ctx has the same
	case d.complete.Load(), !d.x.dispatched.Load(), d.x.grant.Cut() != nil, caddy.Exiting(), !drains.take(d.x.usage.key):
		d.cancel()
		return false
	}
	d.until = time.Now().Add(d.x.target.drain)
	d.timer = time.AfterFunc(min(d.x.target.drain, drainCheck), d.check)
	return true
}

// check ends the round trip when its time is over, or nobody may wait for it.
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

// close ends the round trip and gives the place back. It may be called more than
// once.
func (d *drain) close() {
	d.unhook()
	d.mu.Lock()
	if !d.closed && d.timer != nil {
		d.timer.Stop()
		drains.give(d.x.usage.key)
	}
	d.closed = true
	d.mu.Unlock()
	d.cancel()
}

// clientGone reports whether the client is gone.
func (d *drain) clientGone() bool { return d != nil && d.client.Err() != nil }

// readOn reads until the answer has said all about its use, or its time is over.
func (b *answerBody) readOn(p []byte) {
	for most := maxDrained; !b.ended && most > 0 && !b.x.drain.complete.Load() && b.x.drain.begin(); {
		n, err := b.ReadCloser.Read(p)
		b.noteEnd(err)
		most -= n
	}
	b.ended = true
}

// noteEnd notes after each read whether there is anything to wait for.
func (b *answerBody) noteEnd(err error) {
	b.ended = err != nil
	if d := b.x.drain; d != nil && !d.complete.Load() && b.x.usage.meter.Ended() {
		d.complete.Store(true)
	}
}
