package event

import (
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// outboxRecord is the state of the outbox that nodes have in common.
type outboxRecord struct {
	Last    uint64           `json:"last"`    // moment of the latest message
	Pending map[string]int64 `json:"pending"` // messages, by the hook's id
}

var outboxKey = record.CommonKey("outbox")

// read reads the state that nodes have in common.
func (o *Outbox) read(t *commit.Transaction) (err error) {
	if o.common == nil {
		if o.common, err = readOutbox(t); err == nil {
			o.next = max(o.next, o.common.Last)
		}
	}
	return err
}

func readOutbox(r store.Reader) (*outboxRecord, error) {
	rec := new(outboxRecord)
	if _, err := record.FindJSON(r, outboxKey, rec, "outbox"); err != nil {
		return nil, err
	}
	if rec.Pending == nil {
		rec.Pending = make(map[string]int64)
	}
	return rec, nil
}

// of returns how many messages wait for a hook, and counts them if nobody has done so
// yet.
func (c *outboxRecord) of(r store.Reader, id hookID) (n int64, err error) {
	n, known := c.Pending[id.String()]
	if known {
		return n, nil
	}
	err = r.Scan(outboxPrefix(id), nil, false, func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	if err == nil {
		c.Pending[id.String()] = n
	}
	return n, err
}

// move counts a message that comes or goes, before the change is written.
func (o *Outbox) move(t *commit.Transaction, id hookID, change int64) error {
	if err := o.read(t); err != nil {
		return err
	}
	n, err := o.common.of(t, id)
	if err == nil {
		o.common.Pending[id.String()], o.moved = max(n+change, 0), true
	}
	return err
}

// waiting is how many messages wait for a hook, after this batch.
func (o *Outbox) waiting(t *commit.Transaction, h *hook) (int64, error) {
	if t.Shared() {
		if err := o.read(t); err != nil {
			return 0, err
		}
		return o.common.of(t, h.id)
	}
	n := h.pending.Load()
	for _, p := range o.posts {
		if p.hook == h {
			n += p.pending
		}
	}
	return n, nil
}
