package limiter

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A node that does not come back leaves its parts of accounts behind, with reservations
// that it has not spent. When it is removed for good, all of these count as spent, and
// its parts are merged with those of other removed nodes: the part of the node without
// a name. If it comes back nevertheless, it begins as a new node.

// NodeRemoved is what a removed node had left.
type NodeRemoved struct {
	Accounts  int64          // of which it had a part
	Forfeited record.Amounts // reserved by it, and not known to be used
}

var (
	// ErrNoNode means that no node of this name shares the store.
	ErrNoNode = errors.New("no node has this name")
	// ErrNodeLives means that a node is not gone.
	ErrNodeLives = errors.New("the node is alive: stop it first")
)

// removal is what was folded of a node so far. The error wraps ErrNotFound if the node is not
// being removed.
func removal(r store.Reader, node string) (folded NodeRemoved, err error) {
	v, err := r.Get(removalKey(node))
	if err == nil {
		err = json.Unmarshal(v, &folded)
	}
	return folded, err
}

func (b *batch) setRemoval(node string, folded NodeRemoved) error {
	return record.SetJSON(b, removalKey(node), folded)
}

// removedNode is the name under which the parts of removed nodes are kept as one.
const removedNode = ""

// RemoveNode removes a node that is gone for good. It may be cut off at any point and
// called again.
func (l *Limiter) RemoveNode(ctx context.Context, by Caller, name string) (NodeRemoved, error) {
	var done NodeRemoved
	if err := l.authorise(by, record.Everything, nil); err != nil {
		return done, err
	}
	if l.shared == nil {
		return done, ErrNoNode
	}
	session := record.NodeKey(name, "session")
	var last []byte
	err := l.store.View(func(r store.Reader) (err error) {
		last, _, err = store.Find(r, session)
		return err
	})
	if err == nil {
		err = l.removable(name)
	}
	if err != nil {
		return done, err
	}
	// Otherwise a process of the node that still lives could come back, and go on with folded parts.
	switch err := l.shared.Fence(name); {
	case errors.Is(err, store.ErrAlive):
		return done, ErrNodeLives
	case err != nil:
		return done, fmt.Errorf("removing node %s: %w", name, err)
	}
	// Should the node start, its shadow file must not be believed: its parts are gone.
	err = l.committer.Do(func(b *batch) error {
		now, _, err := store.Find(b, session)
		if err == nil && !bytes.Equal(now, last) { // it has begun another since it was seen gone
			err = ErrNodeLives
		}
		if err != nil {
			return err
		}
		folded, err := removal(b, name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return errors.Join(b.setRemoval(name, folded), b.Delete(session))
	}, nil)
	if err != nil {
		return done, err
	}
	for after := []byte(nil); ; {
		ids, next, err := partsOf(l.store, name, after)
		if err != nil {
			return done, err
		}
		if err := l.foldParts(name, ids); err != nil {
			return done, err
		}
		if after = next; after == nil {
			break
		}
		if err := ctx.Err(); err != nil {
			return done, err
		}
	}
	// The node is listed until here, so that a call that was cut off can be repeated.
	if err = l.shared.Forget(name); err == nil {
		err = l.committer.Do(func(b *batch) error {
			if err := b.stillGone(name); err != nil {
				return err
			}
			folded, err := removal(b, name)
			if errors.Is(err, store.ErrNotFound) {
				return ErrNoNode // another call was faster
			}
			if err != nil {
				return err
			}
			done = folded
			return errors.Join(b.Delete(removalKey(name)), b.audit(by.entry(audit.ActNodeRemove, "", map[string]record.Delta{
				"node": {Before: name, After: nil}, "accounts": {Before: nil, After: done.Accounts},
				"forfeited_activations": {Before: nil, After: done.Forfeited[record.Activations]},
				"forfeited_tokens":      {Before: nil, After: done.Forfeited[record.Tokens]},
				"forfeited_spend_usd":   {Before: nil, After: record.FormatUSD(done.Forfeited[record.Nanodollars])},
			})))
		}, nil)
	}
	if errors.Is(err, store.ErrAlive) || errors.Is(err, ErrNodeLives) {
		return NodeRemoved{}, ErrNodeLives
	}
	if errors.Is(err, ErrNoNode) {
		return NodeRemoved{}, ErrNoNode
	}
	if err != nil {
		return NodeRemoved{}, fmt.Errorf("removing node %s: %w", name, err)
	}
	l.forfeited.Add(done.Forfeited[record.Activations])
	l.log.Warn("a node was removed, and what it had reserved counts as spent", "node", name, "by", by.Name,
		"accounts", done.Accounts, "activations", done.Forfeited[record.Activations], "tokens", done.Forfeited[record.Tokens],
		"spend_usd", record.FormatUSD(done.Forfeited[record.Nanodollars]))
	return done, nil
}

// stillGone returns an error if a node has begun a session since its last one was deleted:
// its parts are in use.
func (b *batch) stillGone(node string) error {
	_, there, err := store.Find(b, record.NodeKey(node, "session"))
	if there {
		return ErrNodeLives
	}
	return err
}

// removable returns an error unless a node is gone, and either is listed or has a removal
// that is not in the audit log yet.
func (l *Limiter) removable(name string) error {
	nodes, err := l.Nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		switch {
		case n.Name == name && n.Live:
			return ErrNodeLives
		case n.Name == name:
			return nil
		}
	}
	err = l.store.View(func(r store.Reader) error {
		_, err := removal(r, name)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoNode
	}
	return err
}

// partsOf reads, a page at a time, the ids of the accounts of which a node has a part.
// After the last page next is nil.
func partsOf(s store.Store, node string, after []byte) (ids []record.AccountID, next []byte, err error) {
	err = s.View(func(r store.Reader) error {
		keys, _, err := pageOf(r, record.SpaceParts, after)
		for _, key := range keys {
			next = bytes.Clone(key)
			rest := key[len(record.SpaceParts):]
			if id := (record.AccountID{}); len(rest) >= len(id) && string(rest[len(id):]) == node {
				ids = append(ids, record.AccountID(rest[:len(id)]))
			}
		}
		return err
	})
	return ids, next, err
}

// foldedAtOnce is how many parts are folded in one transaction, during which no other
// node commits.
const foldedAtOnce = 64

// foldParts folds a node's parts of these accounts, and notes what it folded.
func (l *Limiter) foldParts(node string, ids []record.AccountID) error {
	now := l.clock.Now().UnixNano()
	for len(ids) > 0 {
		n := min(len(ids), foldedAtOnce)
		err := l.committer.DoPatiently(func(b *batch) error {
			if err := b.stillGone(node); err != nil {
				return err
			}
			if err := b.fetchParts(node, ids[:n]); err != nil {
				return err
			}
			r, err := removal(b, node)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			before := r.Accounts
			for _, id := range ids[:n] {
				some, there, err := b.foldPart(id, node, now)
				if err != nil {
					return err
				}
				if there {
					r.Forfeited.Add(some)
					r.Accounts++
				}
			}
			if r.Accounts == before { // they were folded before
				return nil
			}
			return b.setRemoval(node, r)
		}, nil)
		if err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// fetchParts reads all that foldPart will read in one go.
func (b *batch) fetchParts(node string, ids []record.AccountID) error {
	var rows, hours [][]byte
	for _, id := range ids {
		rows = append(append(rows, accountRows(id, node)...), record.PartKey(id, removedNode))
	}
	if err := store.Fetch(b, rows...); err != nil {
		return err
	}
	for _, id := range ids {
		v, there, err := store.Find(b, record.AccountKey(id))
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		rec, err := record.DecodeAccount(v)
		if err != nil {
			return fmt.Errorf("account %x: %w", id, err)
		}
		hours = append(hours, hourRow(id, cmp.Or(rec.Last, b.clock.Now().UnixNano())))
	}
	return store.Fetch(b, hours...)
}

// foldPart merges a node's part of an account with those of removed nodes, and returns
// how much of it was not known to be used.
func (b *batch) foldPart(id record.AccountID, node string, now int64) (lost record.Amounts, there bool, err error) {
	at, left := record.PartKey(id, node), record.PartKey(id, removedNode)
	v, err := b.Get(record.AccountKey(id))
	if errors.Is(err, store.ErrNotFound) { // its key was forgotten
		return lost, false, b.Delete(at)
	}
	if err != nil {
		return lost, false, err
	}
	rec, err := record.DecodeAccount(v)
	if err != nil {
		return lost, false, fmt.Errorf("account %x: %w", id, err)
	}
	if _, there, err = store.Find(b, at); err != nil || !there { // folded before
		return lost, false, err
	}
	part, err := readPart(b, at)
	if err != nil {
		return lost, false, err
	}
	unsettled := part.Reserved.Minus(part.Settled)
	part.Settled = part.Reserved
	key := id.KeyID()
	_, ofKey, err := store.Find(b, record.RecordKey(key))
	if err != nil {
		return lost, false, err
	}
	if ofKey {
		if err := recoverHistory(b, key, &rec, &part, now); err != nil {
			return lost, false, err
		}
	}
	if part.Lineage == rec.Lineage {
		lost = unsettled
	} else { // its window is over, and whoever ended it has counted what was settled
		part.Past.Add(unsettled)
		part = part.Of(rec.Lineage)
	}
	sum, err := readPart(b, left)
	if err != nil {
		return lost, false, err
	}
	sum = sum.Of(rec.Lineage)
	sum.Reserved.Add(part.Reserved)
	sum.Settled.Add(part.Settled)
	sum.Past.Add(part.Past)
	sum.Booked.Add(part.Booked)
	sum.Kinds.Add(part.Kinds)
	return lost, true, errors.Join(
		b.setPart(at, &rec, &record.Part{Lineage: rec.Lineage}), b.Delete(at),
		b.setPart(left, &rec, &sum), b.setAccount(id, !ofKey, &rec))
}
