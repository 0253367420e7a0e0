package commit

import (
	"bytes"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// Writer is a committer for changes that need nothing of a batch but its transaction.
type Writer interface {
	// These are the methods of Committer.
	Patience() time.Duration
	Do(apply func(t *Transaction) error, done func()) error
	DoPatiently(apply func(t *Transaction) error, done func()) error
	Submit(apply func(t *Transaction) error, done func(err error))
	Look(look func(r store.Reader) error, done func(err error))
	LookPatiently(look func(r store.Reader) error, done func()) error
}

// Writer returns the committer as a Writer.
func (c *Committer[B]) Writer() Writer { return writer[B]{c} }

type writer[B any] struct{ *Committer[B] }

func (w writer[B]) of(apply func(t *Transaction) error) func(B) error {
	return func(B) error { return apply(&w.transaction) }
}

// Do implements Writer.
func (w writer[B]) Do(apply func(t *Transaction) error, done func()) error {
	return w.Committer.Do(w.of(apply), done)
}

// DoPatiently implements Writer.
func (w writer[B]) DoPatiently(apply func(t *Transaction) error, done func()) error {
	return w.Committer.DoPatiently(w.of(apply), done)
}

// Submit implements Writer.
func (w writer[B]) Submit(apply func(t *Transaction) error, done func(err error)) {
	w.Committer.Submit(w.of(apply), done)
}

// pruneRows bounds what one change of Prune removes.
const pruneRows = 1000

// Prune removes the rows under a prefix that old picks, until old says that no more follow,
// or until stopping. also is called for each row in its transaction; it may be nil.
func Prune(w Writer, s store.Store, stopping func() bool, prefix []byte, old func(key []byte) (gone, more bool), also func(t *Transaction, key []byte) error) error {
	var after []byte
	for !stopping() {
		var gone [][]byte
		end := true
		err := s.View(func(r store.Reader) error {
			return r.Scan(prefix, after, false, func(key, _ []byte) (bool, error) {
				after = bytes.Clone(key)
				is, more := old(key)
				if is {
					gone = append(gone, after)
				}
				end = !more
				return more && len(gone) < pruneRows, nil
			})
		})
		if err != nil || len(gone) == 0 {
			return err
		}
		err = w.DoPatiently(func(t *Transaction) error {
			if err := t.Fetch(gone); err != nil { // all at once: other nodes that share the store wait
				return err
			}
			for _, key := range gone {
				if _, err := t.Get(key); errors.Is(err, store.ErrNotFound) {
					continue // it was removed meanwhile
				} else if err != nil {
					return err
				}
				if also != nil {
					if err := also(t, key); err != nil {
						return err
					}
				}
				if err := t.Delete(key); err != nil {
					return err
				}
			}
			return nil
		}, nil)
		if err != nil || end || len(gone) < pruneRows {
			return err
		}
	}
	return nil
}

// Interface guards
var _ Writer = writer[*Transaction]{}
