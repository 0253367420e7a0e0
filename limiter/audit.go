package limiter

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The audit log is a chain: each entry holds the hash of the one before, and
// its own over everything else in it. Entries are added on the committer, in
// the transaction of the act itself, so none is without the other; the head
// of the chain stands beside them and in the digest's root, so a store that
// lost its last entries is found out.

// AuditEntry is one thing that was done, or that became of a key.
type AuditEntry struct {
	Seq  uint64
	Time time.Time
	// Actor is who did it: the name of a Caller; "till" for what happened by
	// the rules of a key.
	Actor  string
	From   string // the actor's address
	Action string // such as "key.create"
	Key    string // id of the key or token that it was done to; may be empty
	// Changes are the fields that changed, by the names of the management
	// API, without secrets.
	Changes    map[string]record.Delta
	Prev, Hash AuditHash
}

// AuditHash is the SHA-256 over an entry's canonical form without its hash.
type AuditHash [sha256.Size]byte

func (h AuditHash) String() string { return hex.EncodeToString(h[:]) }

// The actions on keys. Those on other things are beside them.
const (
	ActKeyCreate    = "key.create"
	ActKeyUpdate    = "key.update"
	ActKeyGrant     = "key.grant"
	ActKeySuspend   = "key.suspend"
	ActKeyResume    = "key.resume"
	ActKeyRevoke    = "key.revoke"
	ActKeyForget    = "key.forget"
	ActKeyExhausted = "key.exhausted"
	ActKeyExpired   = "key.expired"
	ActClockRepair  = "clock.repair"
	ActStoreRepair  = "store.repair"
	ActStoreBackup  = "store.backup"
	ActStoreRestore = "store.restore"
	ActAuditPrune   = "audit.prune"
	ActTokenCreate  = "token.create"
	ActTokenRevoke  = "token.revoke"
	ActTokenRefused = "token.refused" // an unknown token was shown
	ActRefused      = "act.refused"   // a caller lacked a permission
)

// seal gives the entry its hash, and returns its canonical form. In that, hash
// comes after from and before key: the rest is the same with it and without.
func (e *AuditEntry) seal() ([]byte, error) {
	changes := make(map[string]any, len(e.Changes))
	for name, d := range e.Changes {
		delta := make(map[string]any, 2)
		if d.Before != nil {
			delta["before"] = d.Before
		}
		if d.After != nil {
			delta["after"] = d.After
		}
		changes[name] = delta
	}
	line, err := appendCanonical(make([]byte, 0, 1024), map[string]any{
		"action": e.Action, "actor": e.Actor, "changes": changes, "from": e.From,
	})
	if err != nil {
		return nil, err
	}
	tail, err := appendCanonical(make([]byte, 0, 256), map[string]any{
		"key": e.Key, "prev": e.Prev.String(), "seq": e.Seq, "time": e.Time.UTC().Format(time.RFC3339Nano),
	})
	if err != nil {
		return nil, err
	}
	line, tail = append(line[:len(line)-1], ','), tail[1:]
	e.Hash = sha256.Sum256(append(line, tail...))
	line = append(line, `"hash":"`...)
	line = append(append(line, e.Hash.String()...), `",`...)
	return append(line, tail...), nil
}

// chain is where the audit log ends, and where what is left of it begins.
type chain struct {
	seq  uint64 // of the last entry; 0: there is none
	hash AuditHash
	// gone is the last entry that was pruned; 0: none was.
	gone     uint64
	goneHash AuditHash
}

const chainLen = 2 * (8 + sha256.Size)

func (c *chain) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, chainLen), c.seq)
	b = binary.BigEndian.AppendUint64(append(b, c.hash[:]...), c.gone)
	return append(b, c.goneHash[:]...)
}

func decodeChain(b []byte) (c chain, err error) {
	if len(b) != chainLen {
		return c, fmt.Errorf("audit log: %w", record.ErrRecord)
	}
	c.seq = binary.BigEndian.Uint64(b)
	copy(c.hash[:], b[8:])
	c.gone = binary.BigEndian.Uint64(b[8+sha256.Size:])
	copy(c.goneHash[:], b[16+sha256.Size:])
	if c.gone > c.seq {
		return c, fmt.Errorf("audit log: %w", record.ErrRecord)
	}
	return c, nil
}

func auditKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(record.SpaceAudit), seq)
}

// readChain reads where the audit log ends, and that its last entry is there.
func readChain(r store.Reader) (chain, error) {
	b, err := r.Get(record.MetaAudit)
	if errors.Is(err, store.ErrNotFound) {
		return chain{}, nil
	}
	if err != nil {
		return chain{}, err
	}
	c, err := decodeChain(b)
	if err != nil || c.seq == c.gone {
		return c, err
	}
	line, err := r.Get(auditKey(c.seq))
	if err != nil {
		return c, store.Doubt("entry %d of the audit log, its last, cannot be read (%v)", c.seq, err)
	}
	if e, err := parseEntry(line); err != nil || e.hash != c.hash {
		return c, store.Doubt("entry %d of the audit log, its last, is not the one that was committed", c.seq)
	}
	return c, nil
}

// auditLog is the log as of the last commit, and as the batch that is being written
// continues it.
type auditLog struct {
	head atomic.Pointer[chain]
	next chain
}

func (a *auditLog) Begin() { a.next = *a.head.Load() }

// add writes an entry in the transaction of the act that it tells of. Its number,
// its time and the hash before it are given here: a batch that is begun again
// numbers its entries again.
func (a *auditLog) add(t *transaction, at time.Time, e *AuditEntry) error {
	sealed := *e
	sealed.Seq, sealed.Time, sealed.Prev = a.next.seq+1, at, a.next.hash
	line, err := sealed.seal()
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if err := t.Set(auditKey(sealed.Seq), line); err != nil {
		return err
	}
	a.next.seq, a.next.hash = sealed.Seq, sealed.Hash
	return nil
}

func (a *auditLog) Finish(t *transaction) error {
	if a.next == *a.head.Load() {
		return nil
	}
	return t.Set(record.MetaAudit, a.next.encode())
}

func (a *auditLog) Committed() {
	if a.next != *a.head.Load() {
		next := a.next
		a.head.Store(&next)
	}
}

// Interface guards
var _ participant = (*auditLog)(nil)
