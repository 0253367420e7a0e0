package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// A doubt is the finding that the database has lost commits that it had acknowledged.
// Then no node may use it, and perhaps only one has noticed. So that node writes the
// doubt into table state, which each transaction of any node reads first.

// certainEvery is the pause between two looks at a database in doubt.
const certainEvery = 3 * time.Second

// Healed reports whether a database that this store refuses because of a doubt can be
// opened again: it was repaired, or the copy that has everything is in its place.
func (s *Store) Healed() bool { return s.healed.Load() }

// tellDoubt writes a doubt into the database, if it is not known there. It does so on the
// connection that has shown it: another one may lead to the copy that has everything.
func (s *Store) tellDoubt(c *conn, lost *loss) {
	if _, err := c.runWithin(s.ending, answerTimeout, say(s.sql.mark, textOf(lost.why), int8Of(s.generation))); err != nil {
		s.log.Error("the other nodes do not know yet that the database is in doubt", "error", err)
	}
}

// outlastDoubt tells the other nodes of a doubt, and waits until its reason is gone or
// the store is closed. Only this process may know what is missing, so it is not closed
// before.
func (s *Store) outlastDoubt() {
	failure := s.failure.Load()
	if failure == nil || !errors.Is(*failure, store.ErrDoubt) || s.ending.Err() != nil {
		return
	}
	var own *loss
	errors.As(*failure, &own)
	before := s.before()
	for s.ending.Err() == nil {
		certain, err := s.lookAgain(before, own)
		if err != nil {
			s.log.Debug("looking again at a database in doubt", "error", err)
		}
		if certain {
			s.healed.Store(true)
			s.log.Warn("the reason to doubt the database is gone: it can be opened again")
			return
		}
		s.pause(certainEvery)
	}
}

// lookAgain compares the database with what was seen of it before. It is certain if
// nothing is missing, or if it was repaired since.
func (s *Store) lookAgain(before state, own *loss) (certain bool, err error) {
	ctx, cancel := context.WithTimeout(s.ending, answerTimeout)
	defer cancel()
	c, err := connect(ctx, s.config, nil)
	if err != nil {
		return false, err
	}
	defer c.drop()
	results, err := c.run(ctx, say(s.sql.numbers))
	if err != nil {
		return false, err
	}
	now := stateOf(results[0])
	switch {
	case now.database != before.database:
		return false, nil
	case now.generation != s.generation:
		return now.generation > s.generation, nil
	case now.doubt == nil && s.lacks(before, now) == nil:
		return true, nil
	case now.doubt == nil && own != nil:
		s.tellDoubt(c, own)
	}
	return false, nil
}
