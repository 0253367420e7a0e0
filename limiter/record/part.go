package record

import (
	"encoding/binary"
	"fmt"
)

// Part is what one node has of an account, where several share a store. It is written
// by that node alone, in the transaction that moves the account by the difference: an
// account's Reserved is the sum of its parts' and of what nodes that are gone have
// left. So whether a node runs a change twice, does not know whether it was committed,
// or finds after a crash that less was used, the step is the same.
type Part struct {
	Lineage  uint64 // of the account when this was written; of another, this is void
	Reserved Amounts
	Settled  Amounts
}

const partVersion = 1

// Encode returns the part as it is stored.
func (p *Part) Encode() []byte {
	b := make([]byte, 1, 64)
	b[0] = partVersion
	b = binary.AppendUvarint(b, p.Lineage)
	for _, amounts := range []*Amounts{&p.Reserved, &p.Settled} {
		for _, n := range amounts {
			b = binary.AppendVarint(b, n)
		}
	}
	return b
}

// DecodePart reads what Encode wrote. The error wraps ErrRecord.
func DecodePart(b []byte) (Part, error) {
	var p Part
	if len(b) == 0 || b[0] != partVersion {
		return p, fmt.Errorf("part of an account: %w: unknown version", ErrRecord)
	}
	d := decoder{b: b[1:]}
	p.Lineage = d.uvarint()
	for _, amounts := range []*Amounts{&p.Reserved, &p.Settled} {
		for k := range amounts {
			amounts[k] = d.varint()
		}
	}
	if d.bad || len(d.b) != 0 {
		return p, fmt.Errorf("part of an account: %w", ErrRecord)
	}
	for k := range p.Reserved {
		if p.Reserved[k] < 0 || p.Settled[k] < 0 {
			return p, fmt.Errorf("part of an account: %w: %s below zero", ErrRecord, Kind(k))
		}
	}
	return p, nil
}

// PartPrefix is the beginning of the keys of all parts of an account.
func PartPrefix(id AccountID) []byte { return append([]byte(spaceParts), id[:]...) }

// PartKey is where a node's part of an account is kept.
func PartKey(id AccountID, node string) []byte { return append(PartPrefix(id), node...) }

// NodeKey is where a node keeps what is its own alone.
func NodeKey(node, what string) []byte { return []byte(spaceNodes + node + "/" + what) }
