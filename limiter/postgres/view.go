package postgres

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// View implements store.Store.
func (s *Store) View(fn func(store.Reader) error) error { return s.viewWith(fn, s.pool.views) }

// Browse implements store.Browser. While it waits for others that browse, it takes no
// room from View.
func (s *Store) Browse(fn func(store.Reader) error) error {
	return s.viewWith(fn, s.pool.browsing, s.pool.views)
}

// Upkeep implements store.Browser.
func (s *Store) Upkeep(fn func(store.Reader) error) error {
	return s.viewWith(fn, s.pool.upkeep, s.pool.views)
}

// viewWith runs fn on a view that has a token of each channel in room.
func (s *Store) viewWith(fn func(store.Reader) error, room ...chan struct{}) error {
	if err := s.usable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ending, takeTimeout)
	defer cancel()
	for _, tokens := range room {
		select {
		case tokens <- struct{}{}:
			defer func() { <-tokens }()
		case <-ctx.Done():
			if s.ending.Err() != nil {
				return store.ErrClosed
			}
			return s.refuse(awayOf(errAllBusy))
		}
	}
	v := &view{s: s}
	err := fn(v)
	if v.c != nil {
		s.abandon(v.c)
	}
	if v.fault != nil {
		err = v.fault
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

// view reads one state of the database: that of its first read, with which it begins.
type view struct {
	s     *Store
	c     *conn             // nil until the first read
	known map[string][]byte // rows that were read; nil: there is none
	bytes int               // of known
	fault error             // the first: what was read may lack something
}

const (
	// mostKnown and knownBytes bound the rows that a view keeps, unless more are fetched at
	// once: a list may go through thousands of keys.
	mostKnown  = 4096
	knownBytes = 4 << 20
	// tripBytes is after how many bytes of rows the rest takes another round trip. Each
	// has to end within answerTimeout, and a key's record may be as large as 100 kB.
	tripBytes = 1 << 20
)

// Fetch implements store.Fetcher.
func (v *view) Fetch(keys [][]byte) error {
	if v.known == nil || len(v.known)+len(keys) > mostKnown || v.bytes > knownBytes {
		v.known, v.bytes = make(map[string][]byte, len(keys)), 0
	}
	var wanted [][]byte
	for _, key := range keys {
		if _, known := v.known[string(key)]; !known {
			wanted = append(wanted, key)
		}
	}
	for len(wanted) > 0 {
		rows, err := v.read(say(v.s.sql.some, byteasOf(wanted), int8Of(tripBytes)))
		if err != nil {
			return err
		}
		size := 0
		for _, row := range rows {
			size += len(row[1])
		}
		var rest [][]byte
		for _, key := range wanted {
			if size >= tripBytes && bytes.Compare(key, rows[len(rows)-1][0]) > 0 {
				rest = append(rest, key)
			} else {
				v.known[string(key)] = nil
			}
		}
		for _, row := range rows {
			v.known[string(row[0])] = row[1]
		}
		wanted, v.bytes = rest, v.bytes+size
	}
	return nil
}

// Get implements store.Reader.
func (v *view) Get(key []byte) ([]byte, error) {
	value, known := v.known[string(key)]
	if !known {
		rows, err := v.read(say(v.s.sql.get, byteasOf([][]byte{key})))
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			value = rows[0][1]
		}
		if v.known == nil {
			v.known = make(map[string][]byte)
		}
		if len(v.known) < mostKnown && v.bytes < knownBytes { // a parent is asked for with each of its children
			v.known[string(key)], v.bytes = value, v.bytes+len(value)
		}
	}
	return found(value)
}

// Scan implements store.Reader.
func (v *view) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	return scan(v.s.sql, prefix, after, reverse, fn, v.read)
}

// begin begins the view with its first read.
func (v *view) begin(what statement) ([][][]byte, error) {
	c, err := v.s.take(v.s.pool)
	if err != nil {
		return nil, err
	}
	results, err := c.runWithin(v.s.ending, answerTimeout, say(v.s.sql.view), say(viewSettings), what)
	if err == nil {
		err = v.s.checkInstance(intFrom(results[1].Rows[0][0]))
	}
	if err != nil {
		v.s.abandon(c)
		return nil, err
	}
	v.c = c
	return results[2].Rows, nil
}

// read runs a statement that reads. Until the first one has succeeded, another connection
// will do.
func (v *view) read(what statement) ([][][]byte, error) {
	if v.fault != nil {
		return nil, v.fault
	}
	s := v.s
	start := time.Now()
	for try := 1; v.c == nil; try++ {
		rows, err := v.begin(what)
		if err == nil {
			return rows, nil
		}
		var f *fault
		known := errors.As(err, &f)
		if known && f.elsewhere() {
			s.pool.flush()
		}
		if known && f.refused() && time.Since(start) < vouchPatience && !s.pause(vouchEvery) {
			try-- // it has not begun
			continue
		}
		if !known || !f.again() || try == mostTries || s.ending.Err() != nil {
			v.fault = err
			return nil, err
		}
	}
	results, err := v.c.runWithin(s.ending, answerTimeout, what)
	if err != nil {
		v.fault = err
		return nil, err
	}
	return results[0].Rows, nil
}
