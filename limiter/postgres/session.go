package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// A session lives for sessionLife after its last renewal, by the database's clock. The
// node itself counts freshFor from the sending of the last renewal that was answered,
// so it stops first.
const (
	sessionLife  = 10 * time.Second // the queries have the same, as an interval
	renewEvery   = 3 * time.Second
	freshFor     = 7 * time.Second
	renewTimeout = 2500 * time.Millisecond
	// dialTimeout is longer, as a connection takes some ten round trips.
	dialTimeout = 7 * time.Second
	// headEvery is how often the feed is read where notifications do not arrive.
	headEvery = time.Second
	// joinPatience is how long Join waits for the end of another session of this
	// node. It is longer than sessionLife, after which one that nobody renews has ended.
	joinPatience = 13 * time.Second
	joinEvery    = 100 * time.Millisecond
	// pruneEvery is after how many renewals the leading node prunes the feed, and pruneRows
	// how many rows it then removes: a renewal must not take long. While there are more
	// rows, each renewal prunes.
	pruneEvery = 5
	pruneRows  = 5000
	// tellEvery is how often a failing renewal is logged.
	tellEvery = time.Second
)

// Join implements store.Shared.
func (s *Store) Join(f store.Follower) error {
	if err := s.usable(); err != nil {
		return err
	}
	if s.joined.Load() {
		return errors.New("the node has joined already")
	}
	s.session = make([]byte, 16)
	rand.Read(s.session)
	ctx, cancel := context.WithTimeout(s.ending, dialTimeout)
	l, err := s.dial(ctx)
	cancel()
	if err != nil {
		return s.opened(err)
	}
	if err := s.begin(l); err != nil {
		defer l.drop()
		if s.ending.Err() != nil {
			return store.ErrClosed
		}
		if lost := (*loss)(nil); errors.As(err, &lost) {
			s.tellDoubt(l.conn, lost)
		}
		return s.opened(err)
	}
	s.follow.follower = f
	s.joined.Store(true)
	s.owned.Go(func() { s.keep(l) })
	s.owned.Go(s.followOthers)
	s.owned.Go(s.tellStale)
	s.owned.Go(s.recallAll)
	return nil
}

// begin makes the node's row ours, once no other process has a live session in it.
func (s *Store) begin(l *listener) error {
	for start := time.Now(); ; {
		ctx, cancel := context.WithTimeout(s.ending, answerTimeout)
		began, err := s.tryBegin(ctx, l)
		cancel()
		if f := (*fault)(nil); errors.As(err, &f) && f.code == "55P03" && s.rollback(l) == nil {
			s.unblock(f)
			err = nil
		}
		switch {
		case err != nil || began:
			return err
		case time.Since(start) > joinPatience:
			return fmt.Errorf("node %s: a process with this name is alive: give each node a name of its own", s.options.Node)
		}
		if s.pause(joinEvery) {
			return store.ErrClosed
		}
	}
}

// tryBegin reports whether it has made the node's row ours. If not, another process may
// have a live session in it, or other nodes have yet to vouch for the server: begin tries
// again.
func (s *Store) tryBegin(ctx context.Context, l *listener) (bool, error) {
	results, err := l.run(ctx, say(s.sql.identity), say(s.sql.read, textOf(s.options.Node)), say(s.sql.numbers))
	if err != nil {
		return false, err
	}
	now := stateOf(results[2])
	if err := s.instance.past.check(now.instance); err != nil {
		return false, err
	}
	if len(results[0].Rows) == 0 {
		return false, fmt.Errorf("schema %s has lost its identity: restore its table meta", s.schema)
	}
	database := string(results[0].Rows[0][0])
	s.generation = intFrom(results[0].Rows[0][1])
	if why := results[0].Rows[0][2]; why != nil {
		return false, &loss{string(why)}
	}
	acked, known := s.witness.of(database, s.generation)
	switch {
	case !known && s.witness.database == database && s.witness.generation > s.generation,
		s.former.database == database && s.former.generation > s.generation:
		return false, doubt("%s is as it was before its last repair", s.where)
	case !known && s.witness.database != database && s.witness.batch > 0:
		s.log.Warn("this node has worked with another database before", "now", s.where)
	}
	o := s.options
	about := []argument{textOf(o.Node), byteaOf(s.session), textOf(o.Version), textOf(o.Address), textOf(o.Configuration)}
	take := say(s.sql.join, about...)
	var former []byte
	if rows := results[1].Rows; len(rows) > 0 {
		if boolFrom(rows[0][1]) && !l.locked {
			// It may be the session of a process that has just ended.
			again, err := l.run(ctx, s.lockName())
			if err != nil {
				return false, err
			}
			l.locked = boolFrom(again[0].Rows[0][0])
		}
		if boolFrom(rows[0][1]) && (!l.locked || !l.hears(ctx)) {
			return false, nil
		}
		former = rows[0][0]
		take = say(s.sql.rejoin, append(about, byteaOf(rows[0][0]))...)
	}
	before := s.former
	if before.commits == nil || before.generation != s.generation { // a repair makes earlier knowledge void
		before.commits, before.head = make(map[string]int64, 1), 0
	}
	before.commits[o.Node] = max(before.commits[o.Node], acked)
	if err := cmp.Or(s.replaced(before, now), s.lacks(before, now)); err != nil {
		return false, err
	}
	if _, err := s.choose(now); err != nil {
		return false, err
	}
	if err := s.vouch(ctx, l.conn, now, former, before.commits[o.Node]); err != nil {
		return false, err
	}
	if !s.trust(now) {
		return false, nil
	}
	sent := boottime()
	results, err = l.run(ctx, say(s.sql.begin), say(s.sql.settings), take, say(s.sql.numbers), say(s.sql.commit))
	if err != nil {
		return false, err
	}
	if len(results[2].Rows) == 0 {
		return false, nil // another process was faster
	}
	now = stateOf(results[3])
	s.clock.measure(now.micros, sent, boottime())
	if err := s.compare(before, now); err != nil { // a pooler may have led to another server
		return false, err
	}
	batch := intFrom(results[2].Rows[0][0])
	s.database = database
	s.acked.Store(batch)
	s.witness.acknowledge(database, s.generation, batch)
	if err := s.judge(ctx, l.conn, now); err != nil {
		return false, err
	}
	s.follow.begin(intFrom(results[2].Rows[0][1]), sent)
	s.fresh.Store(int64(sent + freshFor))
	return true, nil
}

// keep renews the session and listens, until the store is closed or refuses everything.
// Then it ends the session, and stays on if the database is in doubt.
func (s *Store) keep(l *listener) {
	var due time.Time // of the next renewal
	var asked, reported time.Time
	lost, pause, prune := "", 50*time.Millisecond, false // lost: why there is no connection
	for renewals := 0; s.ending.Err() == nil && s.failure.Load() == nil; {
		if l == nil {
			ctx, cancel := context.WithTimeout(s.ending, dialTimeout)
			next, err := s.dial(ctx)
			cancel()
			if err != nil {
				what, why := "the connection to the database is lost", "no answer"
				switch f := faultOf(err); {
				case f.refused():
					what, why = "the server of the database is not used", f.text
				case f.code != "":
					why = f.text // a network fails in another way each time
				}
				if why != lost && s.usable() == nil {
					s.log.Warn(what+": it is tried again", "error", err)
					lost = why
				}
				s.pause(pause)
				pause = min(2*pause, time.Second)
				continue
			}
			if lost != "" {
				s.log.Info("the connection to the database is there again")
			}
			l, due, pause, lost = next, time.Time{}, 50*time.Millisecond, ""
			s.wakeFollower() // it has not heard the notifications meanwhile
		}
		if now := time.Now(); !now.Before(due) {
			more, err := s.renew(l, prune || renewals%pruneEvery == pruneEvery-1)
			if f := (*fault)(nil); errors.As(err, &f) {
				if now.Sub(reported) >= tellEvery {
					reported = now
					s.log.Warn("renewing this node's session", "error", err)
				}
				s.unblock(f)
				if !f.killed && !f.left && s.rollback(l) == nil {
					s.pause(pause)
					continue
				}
				l.drop()
				l = nil
				continue
			}
			prune = more
			if renewals++; renewals == 2 && !l.direct.Load() {
				s.log.Warn("notifications do not arrive, as through a pooler: changes of other nodes are asked for each second; " +
					"give the database's own address as listen")
			}
			due, asked = now.Add(renewEvery), now
			continue
		}
		until := due
		if !l.direct.Load() && asked.Add(headEvery).Before(due) {
			until = asked.Add(headEvery)
		}
		ctx, cancel := context.WithDeadline(s.working, until)
		err := l.pg.WaitForNotification(ctx)
		cancel()
		if err != nil && l.pg.IsClosed() {
			l.drop()
			l = nil
			continue
		}
		if now := time.Now(); until.Before(due) && !now.Before(until) {
			asked = now
			s.wakeFollower()
			if err := s.readRecalls(l); err != nil {
				l.drop()
				l = nil
			}
		}
	}
	s.leave(l)
	s.outlastDoubt()
}

// leave ends the session, so that no other node waits until it expires.
func (s *Store) leave(l *listener) {
	ctx, cancel := context.WithTimeout(context.Background(), renewTimeout)
	defer cancel()
	var c *conn
	if l != nil {
		c = l.conn
	}
	defer func() {
		if c != nil {
			c.drop()
		}
	}()
	if failure := s.failure.Load(); failure != nil && !errors.Is(*failure, store.ErrDoubt) {
		return // another process has the session
	}
	var err error
	if c == nil {
		c, err = connect(ctx, s.config, nil)
	}
	if err == nil {
		leave := s.sql.leave
		if s.options.Passing {
			leave = s.sql.vanish
		}
		_, err = c.run(ctx, say(leave, textOf(s.options.Node), byteaOf(s.session)))
	}
	if err != nil {
		s.log.Warn("ending this node's session: others wait until it expires", "error", err)
	}
}

// pause waits, unless the store is closed, and reports whether it is.
func (s *Store) pause(d time.Duration) (closed bool) {
	select {
	case <-time.After(d):
		return false
	case <-s.ending.Done():
		return true
	}
}

func (s *Store) rollback(l *listener) error {
	_, err := l.runWithin(s.ending, renewTimeout, say(s.sql.rollback))
	return err
}

// renew renews the session, and learns what the others have done. more says that it has
// pruned as many rows of the feed as it may at once, so there may be more.
func (s *Store) renew(l *listener, prune bool) (more bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), renewTimeout) // not cut off by Close, which needs the connection
	defer cancel()
	before, sent := s.before(), boottime()
	followed := s.follow.at()
	const renewed, led, numbers = 2, 3, 4
	statements := []statement{
		say(s.sql.begin), say(s.sql.settings),
		say(s.sql.renew, textOf(s.options.Node), byteaOf(s.session), int8Of(followed), boolOf(l.direct.Load())),
		say(s.sql.lead, textOf(s.options.Node), byteaOf(s.session)), say(s.sql.numbers),
	}
	if prune && s.Leads() {
		statements = append(statements, say(s.sql.prune, int8Of(pruneRows)), say(s.sql.forget))
	}
	const pruned = numbers + 1
	lock := len(statements)
	if !l.locked && l.direct.Load() { // the previous connection may have held it for longer
		statements = append(statements, s.lockName())
	}
	results, err := l.run(ctx, append(statements, say(s.sql.commit))...)
	if err != nil {
		return false, err
	}
	if lock < len(statements) {
		l.locked = boolFrom(results[lock].Rows[0][0])
	}
	now := stateOf(results[numbers])
	s.clock.measure(now.micros, sent, boottime())
	if err := s.compare(before, now); err != nil {
		return false, err
	}
	if err := s.judge(ctx, l.conn, now); err != nil {
		return false, err
	}
	if len(results[renewed].Rows) == 0 {
		return false, s.fail(errTaken)
	}
	if len(results[led].Rows) > 0 {
		s.leading.Store(int64(sent + freshFor))
	}
	s.renewed(sent, now.head, boolFrom(results[renewed].Rows[0][0]))
	return lock > pruned && results[pruned].CommandTag.RowsAffected() == pruneRows, nil
}

// Leads implements store.Shared.
func (s *Store) Leads() bool {
	return boottime() < time.Duration(s.leading.Load()) && s.failure.Load() == nil
}

// Fresh implements store.Shared.
func (s *Store) Fresh() error {
	if boottime() < time.Duration(s.fresh.Load()) {
		return nil
	}
	return s.lapse()
}

// lapse is why a node is not fresh.
func (s *Store) lapse() error {
	if err := s.usable(); err != nil {
		return err
	}
	return errLost
}

var errLost = fmt.Errorf("%w: the database did not answer, or what they changed was not read", store.ErrStale)

// Nodes implements store.Shared.
func (s *Store) Nodes() ([]store.Node, error) {
	results, err := s.within(s.ending, takeTimeout, say(s.sql.nodes))
	if err != nil {
		if s.ending.Err() != nil {
			return nil, store.ErrClosed
		}
		return nil, s.refuse(err)
	}
	nodes := make([]store.Node, len(results[0].Rows))
	for i, row := range results[0].Rows {
		nodes[i] = store.Node{
			Name: string(row[0]), Version: string(row[1]), Address: string(row[2]), Configuration: string(row[3]),
			Started: time.UnixMicro(intFrom(row[4])).UTC(), Seen: time.UnixMicro(intFrom(row[5])).UTC(),
			Live: boolFrom(row[6]), Behind: intFrom(row[7]), Leads: boolFrom(row[8]),
		}
	}
	return nodes, nil
}

// Fence implements store.Shared.
func (s *Store) Fence(node string) error { return s.unlessAlive(s.sql.expel, node) }

// Forget implements store.Shared.
func (s *Store) Forget(node string) error { return s.unlessAlive(s.sql.discard, node) }

// unlessAlive does something to a node whose session is over.
func (s *Store) unlessAlive(do, node string) error {
	results, err := s.within(s.ending, takeTimeout, say(do, textOf(node)), say(s.sql.lost, textOf(node)))
	switch {
	case err != nil && s.ending.Err() != nil:
		return store.ErrClosed
	case err != nil:
		return s.refuse(err)
	case len(results[1].Rows) > 0 && boolFrom(results[1].Rows[0][0]):
		return fmt.Errorf("%w: %s", store.ErrAlive, node)
	}
	return nil
}
