package record

import (
	"encoding/binary"
	"time"

	"github.com/till-proxy/till/token"
)

// How the store is laid out. Every space has a one-letter prefix:
//
//	k/<key id>                   Key, as JSON
//	l/<lookup, 32 bytes>         key id
//	s/<key id>                   salt of a sealed key's box, apart from the
//	                             record so that it can be left out of copies
//	s/<key id>/<number, 8 bytes> the same, of a former string in its grace
//	a/<bucket, 2 bytes><account id, 16 bytes>   Account
//	q/<account id, 16 bytes><node>   Part of an account, where several nodes share it
//	n/<node>/<what>              what a node alone keeps
//	n//<what>                    what nodes have in common, and a single one has
//	                             in memory
//	c/<bucket, 2 bytes>          sum of the accounts in a bucket; see digest
//	d/<unix seconds, 8 bytes><key id>   when to look at a key again
//	p/<key id>/<key id>          a key, and a child of it whose remaining
//	                             budget has not come back yet
//	o/<hook, 8 bytes><message, 16 bytes>   a message not yet delivered to a webhook;
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
	SpaceKeys     = "k/"
	SpaceLookups  = "l/"
	SpaceSalts    = "s/"
	SpaceAccounts = "a/"
	SpaceBuckets  = "c/"
	SpaceParts    = "q/"
	SpaceNodes    = "n/"
	SpaceDue      = "d/"
	spaceHours    = "h/"
	SpaceAudit    = "u/"
	SpaceTokens   = "t/"
	SpaceOnce     = "i/"
	SpaceChildren = "p/"
	SpaceOutbox   = "o/"
	SpaceJobs     = "j/"
)

var (
	MetaSession = []byte("m/session")
	MetaTally   = []byte("m/tally")
	MetaCommit  = []byte("m/commit")
	MetaClock   = []byte("m/clock")
	MetaSecret  = []byte("m/secret")
	MetaAudit   = []byte("m/audit")
)

// AccountID identifies a budget: it is a key's ULID, or a hash of a role's name.
type AccountID [16]byte

func AccountKey(id AccountID) []byte {
	return append(binary.BigEndian.AppendUint16([]byte(SpaceAccounts), BucketOf(id)), id[:]...)
}

func BucketKey(bucket uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte(SpaceBuckets), bucket)
}

func RecordKey(id string) []byte { return append([]byte(SpaceKeys), id...) }

func SaltKey(id string) []byte { return append([]byte(SpaceSalts), id...) }

func FormerSaltKey(id string, number int64) []byte {
	return binary.BigEndian.AppendUint64(append(SaltKey(id), '/'), uint64(number))
}

func LookupKey(lookup token.Lookup) []byte { return append([]byte(SpaceLookups), lookup[:]...) }

func DueKey(unix int64, id string) []byte {
	k := binary.BigEndian.AppendUint64([]byte(SpaceDue), uint64(max(unix, 0)))
	return append(k, id...)
}

func childPrefix(parent string) []byte { return append(append([]byte(SpaceChildren), parent...), '/') }

func ChildKey(parent, child string) []byte { return append(childPrefix(parent), child...) }

func HourPrefix(id string) []byte { return append(append([]byte(spaceHours), id...), '/') }

func HourKey(id string, hour int64) []byte {
	return binary.BigEndian.AppendUint64(HourPrefix(id), uint64(max(hour, 0)))
}

func FromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func AccountOf(key []byte) (id AccountID, ok bool) {
	if len(key) != len(SpaceAccounts)+2+len(id) || string(key[:len(SpaceAccounts)]) != SpaceAccounts {
		return id, false
	}
	copy(id[:], key[len(SpaceAccounts)+2:])
	return id, binary.BigEndian.Uint16(key[len(SpaceAccounts):]) == BucketOf(id)
}

// NumBuckets is how many buckets hold accounts; see the digest.
const NumBuckets = 16384

// BucketOf is the bucket of an account, whose id ends in random bits, of a ULID or of
// a hash.
func BucketOf(id AccountID) uint16 {
	return binary.BigEndian.Uint16(id[14:]) % NumBuckets
}
