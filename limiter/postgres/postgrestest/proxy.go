package postgrestest

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Commit is what a Proxy does with the next COMMIT of a client.
type Commit int

// What can happen to a COMMIT on its way.
const (
	Pass Commit = iota
	// CutBefore cuts the connection before the server has got it.
	CutBefore
	// CutAfter passes it on, and cuts the client's connection before the answer.
	CutAfter
	// CutAndDelay cuts the client's connection, and passes it on only then.
	CutAndDelay
)

// Proxy is a network between a node and a server, which a test can cut.
type Proxy struct {
	listener net.Listener
	running  sync.WaitGroup
	over     chan struct{} // closed at the test's end

	mu     sync.Mutex
	socket string // of the server
	conns  map[*link]bool
	cut    bool // no connection goes through
	shut   bool // no new connection goes through
	shuts  bool // shut is set as soon as something happens to a COMMIT
	held   bool // connections stay, and carry nothing
	deaf   bool // answers are not carried
	mute   bool // notifications are lost
	change *sync.Cond
	commit Commit
	delay  time.Duration
	met    int
	trips  Trips
	open   int // transactions that have begun, and not ended

	latency Latency
	random  *rand.Rand
	busy    [2]time.Time // until when each way is busy, with a limited bandwidth
}

// Trips are how many round trips each ended transaction took: those that wrote something,
// up to the answer to their COMMIT, and those that only read, without the round trip that
// ends them, for which nobody waits.
type Trips struct{ Writes, Views []int }

// link is a connection through the proxy.
type link struct{ client, server net.Conn }

func (l *link) close() { l.client.Close(); l.server.Close() }

// NewProxy makes a network to a server.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{socket: s.Socket(), listener: listener, conns: make(map[*link]bool), over: make(chan struct{})}
	p.change = sync.NewCond(&p.mu)
	p.running.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		close(p.over)
		p.Heal()
		p.closeAll()
		p.running.Wait()
	})
	return p
}

// DSN is the server's address through the proxy.
func (p *Proxy) DSN() string { return p.As(User, "") }

// As is DSN for another user.
func (p *Proxy) As(user, password string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password), Host: p.listener.Addr().String(), Path: "/postgres",
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Cut ends all connections, and refuses new ones.
func (p *Proxy) Cut() {
	p.set(func() { p.cut = true })
	p.closeAll()
}

// To leads new connections to another server.
func (p *Proxy) To(s *Server) { p.set(func() { p.socket = s.Socket() }) }

// Refuse refuses new connections, and leaves existing ones.
func (p *Proxy) Refuse() { p.set(func() { p.shut = true }) }

// RefuseAtCommit ends all connections, and refuses new ones, once something happens to a
// COMMIT: none of them can tell what became of it. A transaction that is begun again before
// that finds a connection.
func (p *Proxy) RefuseAtCommit() { p.set(func() { p.shuts = true }) }

// Hold lets connections carry nothing more, as when packets are lost.
func (p *Proxy) Hold() { p.set(func() { p.held = true }) }

// Mute loses notifications, as a pooler does.
func (p *Proxy) Mute() { p.set(func() { p.mute = true }) }

// Deafen lets connections carry no answer: the server does what it is asked, and the
// node does not hear of it.
func (p *Proxy) Deafen() { p.set(func() { p.deaf = true }) }

// Heal ends Cut, Refuse, RefuseAtCommit, Hold, Mute, Deafen and Slow.
func (p *Proxy) Heal() {
	p.set(func() {
		p.cut, p.shut, p.shuts, p.held, p.mute, p.deaf = false, false, false, false, false, false
		p.latency = Latency{}
	})
}

// Lead ends all connections, and leads new ones to another server.
func (p *Proxy) Lead(to *Server) {
	p.set(func() { p.socket = to.Socket() })
	p.closeAll()
}

// OnCommit sets what happens to the next COMMIT. A delay is for CutAndDelay.
func (p *Proxy) OnCommit(what Commit, delay time.Duration) {
	p.set(func() { p.commit, p.delay = what, delay })
}

// Met counts the COMMITs that something happened to.
func (p *Proxy) Met() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

// Trips returns the counts since the last call.
func (p *Proxy) Trips() Trips {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.trips
	p.trips = Trips{}
	return t
}

// Idle reports whether no transaction runs.
func (p *Proxy) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open == 0
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.change.Broadcast()
}

func (p *Proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		l.close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		socket := p.socket
		p.mu.Unlock()
		server, err := net.Dial("unix", socket)
		p.mu.Lock()
		if err != nil || p.cut || p.shut || socket != p.socket {
			p.mu.Unlock()
			client.Close()
			if err == nil {
				server.Close()
			}
			continue
		}
		l := &link{client, server}
		p.conns[l] = true
		p.mu.Unlock()
		p.running.Go(func() { p.carry(l) })
	}
}

func (p *Proxy) carry(l *link) {
	defer func() {
		l.close()
		p.mu.Lock()
		delete(p.conns, l)
		p.mu.Unlock()
	}()
	var answers sync.WaitGroup
	answers.Go(func() {
		p.answers(l)
		l.client.Close()
	})
	p.questions(l)
	answers.Wait()
	l.server.Close()
}

// message reads one message of PostgreSQL's protocol.
func message(from io.Reader, typed bool) ([]byte, error) {
	head := make([]byte, 4, 5)
	if typed {
		head = head[:5]
	}
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[len(head)-4:])
	body := make([]byte, size-4)
	if _, err := io.ReadFull(from, body); err != nil {
		return nil, err
	}
	return append(head, body...), nil
}

// isCommit recognises the statement as the store sends it, apart from those that only
// end a look.
func isCommit(message []byte) bool {
	return message[0] == 'P' && bytes.HasPrefix(message[5:], []byte("\x00COMMIT\x00"))
}

// wantsTLS is the first message of a client that wants TLS.
const wantsTLS = 80877103

var wrote = []byte("SET batch =")

// questions passes on what the client sends.
func (p *Proxy) questions(l *link) {
	to := p.newLine(toServer, l.server)
	defer func() { // the server sees the end only after what was passed on
		to.end()
		if c, ok := l.server.(*net.UnixConn); ok {
			c.CloseWrite()
		}
	}()
	writes := false
	var trips tripCount
	defer func() { trips.end(p) }()
	for typed := false; ; typed = true {
		m, err := message(l.client, typed)
		if p.wait(&p.held) || err != nil { // the end of a connection is a packet, too
			return
		}
		if !typed && binary.BigEndian.Uint32(m[4:]) == wantsTLS {
			l.client.Write([]byte("N")) // the client gives up
			return
		}
		if typed {
			trips.count(p, m)
		}
		commit, delay := Pass, time.Duration(0)
		switch {
		case typed && m[0] == 'P' && bytes.Contains(m, wrote):
			writes = true
		case typed && isCommit(m):
			if writes {
				commit, delay = p.meet(l)
			}
			writes = false
		}
		switch commit {
		case CutBefore:
			return
		case CutAndDelay:
			rest := append(m, p.untilSync(l)...)
			l.client.Close()
			select {
			case <-time.After(delay):
			case <-p.over:
			}
			to.send(rest)
			return
		case CutAfter:
			rest := append(m, p.untilSync(l)...)
			l.client.Close()
			to.send(rest)
			return
		}
		to.send(m)
	}
}

// tripCount counts the round trips of one connection's transaction.
type tripCount struct {
	n             int
	open          bool // it has begun, and not ended
	view, writes  bool
	ending, ended bool
}

// end counts that no transaction runs on the connection. One may end more than once, as
// when its COMMIT fails, or not at all, as when its connection is lost.
func (c *tripCount) end(p *Proxy) {
	if c.open {
		c.open = false
		p.set(func() { p.open-- })
	}
}

func (c *tripCount) count(p *Proxy, message []byte) {
	statement := func(text string) bool { return message[0] == 'P' && bytes.Contains(message, []byte(text)) }
	switch {
	case statement("\x00BEGIN"):
		c.end(p)
		*c = tripCount{open: true, view: statement("READ ONLY")}
		p.set(func() { p.open++ })
	case statement(string(wrote)):
		c.writes = true
	case isCommit(message):
		c.ending = true
	case statement("\x00ROLLBACK\x00"):
		c.ended = true
	case message[0] == 'S':
		c.n++
		p.set(func() {
			switch {
			case c.ending && c.writes:
				p.trips.Writes = append(p.trips.Writes, c.n)
			case c.ended && c.view:
				p.trips.Views = append(p.trips.Views, c.n-1)
			}
		})
		if c.ending || c.ended {
			c.end(p)
		}
		c.ending, c.ended = false, false
	}
}

func (p *Proxy) untilSync(l *link) (rest []byte) {
	for {
		m, err := message(l.client, true)
		if err != nil {
			return rest
		}
		if rest = append(rest, m...); m[0] == 'S' {
			return rest
		}
	}
}

// meet returns what happens to this COMMIT.
func (p *Proxy) meet(l *link) (Commit, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what := p.commit
	if p.commit = Pass; what != Pass {
		p.met++
		p.shut = p.shut || p.shuts
		for other := range p.conns {
			if p.shuts && other != l {
				other.close()
			}
		}
	}
	return what, p.delay
}

// wait waits while the proxy holds everything, or all that goes this way, and reports
// whether it is cut.
func (p *Proxy) wait(way *bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for (p.held || *way) && !p.cut {
		p.change.Wait()
	}
	return p.cut
}

// answers passes on what the server sends.
func (p *Proxy) answers(l *link) {
	to := p.newLine(toClient, l.client)
	defer to.end()
	for {
		m, err := message(l.server, true)
		if err != nil || p.wait(&p.deaf) {
			return
		}
		p.mu.Lock()
		lost := p.mute && m[0] == 'A'
		p.mu.Unlock()
		if lost {
			continue
		}
		// Once the client is gone this is lost: the server's remaining work must not fail for
		// want of a reader.
		to.send(m)
	}
}
