package postgres

import "github.com/till-proxy/till/limiter/store"

// Describe tells the other nodes this node's configuration from now on; see
// Options.Configuration.
func (s *Store) Describe(configuration string) error {
	if err := s.usable(); err != nil {
		return err
	}
	if !s.joined.Load() {
		return store.ErrClosed
	}
	_, err := s.within(s.ending, answerTimeout, say(s.sql.describe, textOf(s.options.Node), byteaOf(s.session), textOf(configuration)))
	if err != nil {
		return s.refuse(err)
	}
	return nil
}
