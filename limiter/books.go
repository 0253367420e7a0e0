package limiter

import (
	"fmt"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Several nodes may share an account. Each then has a part of it: what this node has
// reserved, spent and holds is in its memory alone, and what the other nodes have
// reserved is taken off the limit, like what was given to children. So a node judges
// and debits as if it were alone. The record says what all parts are together, and
// moves with each of them; see [record.Part].
//
// What a node knows of the others is as old as its last transaction on the account.
// That can make it ask for a block in vain, which the transaction finds out, but must
// not make it refuse a request; see [nodes.unsure].

// own is this node's part of an account whose record is rec: all of it, where the
// store is not shared.
func (b *batch) own(id record.AccountID, rec *record.Account) (record.Part, error) {
	return ownPart(b, b.node, id, rec)
}

// ownPart is the part of one node; "" is the only node of a store that is not shared.
func ownPart(r store.Reader, node string, id record.AccountID, rec *record.Account) (record.Part, error) {
	if node == "" {
		return record.Part{
			Lineage: rec.Lineage, Reserved: rec.Reserved, Settled: rec.Settled, Booked: rec.Booked, Past: rec.Past, Kinds: rec.Kinds,
		}, nil
	}
	p, err := readPart(r, record.PartKey(id, node))
	return p.Of(rec.Lineage), err
}

// readPart reads a node's part of an account as it was written, perhaps in an earlier
// lineage. A node that has not used the account has none.
func readPart(r store.Reader, key []byte) (record.Part, error) {
	v, there, err := store.Find(r, key)
	if err != nil || !there {
		return record.Part{}, err
	}
	p, err := record.DecodePart(v)
	if err != nil {
		err = fmt.Errorf("%q: %w", key, err)
	}
	return p, err
}

// setOwn writes this node's part of an account, and moves rec by the difference. The
// caller still has to write rec.
func (b *batch) setOwn(id record.AccountID, rec *record.Account, own *record.Part) error {
	if b.node == "" {
		rec.Reserved, rec.Settled, rec.Booked, rec.Past, rec.Kinds = own.Reserved, own.Settled, own.Booked, own.Past, own.Kinds
		return nil
	}
	return b.setPart(record.PartKey(id, b.node), rec, own)
}

// setPart writes the part of any node, and moves rec by the difference. The caller still
// has to write rec.
func (b *batch) setPart(key []byte, rec *record.Account, part *record.Part) error {
	was, err := readPart(b, key)
	if err != nil {
		return err
	}
	if was == *part {
		return nil
	}
	was = was.Of(rec.Lineage)
	rec.Reserved.Add(part.Reserved.Minus(was.Reserved))
	rec.Settled.Add(part.Settled.Minus(was.Settled))
	rec.Past.Add(part.Past.Minus(was.Past))
	rec.Kinds.Add(part.Kinds.Minus(was.Kinds))
	return b.Set(key, part.Encode())
}

// booksOf reads the record of an account and one node's part of it.
func booksOf(r store.Reader, node string, id record.AccountID) (rec record.Account, own record.Part, err error) {
	v, err := r.Get(record.AccountKey(id))
	if err == nil {
		rec, err = record.DecodeAccount(v)
	}
	if err == nil {
		own, err = ownPart(r, node, id, &rec)
	}
	return rec, own, err
}

// books is booksOf for this node and an account in memory. A role's account may be new.
func (b *batch) books(a *account) (rec record.Account, own record.Part, err error) {
	if rec, err = readAccount(b, a); err == nil {
		own, err = b.own(a.id, &rec)
	}
	return rec, own, err
}

// setBooks writes an account's record and this node's part of it.
func (b *batch) setBooks(a *account, rec *record.Account, own *record.Part) error {
	if err := b.setOwn(a.id, rec, own); err != nil {
		return err
	}
	return b.setAccount(a.id, a.forRole, rec)
}

// settle writes into a part what its node has spent. An overdraft is included only once it
// is reserved, too: until then others could take it for theirs.
func settle(rec *record.Account, own *record.Part, spent record.Amounts) {
	own.Settled = spent
	for i, limit := range rec.Limit {
		if limit != record.NoLimit {
			own.Settled[i] = min(spent[i], own.Reserved[i])
		}
	}
}

// mine is how much this node may reserve in total: what the account has kept of its
// limit, minus what other nodes have reserved.
func mine(rec *record.Account, own *record.Part) record.Amounts {
	return record.Kept(rec.Kept(), rec.Reserved.Minus(own.Reserved))
}

// durable is what a node adds to the sum over all keys.
func durable(own *record.Part) record.Amounts {
	sum := own.Past
	sum.Add(own.Reserved)
	return sum
}

// setWhole sets the limit that is shared: a key's, or that of a role's budget.
// Callers hold the account.
func (a *account) setWhole(limit record.Amounts) {
	a.whole = limit
	a.relimit()
}

// lower sets the limit as setWhole does. Where the limit falls, what this node knows of the
// others' reserve may be too old for it: the next transaction on the account could find
// that nothing is left, so the next request has to look. Callers hold the account.
func (n *nodes) lower(a *account, limit record.Amounts) {
	former := a.whole
	a.setWhole(limit)
	if n.shared == nil {
		return
	}
	for i, most := range limit {
		if most != record.NoLimit && (former[i] == record.NoLimit || most < former[i]) {
			a.others.Reserved[i], a.looked = max(a.others.Reserved[i], most), 0
		}
	}
	a.relimit()
}

// relimit works out the limit of this node's part. Callers hold the account.
func (a *account) relimit() {
	a.limit = record.Kept(record.Kept(a.whole, a.given), a.others.Reserved)
}

// adopt takes over what a transaction has read of the other nodes' parts, unless the
// record is in a window that this node has yet to enter. Callers hold the account.
func (a *account) adopt(rec *record.Account, own *record.Part) {
	if rec.Lineage >= a.lineage {
		a.adoptUse(rec)
	}
	if rec.Lineage != a.lineage {
		return
	}
	a.given, a.back = rec.Given, rec.Returned
	if !a.forRole {
		// Another node may have changed the limit a moment ago. Under the old one, a request
		// would ask again and again for a block that the books do not grant.
		a.whole = rec.Limit
	}
	others := record.Part{
		Reserved: rec.Reserved.Minus(own.Reserved), Settled: rec.Settled.Minus(own.Settled),
		Past: rec.Past.Minus(own.Past), Kinds: rec.Kinds.Minus(own.Kinds),
	}
	if others != a.others {
		a.others, a.busy = others, rec.Last
	}
	a.relimit()
}

// adoptUse takes over when and from where the key was used first and last, which is the
// same in every window. Callers hold the account.
func (a *account) adoptUse(rec *record.Account) {
	if rec.First != 0 && (a.first == 0 || rec.First < a.first) {
		a.first = rec.First
	}
	if a.pin == "" || a.pinDurable || rec.Pin != "" {
		a.pin = rec.Pin
	}
	if rec.Last > a.last {
		a.last, a.addr = rec.Last, rec.Addr
	}
}

// net is what the account has of its limit after what it has given away. Callers hold
// the account.
func (a *account) net() record.Amounts { return record.Kept(a.whole, a.given) }

// total is what all nodes have spent of a kind, as far as is known.
func (a *account) total(k record.Kind) int64 { return a.spent[k] + a.others.Settled[k] }

// lent is what other nodes have reserved of a kind and not spent, as far as is known:
// it may come back.
func (a *account) lent(k record.Kind) int64 {
	return max(a.others.Reserved[k]-a.others.Settled[k], 0)
}

// lookedAt updates memory with what a transaction has read and written of an account's
// books. It runs on the committer; callers hold the account. k is the key that owns
// it; nil for a role.
func (l *Limiter) lookedAt(a *account, k *Live, rec *record.Account, own *record.Part) {
	if l.shared == nil {
		return // there is nobody else
	}
	if k != nil && rec.Lineage == a.lineage && rec.Epoch > a.epoch {
		a.moveTo(k, rec.Epoch) // another node has changed when it renews; what was used stays used
	}
	a.adopt(rec, own)
	a.pinDurable = a.pinDurable || rec.Pin != ""
	a.inStore = own.Settled
	a.size, a.looked = l.nodes.size(), l.clock.Now().UnixNano()
	if k != nil {
		k.emitThresholds() // that the others' use has crossed
		k.setMarks()
		k.endIfSpent()
	}
	a.call(0)
}
