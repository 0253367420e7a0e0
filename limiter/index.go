package limiter

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Indexes are entries of the store without a value, written in the transaction
// of the record they lead to, so that a list of a million keys costs what its
// page costs. They hold nothing that the records do not, so backups leave them
// out, and a repair makes them again.
//
//	x/<kind><value> 0x00 <key id>            by what a record says
//	x/l<minute of last use, 8 bytes><key id>  by what its account says
//	x/e<second of the end, 8 bytes><key id>   for forgetting ended keys
//
// An id begins with the moment of minting, so entries of one value are in
// the order of minting.
const spaceIndexes = "x/"

const (
	byOwner       = 'o'
	byRole        = 'r'
	byStatus      = 's' // as recorded; see statussources.go
	byUpstream    = 'u'
	byCreator     = 'c'
	byToken       = 't' // the admin token that minted it
	byName        = 'n' // in small letters
	byRenewal     = 'w' // renewing keys, which may be exhausted without an end
	byParent      = 'p' // children, whose status depends on the keys above them
	byFingerprint = 'f' // of the real keys that it depends on
	byLastUse     = 'l'
	byEnd         = 'e'
)

// idLen is the length of a key's id.
const idLen = len(record.IDPrefix) + ulid.EncodedSize

func indexSpace(kind byte) []byte { return append([]byte(spaceIndexes), kind) }

// indexPrefix is the beginning of all entries of a value.
func indexPrefix(kind byte, value string) []byte {
	k := append(indexSpace(kind), strings.ReplaceAll(value, "\x00", "")...)
	return append(k, 0)
}

func indexTime(kind byte, at int64, id string) []byte {
	return append(binary.BigEndian.AppendUint64(indexSpace(kind), uint64(max(at, 0))), id...)
}

// entriesUntil lists entries of a space that is in order of time, no more than most of them:
// those behind the entry after and not later than until, in the unit of the space.
func entriesUntil(r store.Reader, space, after []byte, until int64, most int) (found []position, err error) {
	err = r.Scan(space, after, false, func(key, _ []byte) (bool, error) {
		at := key[len(space):]
		if len(at) < 8 {
			return true, nil // of no key
		}
		if binary.BigEndian.Uint64(at) > uint64(max(until, 0)) {
			return false, nil
		}
		found = append(found, position{id: string(at[8:]), at: bytes.Clone(key)})
		return len(found) < most, nil
	})
	return found, err
}

// position is where a key stands in an index, or in the order of a query.
type position struct {
	id string
	at []byte // to go on after it
}

func idsOf(some []position) []string {
	ids := make([]string, len(some))
	for i := range some {
		ids[i] = some[i].id
	}
	return ids
}

// idOf is the key that an index entry, or a key's own record, is about.
func idOf(entry []byte) string { return string(entry[max(len(entry)-idLen, 0):]) }

// indexKeys are the index entries of a record.
func indexKeys(k *record.Key) [][]byte {
	keys := make([][]byte, 0, 8)
	add := func(kind byte, value string) {
		if value != "" {
			keys = append(keys, append(indexPrefix(kind, value), k.ID...))
		}
	}
	add(byStatus, string(k.Recorded()))
	add(byUpstream, k.Upstream)
	add(byOwner, k.Owner)
	add(byRole, k.Role)
	add(byCreator, k.CreatedBy)
	add(byToken, k.Token)
	add(byName, strings.ToLower(k.Name))
	add(byRenewal, string(k.Renews))
	if k.Attached() {
		keys = append(keys, append(indexPrefix(byParent, ""), k.ID...))
	}
	add(byFingerprint, k.Fingerprint)
	for i := range k.Former {
		add(byFingerprint, k.Former[i].Fingerprint)
	}
	if k.EndedStatus != "" {
		keys = append(keys, indexTime(byEnd, k.EndedAt.Unix(), k.ID))
	}
	return keys
}

// lastUseKey is the index entry of an account. A key that was never used
// is placed by when it was minted.
func lastUseKey(id record.AccountID, last int64) []byte {
	const perMinute = int64(60)
	minted := int64(ulid.ULID(id).Time()) / 1000
	return indexTime(byLastUse, max(last/1e9, minted)/perMinute, id.KeyID())
}
