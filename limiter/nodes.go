package limiter

import (
	"bytes"
	"errors"
	"sync/atomic"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// nodes is what this node knows of those that share its store: itself, and which of the
// others live. Its zero value is for a store of one node.
type nodes struct {
	shared  store.Shared // nil where the store has one node
	counted atomic.Pointer[nodeCount]
}

// node is the name under which this limiter's parts are kept; "" where it is alone.
func (n *nodes) node() string {
	if n.shared == nil {
		return ""
	}
	return n.shared.Node()
}

// Nodes lists the nodes that share the store, with their state; nil where it has one node.
func (n *nodes) Nodes() ([]store.Node, error) {
	if n.shared == nil {
		return nil, nil
	}
	return n.shared.Nodes()
}

// others names the other nodes that live.
func (n *nodes) others() []string {
	all, err := n.shared.Nodes()
	if err != nil {
		return unnamed
	}
	var others []string
	for i := range all {
		if all[i].Live && all[i].Name != n.shared.Node() {
			others = append(others, all[i].Name)
		}
	}
	return others
}

// unnamed stands for the names of the other nodes when the store cannot list them.
var unnamed = []string{"other nodes"}

// fresh returns why this node may not admit anything now: it could have missed that a
// key was stopped.
func (n *nodes) fresh() error {
	if n.shared == nil {
		return nil
	}
	return n.shared.Fresh()
}

// outOfTouch is the refusal of a node that may have missed something.
func outOfTouch(err error) *record.Refusal {
	if errors.Is(err, store.ErrDoubt) {
		return storeRefusal("the database may have lost something")
	}
	return storeRefusal("this server has lost touch with the database")
}

// leads reports whether this node does the work that one node does for all. Two may
// think so for a moment, so their work is judged again where it is written.
func (n *nodes) leads() bool { return n.shared == nil || n.shared.Leads() }

// medium names the place where the store is kept, for messages.
func (n *nodes) medium() string {
	if n.shared == nil {
		return "the server's disk"
	}
	return "the database"
}

// rows names the rows that a transaction on the account's books touches. None need naming
// where the store is not shared.
func (n *nodes) rows(a *account) store.Rows {
	if n.shared == nil {
		return store.Rows{}
	}
	return store.Rows{Lock: [][]byte{record.AccountKey(a.id)}, Read: [][]byte{record.PartKey(a.id, n.shared.Node())}}
}

// rowsOfKey names the rows that are read to load a key. None need naming where the store is
// not shared.
func (n *nodes) rowsOfKey(account record.AccountID, id string) [][]byte {
	if n.shared == nil {
		return nil
	}
	return [][]byte{record.RecordKey(id), record.AccountKey(account), record.PartKey(account, n.shared.Node())}
}

// rowsOfUse names the rows that saving the use of an account touches.
func (n *nodes) rowsOfUse(a *account, id string, hours []Bucket, seen *Seen) store.Rows {
	rows := n.rows(a)
	if n.shared == nil {
		return rows
	}
	for i := range hours {
		rows.Read = append(rows.Read, record.HourKey(id, hours[i].Start.Unix()))
	}
	if seen != nil {
		rows.Read = append(rows.Read, seenKey(id))
	}
	return rows
}

// fetchKeys reads in one go the rows that will be read of some keys, and those beside them
// that also names, as no other node commits while a batch runs. Anything that is not an id is
// skipped: reading it will report that.
func (n *nodes) fetchKeys(r store.Reader, ids []string, also ...func(id string) []byte) error {
	if n.shared == nil {
		return nil
	}
	var rows [][]byte
	for _, id := range ids {
		account, err := record.KeyAccount(id)
		if err != nil {
			continue
		}
		rows = append(rows, n.rowsOfKey(account, id)...)
		for _, row := range also {
			rows = append(rows, row(id))
		}
	}
	return store.Fetch(r, rows...)
}

// nodeCount is which nodes live, as last counted.
type nodeCount struct {
	alive int64
	size  *blockSize
	ended map[string]bool   // nodes whose sessions have ended
	gone  map[string][]byte // those of them that were found so after their last session was read
}

// gone reports whether a node no longer uses its reservations: its session has ended, and
// r shows that it has not begun another since that was found. A node that was never seen
// counts as alive, because it may have begun just now.
func (n *nodes) gone(r store.Reader, name string) (bool, error) {
	known := n.counted.Load()
	if known == nil {
		return false, nil
	}
	began, is := known.gone[name]
	if !is {
		return false, nil
	}
	begun, err := begunBy(r, name)
	return err == nil && bytes.Equal(begun, began), err
}

// removalKey is the key of the record of what was folded of a node so far. It is kept until the
// node's removal is in the audit log, so that a removal which is cut off and begun again is one
// entry, with all that was folded. A node that comes back meanwhile deletes it.
func removalKey(node string) []byte { return record.NodeKey(node, "removal") }

// begunBy is the last session that a node's limiter has begun; nil if there is none. The
// limiter writes it after it has joined, and before it reserves anything.
func begunBy(r store.Reader, name string) ([]byte, error) {
	b, _, err := store.Find(r, record.NodeKey(name, "session"))
	return bytes.Clone(b), err
}

// anyGone reports whether the session of any node has ended.
func (n *nodes) anyGone() bool {
	known := n.counted.Load()
	return known != nil && len(known.gone) > 0
}

// portion is the share of a limit that each living node gets if all get the same.
func (n *nodes) portion(limit int64) int64 {
	if known := n.counted.Load(); known != nil {
		return max(limit/max(known.alive, 1), 1)
	}
	return limit
}

// size is how large the blocks of accounts are.
func (n *nodes) size() *blockSize {
	if known := n.counted.Load(); known != nil {
		return known.size
	}
	return together(2)
}

// recount notes which nodes live. The last session of a node has to be read before the node
// is found to be gone; otherwise it could have come back in between. So a node counts as
// gone the second time that it is found so.
func (n *nodes) recount() error {
	known := &nodeCount{ended: make(map[string]bool), gone: make(map[string][]byte)}
	began := make(map[string][]byte)
	if before := n.counted.Load(); before != nil && len(before.ended) > 0 {
		err := n.shared.View(func(r store.Reader) (err error) {
			for name := range before.ended {
				if began[name], err = begunBy(r, name); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	all, err := n.shared.Nodes()
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].Live {
			known.alive++
			continue
		}
		known.ended[all[i].Name] = true
		if session, read := began[all[i].Name]; read {
			known.gone[all[i].Name] = session
		}
	}
	known.size = together(known.alive)
	n.counted.Store(known)
	return nil
}
