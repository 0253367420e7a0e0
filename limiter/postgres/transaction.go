package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

const (
	// mostTries is how often a transaction is begun, if each time it collides with
	// another one or loses its connection.
	mostTries = 5
	// enoughTime is after how long it is not begun again, however few the tries were.
	enoughTime = 5 * time.Second
	// answerTimeout bounds one round trip. The server's own timeouts are shorter.
	answerTimeout = 7 * time.Second
	// takeTimeout bounds the wait for a connection.
	takeTimeout = 4 * time.Second
)

// Update implements store.Store.
func (s *Store) Update(fn func(store.Tx) error) error { return s.write(nil, fn) }

// UpdateRows implements store.Shared.
func (s *Store) UpdateRows(rows store.Rows, fn func(store.Tx) error) error { return s.write(&rows, fn) }

// write runs a transaction: alone in the cluster, or on rows if there are any. It waits
// for this node's previous transaction, because a node's commits are numbered.
func (s *Store) write(rows *store.Rows, fn func(store.Tx) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-s.ending.Done():
		return store.ErrClosed
	}
	defer func() { <-s.turn }()
	start := time.Now()
	for try := 1; ; try++ {
		if err := s.usable(); err != nil {
			return err
		}
		if !s.joined.Load() && s.repair == nil {
			return errNotJoined
		}
		err := s.attempt(rows, fn)
		var f *fault
		if !errors.As(err, &f) {
			return err
		}
		if s.ending.Err() != nil {
			return store.ErrClosed
		}
		if f.elsewhere() {
			s.pool.flush()
		}
		s.unblock(f)
		if f.refused() && time.Since(start) < vouchPatience {
			try-- // it has not begun
			s.pause(vouchEvery)
			continue
		}
		if !f.again() || try == mostTries || time.Since(start) > enoughTime {
			return s.refuse(f)
		}
		if s.pause(time.Duration(rand.Int64N(int64(try) * int64(10*time.Millisecond)))) {
			return s.refuse(f)
		}
	}
}

// unblock ends the transactions of nodes that have fallen silent in the middle of one,
// after others have waited for their locks for too long. The server ends those that are
// idle by itself.
func (s *Store) unblock(f *fault) {
	if f.code != "55P03" {
		return
	}
	results, err := s.within(s.ending, takeTimeout, say(s.sql.unblock, int8Of(s.writers)))
	switch {
	case err != nil:
		s.log.Warn("looking for a transaction that nobody goes on with", "error", err)
	case len(results[0].Rows) > 0:
		s.log.Warn("a node fell silent in the middle of a transaction: it was rolled back")
	}
}

// attempt runs a transaction once. An error that is a fault says that nothing of it
// remains.
func (s *Store) attempt(rows *store.Rows, fn func(store.Tx) error) error {
	c, err := s.take(s.pool)
	if err != nil {
		return err
	}
	t := &transaction{s: s, c: c, known: make(map[string][]byte), writes: make(map[string][]byte)}
	ended := false
	defer func() {
		if !ended {
			s.abandon(c)
		}
	}()
	if err := t.begin(rows); err != nil {
		return err
	}
	err = fn(t)
	switch {
	case t.fault != nil:
		return t.fault
	case t.undeclared != nil:
		return t.undeclared
	case err != nil:
		return err
	case !t.wrote:
		if rows == nil {
			s.remember(t)
		}
		return nil
	}
	ended = true
	if err := t.commit(); err != nil {
		return err
	}
	if rows == nil {
		s.remember(t)
	}
	return nil
}

// take returns a connection of the pool.
func (s *Store) take(p *pool) (*conn, error) {
	ctx, cancel := context.WithTimeout(s.ending, takeTimeout)
	defer cancel()
	c, err := p.take(ctx)
	if failure := s.failure.Load(); failure != nil {
		if err == nil {
			p.give(c)
		}
		return nil, *failure
	}
	if err != nil {
		return nil, awayOf(err)
	}
	return c, nil
}

// abandon rolls a transaction back without making anybody wait for that.
func (s *Store) abandon(c *conn) {
	if c.pg.IsClosed() || c.pg.TxStatus() == 'I' || s.ending.Err() != nil {
		s.pool.give(c)
		return
	}
	s.owned.Go(func() {
		if _, err := c.runWithin(context.Background(), answerTimeout, say(s.sql.rollback)); err != nil {
			s.log.Debug("rolling back", "error", err)
		}
		s.pool.give(c)
	})
}

// transaction is one attempt at a transaction that may write.
type transaction struct {
	s *Store
	c *conn

	known  map[string][]byte // rows as they were read; nil: there is none
	writes map[string][]byte // not sent yet; nil: deleted
	read   [][]byte          // what was asked for, in order
	wrote  bool

	instance int64 // the server that it runs on

	rows     bool            // of UpdateRows
	held     map[string]bool // rows that must be there, and are locked
	followed [][]byte        // written rows that other nodes follow

	fault, undeclared error // the first of its kind: it counts even if fn goes on
}

// begin takes the locks, and reads the rows known to be needed, in one round trip.
func (t *transaction) begin(rows *store.Rows) error {
	s := t.s
	statements := []statement{
		say(s.sql.begin), say(s.sql.settings), say(s.sql.exclude, int8Of(s.writers)), say(s.sql.fence, textOf(s.options.Node)),
	}
	const fence = 3
	if s.repair != nil {
		statements[fence] = say(s.sql.claimed, byteaOf(s.repair.token))
	}
	var reads []int
	ask := func(sql string, keys [][]byte) {
		if len(keys) > 0 {
			reads = append(reads, len(statements))
			statements = append(statements, say(sql, byteasOf(keys)))
		}
		for _, key := range keys {
			t.known[string(key)] = nil
		}
	}
	if rows != nil {
		t.rows, t.held = true, make(map[string]bool, len(rows.Lock))
		statements[2] = say(s.sql.share, int8Of(s.writers))
		ask(s.sql.lock, rows.Lock)
		ask(s.sql.get, rows.Read)
		for _, key := range rows.Lock {
			t.held[string(key)] = true
		}
	} else {
		ask(s.sql.get, s.often)
	}
	statements = append(statements, say(s.sql.doubted)) // after all statements that wait
	results, err := t.c.runWithin(s.ending, answerTimeout, statements...)
	if err != nil {
		return err
	}
	if s.repair != nil {
		if len(results[fence].Rows) == 0 {
			return errOtherRepair
		}
	} else if t.instance, err = s.checkFence(results[fence].Rows, results[len(results)-1].Rows[0]); err != nil {
		return err
	}
	for _, at := range reads {
		for _, row := range results[at].Rows {
			t.known[string(row[0])] = row[1]
		}
	}
	for key := range t.held {
		if t.known[key] == nil {
			return t.notHeld([]byte(key))
		}
	}
	return nil
}

// checkFence makes sure that this process still owns the node, and that the database has
// all commits that it has acknowledged to it. It returns the server.
func (s *Store) checkFence(rows [][][]byte, state [][]byte) (instance int64, err error) {
	acked := s.acked.Load()
	instance = intFrom(state[2])
	if err := s.instance.past.check(instance); err != nil {
		return 0, err
	}
	if len(rows) == 0 {
		return 0, s.fail(doubt("%s no longer knows this node, %s", s.where, s.options.Node))
	}
	if err := s.checkState(intFrom(state[0]), state[1]); err != nil {
		return 0, err
	}
	switch batch := intFrom(rows[0][1]); {
	case batch < acked:
		return 0, s.fail(doubt("%s has %d commits of this node, and has acknowledged %d", s.where, batch, acked))
	case !bytes.Equal(rows[0][0], s.session):
		return 0, s.fail(errTaken)
	case batch > acked:
		return 0, s.fail(fmt.Errorf("%s has a commit of this node that it has not sent: %w", s.where, errTaken))
	}
	return instance, s.checkInstance(instance)
}

// mostOften is how many rows Update reads before it is asked for them.
const mostOften = 32

// remember lets the next Update read some of this one's rows at once: those that every
// Update reads, which have short names.
func (s *Store) remember(t *transaction) {
	s.often = s.often[:0:0]
	for _, key := range t.read {
		if len(key) <= 16 && len(s.often) < mostOften {
			s.often = append(s.often, key)
		}
	}
}

// ask runs statements of the transaction, and remembers the first fault.
func (t *transaction) ask(statements ...statement) ([][][]byte, error) {
	if t.fault != nil {
		return nil, t.fault
	}
	results, err := t.c.runWithin(t.s.ending, answerTimeout, statements...)
	if err != nil {
		t.fault = err
		return nil, err
	}
	return results[len(results)-1].Rows, nil
}

// Get implements store.Reader.
func (t *transaction) Get(key []byte) ([]byte, error) {
	if value, written := t.writes[string(key)]; written {
		return found(value)
	}
	value, known := t.known[string(key)]
	switch {
	case t.rows && !known:
		return nil, t.notHeld(key)
	case !t.rows:
		t.read = append(t.read, bytes.Clone(key))
	}
	if !known {
		rows, err := t.ask(say(t.s.sql.get, byteasOf([][]byte{key})))
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			value = rows[0][1]
		}
		t.known[string(key)] = value
	}
	return found(value)
}

// Fetch implements store.Fetcher. The rows that UpdateRows may read have been read already.
func (t *transaction) Fetch(keys [][]byte) error {
	var wanted [][]byte
	for _, key := range keys {
		if _, known := t.known[string(key)]; !known && !t.rows {
			wanted = append(wanted, key)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	rows, err := t.ask(say(t.s.sql.get, byteasOf(wanted)))
	if err != nil {
		return err
	}
	for _, key := range wanted {
		t.known[string(key)] = nil
	}
	for _, row := range rows {
		t.known[string(row[0])] = row[1]
	}
	return nil
}

func found(value []byte) ([]byte, error) {
	if value == nil {
		return nil, store.ErrNotFound
	}
	return bytes.Clone(value), nil
}

// notHeld is the error of touching a row that a transaction of UpdateRows does not hold.
func (t *transaction) notHeld(key []byte) error {
	err := fmt.Errorf("%w: %q", store.ErrUndeclared, key)
	if t.undeclared == nil {
		t.undeclared = err
	}
	return err
}

// Set implements store.Tx.
func (t *transaction) Set(key, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return t.put(key, value)
}

// Delete implements store.Tx.
func (t *transaction) Delete(key []byte) error { return t.put(key, nil) }

func (t *transaction) put(key, value []byte) error {
	follows := t.s.repair == nil && t.s.follow.follower.Follows(key)
	if t.rows {
		if follows {
			return t.notHeld(key)
		}
	} else if follows {
		t.followed = append(t.followed, bytes.Clone(key))
	}
	t.writes[string(key)], t.wrote = value, true
	return nil
}

// Scan implements store.Reader.
func (t *transaction) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	if t.rows {
		return t.notHeld(prefix)
	}
	first := t.flush()
	return scan(t.s.sql, prefix, after, reverse, fn, func(page statement) ([][][]byte, error) {
		rows, err := t.ask(append(first, page)...)
		first = nil
		return rows, err
	})
}

// flush returns the statements for the writes since the last flush.
func (t *transaction) flush() (statements []statement) {
	if len(t.writes) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(t.writes)) // transactions that meet lock in the same order
	var set, values, removed [][]byte
	for _, key := range keys {
		value := t.writes[key]
		if t.known[key] = value; value == nil {
			removed = append(removed, []byte(key))
		} else {
			set, values = append(set, []byte(key)), append(values, value)
		}
	}
	clear(t.writes)
	if len(set) > 0 {
		statements = append(statements, say(t.s.sql.upsert, byteasOf(set), byteasOf(values)))
	}
	if len(removed) > 0 {
		statements = append(statements, say(t.s.sql.remove, byteasOf(removed)))
	}
	return statements
}
