package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/store"
)

// View implements store.Store.
func (s *Store) View(fn func(store.Reader) error) error {
	if err := s.usable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ending, takeTimeout)
	defer cancel()
	select {
	case s.pool.views <- struct{}{}:
	case <-ctx.Done():
		if s.ending.Err() != nil {
			return store.ErrClosed
		}
		return s.refuse(awayOf(errAllBusy))
	}
	defer func() { <-s.pool.views }()
	v, err := s.snapshot()
	if err == nil {
		defer s.abandon(v.c)
		if err = fn(v); v.fault != nil {
			err = v.fault
		}
	}
	var f *fault
	if errors.As(err, &f) {
		if s.ending.Err() != nil {
			return store.ErrClosed
		}
		return s.refuse(f)
	}
	return err
}

// snapshot begins a view. Until it has, another connection will do.
func (s *Store) snapshot() (*view, error) {
	for try := 1; ; try++ {
		c, err := s.take(s.pool)
		if err != nil {
			return nil, err
		}
		v := &view{s: s, c: c}
		// The snapshot is taken by the first statement that reads.
		if _, err = v.ask(say(s.sql.view), say(viewSettings)); err == nil {
			return v, nil
		}
		s.abandon(c)
		if !faultOf(err).again() || try == mostTries || s.ending.Err() != nil {
			return nil, err
		}
		s.pool.flush()
	}
}

// view reads one state of the database.
type view struct {
	s     *Store
	c     *conn
	fault error // the first: what was read may lack something
}

// Get implements store.Reader.
func (v *view) Get(key []byte) ([]byte, error) {
	rows, err := v.read(say(v.s.sql.get, byteasOf([][]byte{key})))
	switch {
	case err != nil:
		return nil, err
	case len(rows) == 0:
		return nil, store.ErrNotFound
	}
	return rows[0][1], nil
}

// Scan implements store.Reader.
func (v *view) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	return scan(v.s.sql, prefix, after, reverse, fn, v.read)
}

func (v *view) read(what statement) ([][][]byte, error) {
	results, err := v.ask(what)
	if err != nil {
		return nil, err
	}
	return results[0].Rows, nil
}

func (v *view) ask(what ...statement) ([]*pgconn.Result, error) {
	if v.fault != nil {
		return nil, v.fault
	}
	ctx, cancel := context.WithTimeout(v.s.ending, answerTimeout)
	defer cancel()
	results, err := v.c.run(ctx, what...)
	v.fault = err
	return results, err
}
