package store

import (
	"errors"
	"time"
)

// Shared is a Store that several nodes have open at the same time. Nodes never talk
// to each other: what they have in common is in the store.
//
// Its transactions are of two kinds. Update runs alone in the whole cluster: nobody
// changes what it reads before it has committed, so code that was written for a single
// writer stays correct. UpdateRows holds a few rows, and runs beside the transactions
// of other nodes that hold other rows: it is for changes that a request waits for.
//
// An error that wraps ErrUnavailable says that a transaction has changed nothing, and
// that a later one may succeed. Any other error of a commit leaves it unknown what
// the store holds, as with any Store.
type Shared interface {
	Store

	// UpdateRows runs fn like Update, while it holds rows.Lock. fn may read only
	// rows.Lock, rows.Read and its own writes; it gets ErrUndeclared for
	// anything else, for a scan, and for writing what other nodes follow. A row of
	// rows.Lock that does not exist cannot be held: then fn is not run, and the error
	// wraps ErrUndeclared. A transaction in which fn got ErrUndeclared writes nothing,
	// and its error wraps ErrUndeclared, whatever fn returns. A row that it writes and
	// does not hold must be protected by one that it holds, or be written by this node
	// alone.
	UpdateRows(rows Rows, fn func(Tx) error) error

	// Node is the name of this node, which no other has. It is the same after a
	// restart.
	Node() string

	// Join begins this node's session, after any earlier one of the same name has
	// ended, and lets f follow what other nodes commit from here on. Once it has
	// returned, Fresh is nil. Close ends the session; after it, no method of f is
	// called. No transaction may be begun before Join has returned.
	Join(f Follower) error

	// Fresh returns nil while this node is sure to have followed everything that
	// was committed before the last few seconds. Otherwise a key that was revoked
	// elsewhere could be taken for alive, and nothing may be admitted. The hot path
	// calls it: it touches memory only.
	Fresh() error

	// Settled waits until every other node whose session lives has followed all that was
	// committed before the call. When patience runs out, it returns the names of the nodes
	// that have not: their own Fresh refuses, or they will follow soon. This node is never
	// among them: its memory follows its own commits as they are made.
	Settled(patience time.Duration) (behind []string, err error)

	// Recall asks the other nodes to give back what they have reserved of an
	// account and do not use. The request may be lost on its way.
	Recall(account []byte)

	// Leads reports whether this node does the work that only one should do, such
	// as sweeping. Two may do so for a moment.
	Leads() bool

	// Nodes are all nodes that have joined, with their state.
	Nodes() ([]Node, error)

	// Fence ends the session of a node that is gone: a process of it that is still alive
	// commits nothing from then on before it has joined again. The node stays on the list.
	// The error wraps ErrAlive while its session lives.
	Fence(node string) error

	// Forget takes a node that is gone off the list. If it comes back, it is listed
	// again. The error wraps ErrAlive while its session lives.
	Forget(node string) error
}

// Rows are what a transaction of UpdateRows touches.
type Rows struct {
	// Lock are the rows that it holds until it has committed.
	Lock [][]byte
	// Read are rows that it reads. They are read once the locks are held.
	Read [][]byte
}

// Follower lets a node's memory follow what other nodes commit. Changed, Missed and
// Recalled are called by one goroutine, one at a time. The rows of a call count as
// followed once it has returned nil. After an error none do until Missed, which is then
// called again and again, has returned nil.
type Follower interface {
	// Follows reports whether the memory of other nodes depends on a row. Only
	// Update may write those. It is called by any goroutine.
	Follows(key []byte) bool
	// Changed says that other nodes have written or deleted these rows, in the order
	// of their commits. This node's own writes are not among them: its memory follows
	// those as they are committed.
	Changed(keys [][]byte) error
	// Missed says that any row may have been written: all that memory holds has to
	// be read again.
	Missed() error
	// Recalled says that another node has called Recall for an account.
	Recalled(account []byte)
	// Stale says that Fresh has begun to return an error. It is called again if that was
	// an ErrStale and has become an error that stays. It is called by another goroutine
	// and does not wait for a call of Changed or Missed that hangs, because that may be
	// the very reason.
	Stale(err error)
}

// Bystander is the Follower of a node that keeps nothing in memory, so that it has nothing
// to follow.
type Bystander struct{}

func (Bystander) Follows([]byte) bool    { return false }
func (Bystander) Changed([][]byte) error { return nil }
func (Bystander) Missed() error          { return nil }
func (Bystander) Recalled([]byte)        {}
func (Bystander) Stale(error)            {}

// Node is a node as its last sign of life describes it.
type Node struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Address string    `json:"address,omitempty"`
	Started time.Time `json:"started"`
	Seen    time.Time `json:"seen"`
	// Live says that its session has not ended.
	Live bool `json:"live"`
	// Behind is how many commits it has not followed yet.
	Behind int64 `json:"behind"`
	// Leads says that it does the work that one node does for all.
	Leads bool `json:"leads,omitempty"`
	// Configuration is a hash of what the nodes' configurations must have in common.
	Configuration string `json:"configuration,omitempty"`
}

// ErrUndeclared is wrapped by the error of reading or writing a row that a
// transaction of UpdateRows does not hold. Update may do it.
var ErrUndeclared = errors.New("the transaction does not hold this row")

// ErrUnavailable is wrapped by the error of a transaction that a shared store could
// not take or finish, and of which nothing remains. The next may go on.
var ErrUnavailable = errors.New("the database is not available")

// ErrAlive is wrapped by the error of forgetting a node whose session lives.
var ErrAlive = errors.New("the node is alive")

// ErrStale is wrapped by the error of Fresh.
var ErrStale = errors.New("this node has lost touch with the others")
