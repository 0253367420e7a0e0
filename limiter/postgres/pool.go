package postgres

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// conn is a connection to the database.
type conn struct {
	pg   *pgconn.PgConn
	user string
	made time.Time
	used time.Time

	flushes int // of its pool, before it was made
}

// connect makes a connection. When the driver gives a connection up, it dials a second one
// to cancel the running statement, and a COMMIT must never be cancelled: so nothing more
// is dialled once the connection is there.
func connect(ctx context.Context, config *pgconn.Config, heard func(*pgconn.Notification)) (*conn, error) {
	config = config.Copy()
	var made atomic.Bool
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if made.Load() {
			return nil, errNoCancel
		}
		return dial(ctx, network, address)
	}
	if heard != nil {
		config.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { heard(n) }
	}
	pg, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, faultOf(err).without(config.User)
	}
	made.Store(true)
	now := time.Now()
	return &conn{pg: pg, user: config.User, made: now, used: now}, nil
}

var errNoCancel = errors.New("statements are not cancelled")

// drop gives a connection up at once, whatever runs on it.
func (c *conn) drop() {
	c.pg.Conn().Close() // first: the driver would wait for the server's last words
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c.pg.Close(ctx)
}

// pool keeps connections for transactions.
type pool struct {
	config *pgconn.Config
	check  func(context.Context, *conn) error // of a new connection
	slots  chan struct{}                      // a token for each connection in use
	views  chan struct{}                      // a token for each that reads: some are left for writing
	// browsing has a token for each connection that reads much, and that no request waits
	// for: some of views are left for reads that requests wait for.
	browsing chan struct{}
	// upkeep has one for the limiter's own work, because a backup may browse for minutes. It
	// is browsing itself if only one connection may read much.
	upkeep chan struct{}

	mu      sync.Mutex
	idle    []*conn
	flushes int
	closed  bool
}

// newPool makes a pool of at least two connections. Of two, one writes while the other one
// browses, and reads that requests wait for take turns with writes.
func newPool(config *pgconn.Config, size int, check func(context.Context, *conn) error) *pool {
	views := max(2, size-2)
	much := (views + 1) / 2
	p := &pool{
		config: config, check: check, slots: make(chan struct{}, size),
		views: make(chan struct{}, views), browsing: make(chan struct{}, max(1, much-1)), upkeep: make(chan struct{}, 1),
	}
	if much == 1 {
		p.upkeep = p.browsing
	}
	return p
}

const (
	// pingAfter is how long a connection may be unused before it is asked whether it
	// still works.
	pingAfter = 3 * time.Second
	// longestLife lets connections move to other servers behind a balancer.
	longestLife = time.Hour
	pingTimeout = time.Second
)

// take returns a connection that works, or did a moment ago.
func (p *pool) take(ctx context.Context) (*conn, error) {
	select {
	case p.slots <- struct{}{}:
	default:
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, errAllBusy
		}
	}
	flushes := 0
	for {
		p.mu.Lock()
		flushes = p.flushes
		if p.closed {
			p.mu.Unlock()
			<-p.slots
			return nil, errPoolClosed
		}
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if time.Since(c.made) < longestLife && (time.Since(c.used) < pingAfter || c.ping(ctx) == nil) {
			return c, nil
		}
		c.drop()
	}
	c, err := connect(ctx, p.config, nil)
	if err == nil {
		c.flushes = flushes
		if err = p.check(ctx, c); err != nil {
			c.drop()
		}
	}
	if err != nil {
		<-p.slots
		return nil, err
	}
	return c, nil
}

func (c *conn) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return c.pg.Ping(ctx)
}

// give returns a connection. One that is broken, or inside a transaction, is given up.
func (p *pool) give(c *conn) {
	keep := !c.pg.IsClosed() && !c.pg.IsBusy() && c.pg.TxStatus() == 'I'
	if keep {
		c.used = time.Now()
		p.mu.Lock()
		if keep = !p.closed && c.flushes == p.flushes; keep {
			p.idle = append(p.idle, c)
		}
		p.mu.Unlock()
	}
	if !keep {
		c.drop()
	}
	<-p.slots
}

// flush gives up all connections, those in use once they are given back: the server has ended
// them, or was replaced.
func (p *pool) flush() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.flushes++
	p.mu.Unlock()
	for _, c := range idle {
		c.drop()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.flush()
}

var (
	errAllBusy    = errors.New("all connections are in use")
	errPoolClosed = errors.New("closed")
)
