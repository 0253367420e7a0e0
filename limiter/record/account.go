package record

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Account is the durable half of an account. The amounts in Reserved may have been spent;
// nothing beyond them was.
type Account struct {
	Limit    Amounts // NoLimit where unlimited
	Reserved Amounts // for kinds without a limit: what was spent, as last flushed
	Settled  Amounts // spent, as known at the last commit; for reports only
	Lineage  uint64  // raised whenever Reserved starts again from zero; the shadow must agree
	First    int64   // unix nanoseconds of the first use; 0: never
	Last     int64   // unix nanoseconds of the last use, as last flushed
	Pin      string  // address or prefix bound by pin_ip at first use
	Addr     string  // last client address, as last flushed
	Epoch    int64   // Unix time at which the present window began; 0: no window
	Past     Amounts // used in earlier windows
	Kinds    TokenKinds
	Version  int64 // of the key's own record, which must agree; 0 for a role's

	// Given is the part of the limit that is no longer the account's own in this
	// window: what was carved out for children and has not come back, and
	// Returned, which went back to an ancestor.
	Given, Returned Amounts

	// Booked is how much of the account's use in its whole life, renewals
	// included, is in the key's history. After a crash, use that is found beyond
	// that is added to the history.
	Booked Amounts
}

const accountVersion = 5

// Kept is what an account keeps of its limit when it has given some of it away.
func Kept(limit, given Amounts) Amounts {
	for i, n := range limit {
		if n != NoLimit {
			limit[i] = max(n-given[i], 0)
		}
	}
	return limit
}

// Kept is what the account may reserve in total.
func (r *Account) Kept() Amounts { return Kept(r.Limit, r.Given) }

// Counted is what the account adds to the sum over all keys: what it has used, and
// what is reserved until that is given back.
func (r *Account) Counted() Amounts {
	sum := r.Past
	sum.Add(r.Reserved)
	return sum
}

// maxAddrLen bounds an address in a record: an IPv6 prefix with room to spare.
const maxAddrLen = 64

var ErrRecord = errors.New("damaged record")

func (r *Account) Encode() []byte {
	b := make([]byte, 1, 128)
	b[0] = accountVersion
	b = appendAmounts(b, &r.Limit, &r.Reserved, &r.Settled)
	b = binary.AppendUvarint(b, r.Lineage)
	b = binary.AppendVarint(b, r.First)
	b = binary.AppendVarint(b, r.Last)
	for _, s := range []string{r.Pin, r.Addr} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendVarint(b, r.Epoch)
	b = appendKinds(appendAmounts(b, &r.Past), &r.Kinds)
	b = binary.AppendVarint(b, r.Version)
	return appendAmounts(b, &r.Given, &r.Returned, &r.Booked)
}

func appendAmounts(b []byte, all ...*Amounts) []byte {
	for _, amounts := range all {
		for _, n := range amounts {
			b = binary.AppendVarint(b, n)
		}
	}
	return b
}

func appendKinds(b []byte, kinds *TokenKinds) []byte {
	for _, n := range kinds.All() {
		b = binary.AppendVarint(b, *n)
	}
	return b
}

func DecodeAccount(b []byte) (Account, error) {
	var r Account
	if len(b) == 0 || b[0] != accountVersion {
		return r, fmt.Errorf("account: %w: unknown version", ErrRecord)
	}
	d := decoder{b: b[1:]}
	d.amounts(&r.Limit, &r.Reserved, &r.Settled)
	r.Lineage = d.uvarint()
	r.First = d.varint()
	r.Last = d.varint()
	r.Pin = d.text()
	r.Addr = d.text()
	r.Epoch = d.varint()
	d.amounts(&r.Past)
	d.kinds(&r.Kinds)
	r.Version = d.varint()
	d.amounts(&r.Given, &r.Returned, &r.Booked)
	if d.bad || len(d.b) != 0 {
		return r, fmt.Errorf("account: %w", ErrRecord)
	}
	for k := range r.Limit {
		if r.Limit[k] < NoLimit || r.Reserved[k] < 0 || r.Settled[k] < 0 || r.Past[k] < 0 ||
			r.Given[k] < 0 || r.Returned[k] < 0 || r.Booked[k] < 0 {
			return r, fmt.Errorf("account: %w: %s below zero", ErrRecord, Kind(k))
		}
	}
	return r, nil
}

// decoder reads what the encoders above wrote and remembers any failure.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) amounts(all ...*Amounts) {
	for _, amounts := range all {
		for k := range amounts {
			amounts[k] = d.varint()
		}
	}
}

func (d *decoder) kinds(kinds *TokenKinds) {
	for _, n := range kinds.All() {
		*n = d.varint()
	}
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad, d.b = true, nil
		return
	}
	d.b = d.b[n:]
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > maxAddrLen || n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// Forfeit makes everything up to the limit count as spent, and reports whether that
// changed anything.
func (r *Account) Forfeit(limit Amounts) (changed bool) {
	for k, n := range limit {
		if n != NoLimit && r.Reserved[k] < n {
			r.Reserved[k], changed = n, true
		}
	}
	return changed
}
