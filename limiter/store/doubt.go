package store

import (
	"errors"
	"fmt"
)

// ErrDoubt is wrapped by errors about a store that may have lost something. The store
// stays closed until an operator decides.
var ErrDoubt = errors.New("the store may be older than what it had acknowledged")

// Doubt is the error of a store that contradicts what it had acknowledged.
func Doubt(format string, args ...any) error { return &doubt{fmt.Sprintf(format, args...)} }

type doubt struct{ why string }

func (d *doubt) Error() string {
	return fmt.Sprintf("%v: %s; put the newest store and its anchor in place, or count every remaining budget as spent with: caddy till repair --forfeit",
		ErrDoubt, d.why)
}

func (d *doubt) Unwrap() error { return ErrDoubt }

// Contradiction is the error of one node that has found a record which contradicts what it
// knows, in a store that nodes share and that has all of their commits.
type Contradiction struct{ why string }

// Contradicted is the contradiction that a doubt is about.
func Contradicted(err error) *Contradiction { return &Contradiction{Reason(err)} }

// Reason is what a doubt is about, without what an operator can do.
func Reason(err error) string {
	if d := (*doubt)(nil); errors.As(err, &d) {
		return d.why
	}
	if d := (*nodeDoubt)(nil); errors.As(err, &d) {
		return d.why
	}
	if c := (*Contradiction)(nil); errors.As(err, &c) {
		return c.why
	}
	return err.Error()
}

func (c *Contradiction) Error() string {
	return "a record contradicts what this node knows: " + c.why + helpsNode
}

// helpsNode is what an operator of several nodes can do.
const helpsNode = `; find out who writes in the database besides till, and restart this node: what it had reserved counts as used; see "When a record contradicts a node" in docs/cluster.md`

// AmongNodes returns an error as a node that shares its store reports it: there is no anchor,
// and the remedy for one server, which has lost something, may lose the other nodes' work.
func AmongNodes(err error) error {
	if d := (*doubt)(nil); errors.As(err, &d) {
		return &nodeDoubt{d.why}
	}
	return err
}

// nodeDoubt is a doubt among nodes.
type nodeDoubt struct{ why string }

func (d *nodeDoubt) Error() string {
	return "the database contradicts itself, or what this node knows: " + d.why + helpsNode
}

func (d *nodeDoubt) Unwrap() error { return ErrDoubt }

// Unwrap says that the node stays closed until an operator decides.
func (c *Contradiction) Unwrap() error { return ErrDoubt }
