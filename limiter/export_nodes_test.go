package limiter

import (
	"fmt"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// What tests of several nodes look at.

// CheckParts holds every account of a shared store against the parts that its nodes
// have of it.
func CheckParts(r store.Reader) error {
	return r.Scan([]byte(record.SpaceAccounts), nil, false, func(at, value []byte) (bool, error) {
		id := record.AccountID(at[len(at)-len(record.AccountID{}):])
		acct, err := record.DecodeAccount(value)
		if err != nil {
			return false, err
		}
		var sum record.Part
		err = r.Scan(record.PartPrefix(id), nil, false, func(_, value []byte) (bool, error) {
			part, err := record.DecodePart(value)
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
			if sum.Reserved[k] != acct.Reserved[k] || sum.Settled[k] != acct.Settled[k] || sum.Past[k] > acct.Past[k] {
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

// Own is what memory and the store say of this node's part of a key's budget: what is
// reserved, and what may be at most.
func (l *Limiter) Own(id string) (memory, stored, limit, kept record.Amounts, err error) {
	k, err := l.load(id)
	if err != nil {
		return memory, stored, limit, kept, err
	}
	err = l.store.View(func(r store.Reader) error {
		_, acct, err := record.ReadKey(r, id)
		if err != nil {
			return err
		}
		own, err := ownPart(r, l.node(), k.account.id, &acct)
		stored, kept = own.Reserved, mine(&acct, &own)
		return err
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reserved, stored, k.limit, kept, err
}
