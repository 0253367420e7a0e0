package postgres

import (
	"context"
	"encoding/hex"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// listener is the connection that listens. The goroutine of the session owns it.
type listener struct {
	*conn
	probe  string
	direct atomic.Bool // notifications arrive, so no pooler is in between
	locked bool        // it has the lock of the node's name
}

// dial makes the connection that listens, and takes the lock of the node's name,
// which ends with the connection. Behind a pooler neither can be relied on.
func (s *Store) dial(ctx context.Context) (l *listener, err error) {
	l = &listener{probe: "?" + hex.EncodeToString(s.session)}
	l.conn, err = connect(ctx, s.listen, func(n *pgconn.Notification) { s.heard(l, n) })
	if err != nil {
		return nil, err
	}
	if err := s.checkConn(ctx, l.conn); err != nil {
		l.drop()
		return nil, err
	}
	results, err := l.run(ctx, say("LISTEN "+s.channel("feed")), say("LISTEN "+s.channel("recall")), s.lockName())
	if err == nil {
		_, err = s.outside(ctx, say(`SELECT pg_notify($1, $2)`, textOf(s.channel("feed")), textOf(l.probe)))
	}
	if err != nil {
		l.drop()
		return nil, err
	}
	l.locked = boolFrom(results[2].Rows[0][0])
	return l, nil
}

// lockName takes the lock of the node's name, unless another connection has it.
func (s *Store) lockName() statement {
	return say(`SELECT pg_try_advisory_lock($1)`, int8Of(s.lockKey("node/"+s.options.Node)))
}

// outside runs statements on a connection of the pool, outside the node's transactions:
// it does not wait for its turn, and has no number. The answers of a server that is no
// longer used are not believed: the statements are run again on another connection.
func (s *Store) outside(ctx context.Context, statements ...statement) ([]*pgconn.Result, error) {
	statements = append([]statement{say(`SELECT ` + serverStart)}, statements...)
	for try := 1; ; try++ {
		c, err := s.pool.take(ctx)
		if err != nil {
			return nil, awayOf(err)
		}
		results, err := c.run(ctx, statements...)
		s.abandon(c)
		if err != nil {
			return nil, err
		}
		if err = s.checkInstance(intFrom(results[0].Rows[0][0])); err == nil {
			return results[1:], nil
		}
		s.pool.flush()
		if try == mostTries {
			return nil, err
		}
	}
}

// within is outside with a time limit.
func (s *Store) within(ctx context.Context, limit time.Duration, statements ...statement) ([]*pgconn.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.outside(ctx, statements...)
}

// heard handles a notification.
func (s *Store) heard(l *listener, n *pgconn.Notification) {
	switch {
	case n.Channel == s.channel("recall"):
		node, account, _ := strings.Cut(n.Payload, " ")
		b, err := hex.DecodeString(account)
		if err != nil || node == hex.EncodeToString(s.session) {
			return
		}
		s.recalled(b)
	case n.Payload == l.probe:
		l.direct.Store(true)
	case n.Payload == "":
		s.wakeFollower()
	}
}

// hears waits a moment for the first notification, which shows that the connection is
// our own: only then does its lock mean that no other process has the name.
func (l *listener) hears(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for !l.direct.Load() {
		if l.pg.WaitForNotification(ctx) != nil {
			return false
		}
	}
	return true
}
