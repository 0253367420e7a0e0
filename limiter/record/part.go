package record

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Part is one node's part of an account, where several nodes share a store. It is written
// in the transaction that moves the account by the difference, nearly always by that
// node: an account's Reserved is the sum of its parts', and of what a migration or a
// repair has left in the account without a part. So whether a node runs a change twice,
// does not know whether it was committed, or finds after a crash that less was used, the
// step is the same.
type Part struct {
	// Lineage is that of the account when this was written. In another lineage, Reserved
	// and Settled are void.
	Lineage  uint64
	Reserved Amounts
	Settled  Amounts

	// Past and Kinds are what the node has added to those of the account, and Booked
	// is how much of what it used is in the key's history.
	Past   Amounts
	Kinds  TokenKinds
	Booked Amounts
}

// Of is the part as it stands in a lineage.
func (p Part) Of(lineage uint64) Part {
	if p.Lineage != lineage {
		p.Lineage, p.Reserved, p.Settled = lineage, Amounts{}, Amounts{}
		for i := range p.Booked {
			p.Booked[i] = min(p.Booked[i], p.Past[i])
		}
	}
	return p
}

func (p *Part) amounts() []*Amounts {
	return []*Amounts{&p.Reserved, &p.Settled, &p.Booked, &p.Past}
}

const partVersion = 1

// Encode returns the part as it is stored.
func (p *Part) Encode() []byte {
	b := make([]byte, 1, 96)
	b[0] = partVersion
	b = binary.AppendUvarint(b, p.Lineage)
	return appendKinds(appendAmounts(b, p.amounts()...), &p.Kinds)
}

// DecodePart reads what Encode wrote. The error wraps ErrRecord.
func DecodePart(b []byte) (Part, error) {
	var p Part
	if len(b) == 0 || b[0] != partVersion {
		return p, fmt.Errorf("part of an account: %w: unknown version", ErrRecord)
	}
	d := decoder{b: b[1:]}
	p.Lineage = d.uvarint()
	d.amounts(p.amounts()...)
	for _, amounts := range p.amounts() {
		d.bad = d.bad || slices.Min(amounts[:]) < 0
	}
	d.kinds(&p.Kinds)
	if d.bad || len(d.b) != 0 {
		return p, fmt.Errorf("part of an account: %w", ErrRecord)
	}
	return p, nil
}

// PartPrefix is the beginning of the keys of all parts of an account.
func PartPrefix(id AccountID) []byte { return append([]byte(SpaceParts), id[:]...) }

// PartKey is where a node's part of an account is kept.
func PartKey(id AccountID, node string) []byte { return append(PartPrefix(id), node...) }

// NodeKey is where a node keeps what belongs to it alone.
func NodeKey(node, what string) []byte { return []byte(SpaceNodes + node + "/" + what) }

// CommonKey is where nodes keep their common state, which a server that is alone keeps
// in memory, or in a file.
func CommonKey(what string) []byte { return NodeKey("", what) }
