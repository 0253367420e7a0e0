package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// commitPatience is how long a COMMIT may go unanswered before its connection is given
// up and another is asked for the outcome. The server is not told to stop: it may have
// committed, and may only wait for a standby.
const commitPatience = 5 * time.Second

// commit sends what was written, and COMMIT, in one round trip. It returns once the
// outcome is known; an error that is a fault says that nothing was committed.
func (t *transaction) commit() error {
	s := t.s
	batch := s.acked.Load() + 1
	numbered := []statement{say(s.sql.batch, textOf(s.options.Node), int8Of(batch))}
	if s.repair != nil {
		numbered = s.repair.numbered()
	}
	statements := t.flush()
	feed := -1
	if len(t.followed) > 0 {
		feed = len(statements)
		statements = append(statements, say(s.sql.feed, textOf(s.options.Node), byteasOf(t.followed)),
			say(s.sql.notify, textOf(s.channel("feed"))))
	}
	statements = append(append(statements, numbered...), say(s.sql.commit))

	unanswered := time.AfterFunc(commitPatience, func() { t.c.pg.Conn().Close() })
	results, err := t.c.run(context.Background(), statements...)
	unanswered.Stop()
	s.abandon(t.c)
	if err == nil && results[len(results)-1].CommandTag.String() != "COMMIT" {
		err = &fault{code: "25P02", text: "the transaction was rolled back"}
	}
	if err == nil && s.repair == nil && !s.acknowledge(batch, t.instance) {
		err = &fault{text: "another server is used by now", killed: true}
	}
	if f := (*fault)(nil); errors.As(err, &f) {
		if !f.unknown() {
			return f
		}
		if s.repair != nil {
			return fmt.Errorf("%s: the answer to a commit was lost: begin the repair again: %s", s.where, f)
		}
		committed, err := s.outcome(batch, f)
		if err != nil {
			return err
		}
		if !committed {
			return &fault{text: f.Error(), killed: true} // whatever it was, it has passed
		}
	}
	if s.repair != nil {
		return nil
	}
	s.witness.acknowledge(s.database, s.generation, batch)
	if feed >= 0 {
		if results != nil && len(results[feed].Rows) > 0 {
			s.committed(intFrom(results[feed].Rows[0][0]))
		}
		s.wakeFollower()
	}
	return nil
}

// outcome asks, for as long as that takes, whether this node's commit, whose answer was
// lost, was made. A server process that may still be about to commit holds the node's
// row, so the question waits for it.
func (s *Store) outcome(batch int64, cause *fault) (committed bool, err error) {
	s.log.Warn("the answer to a commit was lost: asking the database for its outcome", "error", cause)
	pause := 20 * time.Millisecond
	for {
		s.pool.flush()
		number, session, instance, err := s.ownNumber()
		if err == nil {
			err = s.instance.past.check(instance)
		}
		switch {
		case err == nil && number < batch-1:
			return false, s.fail(doubt("%s has %d commits of this node, and has acknowledged %d", s.where, number, batch-1))
		case err == nil && !bytes.Equal(session, s.session):
			return false, s.fail(errTaken)
		case err == nil:
			if s.checkInstance(instance) == nil && (number < batch || s.acknowledge(batch, instance)) {
				return number == batch, nil
			}
			err = errUnvouched
		}
		if failure := s.failure.Load(); failure != nil {
			return false, *failure
		}
		s.log.Debug("asking for the outcome of a commit", "error", err)
		s.unblock(faultOf(err))
		if s.pause(pause) {
			return false, fmt.Errorf("%s: the store was closed before the outcome of its last commit was known: %s", s.where, err)
		}
		pause = min(2*pause, time.Second)
	}
}

// ownNumber reads this node's number of commits once none of its transactions runs, and
// says which server has answered.
func (s *Store) ownNumber() (number int64, session []byte, instance int64, err error) {
	c, err := s.take(s.pool)
	if err != nil {
		return 0, nil, 0, err
	}
	defer s.abandon(c)
	results, err := c.runWithin(s.ending, answerTimeout, say(s.sql.begin), say(s.sql.settings), say(s.sql.look, textOf(s.options.Node)), say(s.sql.commit))
	if err != nil {
		return 0, nil, 0, err
	}
	rows := results[2].Rows
	if len(rows) == 0 {
		return 0, nil, 0, s.fail(doubt("%s no longer knows this node, %s", s.where, s.options.Node))
	}
	return intFrom(rows[0][1]), rows[0][0], intFrom(rows[0][2]), nil
}
