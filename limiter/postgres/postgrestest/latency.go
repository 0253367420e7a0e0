package postgrestest

import (
	"math/rand/v2"
	"net"
	"time"
)

// Latency is how slow a network is, each way. Messages of one connection stay in order.
type Latency struct {
	Delay     time.Duration // of each message; a new connection takes a round trip more
	Jitter    time.Duration // up to this is added, at random
	Seed      uint64        // of the jitter
	Bandwidth int           // bytes a second, which all connections share; 0: no limit
}

// Slow makes the network slow, until Heal. Messages on their way arrive as they would have.
func (p *Proxy) Slow(l Latency) {
	p.set(func() { p.latency, p.random = l, rand.New(rand.NewPCG(l.Seed, 0)) })
}

// The two ways through a network.
const (
	toServer = iota
	toClient
)

// line carries the messages of one connection one way.
type line struct {
	p     *Proxy
	way   int
	to    net.Conn
	queue chan packet
	ended chan struct{}
	last  time.Time // when the last message arrives
}

// packet is a message, and when it arrives.
type packet struct {
	message []byte
	due     time.Time
}

func (p *Proxy) newLine(way int, to net.Conn) *line {
	l := &line{p: p, way: way, to: to, queue: make(chan packet, 64), ended: make(chan struct{})}
	p.running.Go(l.carry)
	return l
}

// send sends a message. One that cannot be delivered is lost.
func (l *line) send(message []byte) {
	l.p.mu.Lock()
	slow, now := l.p.latency, time.Now()
	due := now
	if slow.Bandwidth > 0 {
		sent := later(now, l.p.busy[l.way]).Add(time.Duration(len(message)) * time.Second / time.Duration(slow.Bandwidth))
		l.p.busy[l.way], due = sent, sent
	}
	if slow.Jitter > 0 {
		due = due.Add(time.Duration(l.p.random.Int64N(int64(slow.Jitter))))
	}
	l.p.mu.Unlock()
	due = due.Add(slow.Delay)
	if l.last.IsZero() && l.way == toServer {
		due = due.Add(2 * slow.Delay) // TCP's own round trip
	}
	l.last = later(due, l.last)
	l.queue <- packet{message, l.last}
}

// end returns once all that was sent has arrived, or is lost.
func (l *line) end() {
	close(l.queue)
	<-l.ended
}

func (l *line) carry() {
	defer close(l.ended)
	lost := false
	for m := range l.queue {
		if wait := time.Until(m.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-l.p.over:
			}
		}
		if !lost {
			_, err := l.to.Write(m.message)
			lost = err != nil
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
