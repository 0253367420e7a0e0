package limiter

import (
	"fmt"
	"reflect"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// What tests of several nodes look at.

// CheckParts holds every account of a shared store against the parts that its nodes
// have of it.
func CheckParts(r store.Reader) error { return checkParts(r, false) }

// CheckPartsAfterRepair is CheckParts of a store that was repaired: what the parts had
// before is in the accounts alone.
func CheckPartsAfterRepair(r store.Reader) error { return checkParts(r, true) }

func checkParts(r store.Reader, repaired bool) error {
	return r.Scan([]byte(record.SpaceAccounts), nil, false, func(at, value []byte) (bool, error) {
		id := record.AccountID(at[len(at)-len(record.AccountID{}):])
		acct, err := record.DecodeAccount(value)
		if err != nil {
			return false, err
		}
		var sum record.Part
		err = r.Scan(record.PartPrefix(id), nil, false, func(at, value []byte) (bool, error) {
			part, err := record.DecodePart(value)
			if err != nil {
				err = fmt.Errorf("%s: %w; the account is %+v", at[len(record.PartPrefix(id)):], err, acct)
			}
			part = part.Of(acct.Lineage)
			sum.Reserved.Add(part.Reserved)
			sum.Settled.Add(part.Settled)
			sum.Past.Add(part.Past)
			return true, err
		})
		if err != nil {
			return false, err
		}
		for k := range sum.Reserved {
			// Whoever begins a window counts as past what the others had settled in the
			// one before.
			more := sum.Reserved[k] > acct.Reserved[k] || sum.Settled[k] > acct.Settled[k] || sum.Past[k] > acct.Past[k]
			if more || !repaired && (sum.Reserved[k] != acct.Reserved[k] || sum.Settled[k] != acct.Settled[k]) {
				return false, fmt.Errorf("account %x: %d %s are reserved, %d settled and %d past, and the parts have %d, %d and %d", id,
					acct.Reserved[k], record.Kind(k), acct.Settled[k], acct.Past[k], sum.Reserved[k], sum.Settled[k], sum.Past[k])
			}
			if kept := acct.Kept()[k]; acct.Limit[k] != record.NoLimit && sum.Settled[k] > sum.Reserved[k] {
				return false, fmt.Errorf("account %x: %d %s are settled and %d reserved of %d", id, sum.Settled[k], record.Kind(k), sum.Reserved[k], kept)
			}
		}
		return true, nil
	})
}

// Reserved is what the books say that all nodes have reserved of a key in its present
// window, and so can have used.
func Reserved(r store.Reader, id string) (record.Amounts, error) {
	_, acct, err := record.ReadKey(r, id)
	return acct.Reserved, err
}

// PartOf is a node's part of a key.
func PartOf(r store.Reader, id, node string) (record.Part, error) {
	_, acct, err := record.ReadKey(r, id)
	if err != nil {
		return record.Part{}, err
	}
	account, err := record.KeyAccount(id)
	if err != nil {
		return record.Part{}, err
	}
	return ownPart(r, node, account, &acct)
}

// Unspent is what a node has reserved of a key and has not used, as its memory knows. The
// store may say that more is reserved: the answer to that commit was lost. What runs may hold
// more than that, once answers have cost more than their bounds.
func (l *Limiter) Unspent(id string, stored *record.Part) (n record.Amounts, known bool) {
	for _, k := range l.everyLive() {
		k.mu.Lock()
		if k.key.ID == id {
			known = true
			for i, reserved := range k.reserved {
				n[i] = max(k.held[i], max(reserved, stored.Reserved[i])-k.spent[i])
			}
		}
		k.mu.Unlock()
	}
	return n, known
}

// Windows are those that a request was admitted in, of its key and of its role.
func (g *Grant) Windows() (key, role int64) { return g.epoch, g.roleEpoch }

// AgreesOn holds what memory knows of a key against the store: its record, what was
// given away, and what this node has reserved.
func (l *Limiter) AgreesOn(id string) error {
	k, err := l.load(id)
	if err != nil {
		return err
	}
	return l.store.View(func(r store.Reader) error {
		key, acct, err := record.ReadKey(r, id)
		if err != nil {
			return err
		}
		own, err := ownPart(r, l.node(), k.account.id, &acct)
		if err != nil {
			return err
		}
		children, err := record.CountChildren(r, id)
		if err != nil {
			return err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		mine := k.key.Clone()
		mine.Due = key.Due // is of no interest in memory
		switch {
		case !reflect.DeepEqual(mine, key):
			return fmt.Errorf("memory has version %d of the record, and the store %d:\n%+v\n%+v", mine.Version, key.Version, mine, key)
		case k.children != children:
			return fmt.Errorf("memory knows %d children, and the store %d", k.children, children)
		case k.lineage != acct.Lineage:
			return nil // another node has begun a window
		case k.reserved != own.Reserved:
			return fmt.Errorf("memory has %v reserved, and the store %v", k.reserved, own.Reserved)
		case k.given != acct.Given:
			return fmt.Errorf("memory has %v given away, and the store %v", k.given, acct.Given)
		}
		return nil
	})
}

// FoldNode folds the parts of a node, as RemoveNode does once the node was seen to be
// gone.
func (l *Limiter) FoldNode(name string) error {
	ids, _, err := partsOf(l.store, name, nil)
	if err != nil {
		return err
	}
	return l.foldParts(name, ids)
}
