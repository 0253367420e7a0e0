package limiter

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/till-proxy/till/token"
)

// How the store is laid out. Every space has a one-letter prefix:
//
//	k/<key id>                   Key, as JSON
//	l/<lookup, 32 bytes>         key id
//	s/<key id>                   salt of a sealed key's box, apart from the
//	                             record so that it can be left out of copies
//	s/<key id>/<number, 8 bytes> the same, of a former string in its grace
//	a/<bucket, 2 bytes><account id, 16 bytes>   accountRecord
//	c/<bucket, 2 bytes>          sum of the accounts in a bucket; see digest
//	d/<unix seconds, 8 bytes><key id>   when to look at a key again
//	p/<key id>/<key id>          a key, and a child of it whose rest has not
//	                             come back yet
//	o/<hook, 8 bytes><message, 16 bytes>   what a webhook is still to be told;
//	                             see outbox.go
//	h/<key id>/<hour, 8 bytes>   bucketRecord: history of one hour
//	x/<kind>…                    indexes; see index.go
//	j/<number, 8 bytes>          Job, as JSON
//	u/<seq, 8 bytes>             entry of the audit log, as canonical JSON
//	i/k/<hash, 32 bytes>         onceRecord: a call under an idempotency key
//	i/t/<time, 8 bytes><hash, 32 bytes>   when that was
//	t/i/<token id>  t/n/<name>   AdminToken, as JSON; token id
//	m/audit                      where the audit log ends
//	m/format  m/session  m/tally  m/commit   what the store is, who has it,
//	                             its sums, and at which commit it is
//	m/clock                      Unix nanoseconds: time does not go below
//	m/secret                     of credentials' fingerprints
const (
	spaceKeys     = "k/"
	spaceLookups  = "l/"
	spaceSalts    = "s/"
	spaceAccounts = "a/"
	spaceBuckets  = "c/"
	spaceDue      = "d/"
	spaceHours    = "h/"
	spaceAudit    = "u/"
	spaceTokens   = "t/"
	spaceOnce     = "i/"
	spaceChildren = "p/"
	spaceOutbox   = "o/"
)

var (
	metaSession = []byte("m/session")
	metaTally   = []byte("m/tally")
	metaCommit  = []byte("m/commit")
	metaClock   = []byte("m/clock")
	metaSecret  = []byte("m/secret")
	metaAudit   = []byte("m/audit")
)

// accountID names a budget: a key's ULID, or a hash of a role's name.
type accountID [16]byte

func accountKey(id accountID) []byte {
	return append(binary.BigEndian.AppendUint16([]byte(spaceAccounts), bucketOf(id)), id[:]...)
}

func bucketKey(bucket uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte(spaceBuckets), bucket)
}

func recordKey(id string) []byte { return append([]byte(spaceKeys), id...) }
func saltKey(id string) []byte   { return append([]byte(spaceSalts), id...) }

func formerSaltKey(id string, number int64) []byte {
	return binary.BigEndian.AppendUint64(append(saltKey(id), '/'), uint64(number))
}

func lookupKey(lookup token.Lookup) []byte { return append([]byte(spaceLookups), lookup[:]...) }

func dueKey(unix int64, id string) []byte {
	k := binary.BigEndian.AppendUint64([]byte(spaceDue), uint64(max(unix, 0)))
	return append(k, id...)
}

func childPrefix(parent string) []byte { return append(append([]byte(spaceChildren), parent...), '/') }

func childKey(parent, child string) []byte { return append(childPrefix(parent), child...) }

func hourPrefix(id string) []byte { return append(append([]byte(spaceHours), id...), '/') }

func hourKey(id string, hour int64) []byte {
	return binary.BigEndian.AppendUint64(hourPrefix(id), uint64(max(hour, 0)))
}

// accountRecord is the durable half of an account. What stands in Reserved
// may have been spent; nothing beyond it was.
type accountRecord struct {
	Limit    Amounts // NoLimit where unlimited
	Reserved Amounts // for kinds without limit: what was spent, as last flushed
	Settled  Amounts // spent as known at the last commit; only for reports
	Lineage  uint64  // raised whenever Reserved starts anew; the shadow must agree
	First    int64   // unix nanoseconds of the first use; 0: never
	Last     int64   // unix nanoseconds of the last use, as last flushed
	Pin      string  // address or prefix bound by pin_ip at first use
	Addr     string  // last client address, as last flushed
	Epoch    int64   // Unix time at which the present window began; 0: none did
	Past     Amounts // used in windows before
	Kinds    TokenKinds
	Version  int64 // of the key's own record, which must agree; 0 for a role's

	// Given is what of the limit is not the account's own any more in this
	// window: carved out for children, as far as it did not come back, and
	// Returned, which went back to an ancestor.
	Given, Returned Amounts

	// Booked is how much of what was used in its whole life, renewals included,
	// stands in the key's history. What a crash finds beyond that is added to it.
	Booked Amounts
}

const accountRecordVersion = 5

// kept is what of a limit is left to an account that gave some of it away.
func kept(limit, given Amounts) Amounts {
	for i, n := range limit {
		if n != NoLimit {
			limit[i] = max(n-given[i], 0)
		}
	}
	return limit
}

// kept is what the account may reserve in all.
func (r *accountRecord) kept() Amounts { return kept(r.Limit, r.Given) }

// counted is what the account adds to the sum over all keys: what it has used,
// and what is reserved, until that was given back.
func (r *accountRecord) counted() Amounts {
	sum := r.Past
	sum.add(r.Reserved)
	return sum
}

// maxAddrLen bounds an address in a record: an IPv6 prefix with room to spare.
const maxAddrLen = 64

var errRecord = errors.New("damaged record")

func (r *accountRecord) encode() []byte {
	b := make([]byte, 1, 128)
	b[0] = accountRecordVersion
	for _, amounts := range []*Amounts{&r.Limit, &r.Reserved, &r.Settled} {
		for _, n := range amounts {
			b = binary.AppendVarint(b, n)
		}
	}
	b = binary.AppendUvarint(b, r.Lineage)
	b = binary.AppendVarint(b, r.First)
	b = binary.AppendVarint(b, r.Last)
	for _, s := range []string{r.Pin, r.Addr} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendVarint(b, r.Epoch)
	for _, n := range r.Past {
		b = binary.AppendVarint(b, n)
	}
	for _, n := range r.Kinds.all() {
		b = binary.AppendVarint(b, *n)
	}
	b = binary.AppendVarint(b, r.Version)
	for _, amounts := range []*Amounts{&r.Given, &r.Returned, &r.Booked} {
		for _, n := range amounts {
			b = binary.AppendVarint(b, n)
		}
	}
	return b
}

func decodeAccount(b []byte) (accountRecord, error) {
	var r accountRecord
	if len(b) == 0 || b[0] != accountRecordVersion {
		return r, fmt.Errorf("account: %w: unknown version", errRecord)
	}
	d := decoder{b: b[1:]}
	for _, amounts := range []*Amounts{&r.Limit, &r.Reserved, &r.Settled} {
		for k := range amounts {
			amounts[k] = d.varint()
		}
	}
	r.Lineage = d.uvarint()
	r.First = d.varint()
	r.Last = d.varint()
	r.Pin = d.text(maxAddrLen)
	r.Addr = d.text(maxAddrLen)
	r.Epoch = d.varint()
	for k := range r.Past {
		r.Past[k] = d.varint()
	}
	for _, n := range r.Kinds.all() {
		*n = d.varint()
	}
	r.Version = d.varint()
	for _, amounts := range []*Amounts{&r.Given, &r.Returned, &r.Booked} {
		for k := range amounts {
			amounts[k] = d.varint()
		}
	}
	if d.bad || len(d.b) != 0 {
		return r, fmt.Errorf("account: %w", errRecord)
	}
	for k := range r.Limit {
		if r.Limit[k] < NoLimit || r.Reserved[k] < 0 || r.Settled[k] < 0 || r.Past[k] < 0 ||
			r.Given[k] < 0 || r.Returned[k] < 0 || r.Booked[k] < 0 {
			return r, fmt.Errorf("account: %w: %s below zero", errRecord, Kind(k))
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

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad, d.b = true, nil
		return
	}
	d.b = d.b[n:]
}

func (d *decoder) text(limit int) string {
	n := d.uvarint()
	if n > uint64(limit) || n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}
