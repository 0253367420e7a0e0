package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// Repair is a database in doubt that is being repaired. Meanwhile neither a node nor
// another repair uses it. A repair can be begun again at any time.
type Repair struct {
	s     *Store
	token []byte
	why   string
	own   *loss // a doubt that only this node has, and has not written; nil: none
	last  bool  // this commit ends the doubt
}

// ErrCertain means that no node doubts the database.
var ErrCertain = errors.New("the database is not in doubt: there is nothing to repair")

var errOtherRepair = errors.New("the database is not in doubt any more, or another repair of it has begun: look at it again")

// OpenDoubted opens a database that nodes doubt, for reading only.
func OpenDoubted(ctx context.Context, o Options) (*Repair, error) {
	s, err := Open(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &Repair{s: s}
	if err := r.begin(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return r, nil
}

// OpenRepair opens a database that nodes doubt, takes it, and waits until no node's
// session lives.
func OpenRepair(ctx context.Context, o Options) (*Repair, error) {
	r, err := OpenDoubted(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := r.take(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// begin finds out why the database is in doubt. This node's witness counts even if the
// node could not report a doubt before.
func (r *Repair) begin(ctx context.Context) error {
	s := r.s
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	c, err := s.pool.take(ctx)
	if err != nil {
		return s.opened(awayOf(err))
	}
	defer s.abandon(c)
	results, err := c.run(ctx, say(s.sql.identity), say(s.sql.read, textOf(s.options.Node)))
	if err != nil {
		return s.opened(err)
	}
	if len(results[0].Rows) == 0 {
		return fmt.Errorf("schema %s has lost its identity: restore its table meta", s.schema)
	}
	row := results[0].Rows[0]
	s.database, s.generation = string(row[0]), intFrom(row[1])
	if row[2] != nil {
		r.why = string(row[2])
		return nil
	}
	acked, known := s.witness.of(s.database, s.generation)
	var batch int64
	if rows := results[1].Rows; len(rows) > 0 {
		batch = intFrom(rows[0][2])
	}
	var lost *loss
	switch {
	case known && batch < acked:
		lost = &loss{fmt.Sprintf("%s has %d commits of node %s, and has acknowledged %d", s.where, batch, s.options.Node, acked)}
	case s.witness.database == s.database && s.witness.generation > s.generation:
		lost = &loss{s.where + " is as it was before its last repair"}
	case s.options.Doubt != "":
		r.own = &loss{s.options.Doubt} // the other nodes are told if it is repaired
		r.why = r.own.why
		return nil
	default:
		return ErrCertain
	}
	r.why = lost.why
	s.tellDoubt(c, lost)
	return nil
}

// takePatience is how long a repair waits for the sessions of nodes. They end when the
// nodes hear of the doubt, and expire when the nodes are gone.
const takePatience = 20 * time.Second

func (r *Repair) take(ctx context.Context) error {
	s := r.s
	r.token = make([]byte, 16)
	rand.Read(r.token)
	statements := []statement{say(s.sql.claim, byteaOf(r.token))}
	if r.own != nil {
		statements = append([]statement{say(s.sql.mark, textOf(r.own.why), int8Of(s.generation))}, statements...)
	}
	results, err := s.within(ctx, answerTimeout, statements...)
	switch {
	case err != nil:
		return s.opened(err)
	case len(results[len(results)-1].Rows) == 0:
		return ErrCertain
	}
	s.repair = r
	s.sql.settings = strings.Replace(settings, idleFor, repairIdleFor, 1)
	for start := time.Now(); ; {
		results, err := s.within(ctx, answerTimeout, say(s.sql.lives))
		if err != nil {
			return s.opened(err)
		}
		if len(results[0].Rows) == 0 {
			return nil
		}
		if time.Since(start) > takePatience {
			var names []string
			for _, row := range results[0].Rows {
				names = append(names, string(row[0]))
			}
			return fmt.Errorf("%s: nodes still use it: stop these: %s", s.where, strings.Join(names, ", "))
		}
		select {
		case <-time.After(joinEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Why says what makes the nodes doubt the database.
func (r *Repair) Why() string { return r.why }

// Clock is the time of the database.
func (r *Repair) Clock() *Clock { return r.s.Clock() }

// View implements store.Store.
func (r *Repair) View(fn func(store.Reader) error) error { return r.s.View(fn) }

// Update implements store.Store. It fails if OpenDoubted has opened the database.
func (r *Repair) Update(fn func(store.Tx) error) error { return r.s.write(nil, fn) }

// Finish is the last Update: with it the doubt ends, and all nodes begin new sessions.
func (r *Repair) Finish(fn func(store.Tx) error) error {
	err := r.s.write(nil, func(tx store.Tx) error {
		r.last = true
		return fn(tx)
	})
	r.last = false
	return err
}

// numbered ends a transaction of the repair.
func (r *Repair) numbered() []statement {
	if r.last {
		return []statement{say(r.s.sql.repaired, int8Of(r.s.witness.generation+1))}
	}
	return []statement{say(r.s.sql.holds, byteaOf(r.token))}
}

// Close implements store.Store.
func (r *Repair) Close() error { return r.s.Close() }

// Interface guards
var _ store.Store = (*Repair)(nil)
