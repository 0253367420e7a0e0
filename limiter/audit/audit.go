// Package audit is the audit log: a chain of entries, each of which holds the hash of
// the one before. An entry is written in the transaction of the act that it records,
// in a canonical form that anybody can verify.
//
// It knows keys and callers by name only; who may read which entry is decided by the
// packages above it.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The audit log is a chain: each entry holds the hash of the one before, and its own
// hash over all its other fields. The committer adds entries in the transaction of
// the act itself, so neither exists without the other. The head of the chain is
// stored beside the entries and in the digest's root, so a store that has lost its
// last entries is detected.

// Entry is one thing that was done, or that happened to a key.
type Entry struct {
	Seq  uint64
	Time time.Time
	// Actor is who did it: the name of a Caller, or "till" for an effect of a
	// key's rules.
	Actor  string
	From   string // the actor's address
	Action string // such as "key.create"
	Key    string // id of the key or token that it was done to; may be empty
	// Changes are the fields that changed, by the names of the management
	// API, without secrets.
	Changes    map[string]record.Delta
	Prev, Hash Hash
}

// Hash is the SHA-256 over an entry's canonical form without its hash.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// These are the actions that entries name.
const (
	ActKeyCreate    = "key.create"
	ActKeyUpdate    = "key.update"
	ActKeyGrant     = "key.grant"
	ActKeyRotate    = "key.rotate"
	ActKeyEndGrace  = "key.end_grace" // a former string stopped working before its time
	ActKeySuspend   = "key.suspend"
	ActKeyResume    = "key.resume"
	ActKeyRevoke    = "key.revoke"
	ActKeyLeak      = "key.leak"   // its string was found in the open, so it was revoked
	ActKeyReturn    = "key.return" // a child's remaining budget went back to its parent
	ActKeyStale     = "key.stale"  // it was reported as stale
	ActKeyForget    = "key.forget"
	ActKeyExhausted = "key.exhausted"
	ActKeyExpired   = "key.expired"
	ActTokenCreate  = "token.create"
	ActTokenRevoke  = "token.revoke"
	ActTokenLeak    = "token.leak"
	ActTokenRefused = "token.refused" // an unknown token was presented
	ActRefused      = "act.refused"   // a caller lacked a permission
	ActConsoleLink  = "console.link"  // a link was made that signs in to the console
	ActSealRotate   = "seal.rotate"   // there is a new seal key
	ActLockdownSet  = "lockdown.set"
	ActLockdownLift = "lockdown.lift"
	ActClockRepair  = "clock.repair"
	ActStoreRepair  = "store.repair"
	ActStoreBackup  = "store.backup"
	ActStoreRestore = "store.restore"
	ActStoreMigrate = "store.migrate"
	ActNodeRemove   = "node.remove"
	ActAuditPrune   = "audit.prune"
)

// seal computes the entry's hash and returns its canonical form. There, the hash
// stands between from and key; the rest is the same with or without it.
func (e *Entry) seal() ([]byte, error) {
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

// Chain says where the audit log ends, and where the part that was not pruned begins.
type Chain struct {
	Seq  uint64 // of the last entry; 0: the log is empty
	Hash Hash
	// gone is the last entry that was pruned; 0: none was.
	gone     uint64
	goneHash Hash
}

const chainLen = 2 * (8 + sha256.Size)

func (c *Chain) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, chainLen), c.Seq)
	b = binary.BigEndian.AppendUint64(append(b, c.Hash[:]...), c.gone)
	return append(b, c.goneHash[:]...)
}

func decodeChain(b []byte) (c Chain, err error) {
	if len(b) != chainLen {
		return c, fmt.Errorf("audit log: %w", record.ErrRecord)
	}
	c.Seq = binary.BigEndian.Uint64(b)
	copy(c.Hash[:], b[8:])
	c.gone = binary.BigEndian.Uint64(b[8+sha256.Size:])
	copy(c.goneHash[:], b[16+sha256.Size:])
	if c.gone > c.Seq {
		return c, fmt.Errorf("audit log: %w", record.ErrRecord)
	}
	return c, nil
}

func EntryKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(record.SpaceAudit), seq)
}

// ReadHead reads where the audit log ends.
func ReadHead(r store.Reader) (Chain, error) {
	b, there, err := store.Find(r, record.MetaAudit)
	if err != nil || !there {
		return Chain{}, err
	}
	return decodeChain(b)
}

// ReadChain reads where the audit log ends, and checks that its last entry is
// present.
func ReadChain(r store.Reader) (Chain, error) {
	c, err := ReadHead(r)
	if err != nil || c.Seq == c.gone {
		return c, err
	}
	line, err := r.Get(EntryKey(c.Seq))
	if err != nil {
		return c, store.Doubt("entry %d of the audit log, its last, cannot be read (%v)", c.Seq, err)
	}
	if e, err := ParseLine(line); err != nil || e.Hash != c.Hash {
		return c, store.Doubt("entry %d of the audit log, its last, is not the one that was committed", c.Seq)
	}
	return c, nil
}

// Log is the log as of the last commit that memory knows of, and as the batch being
// written continues it.
type Log struct {
	// head is the end of the log. In a store that several nodes share, others may
	// have written more since: there it is the end that this node knows of.
	head atomic.Pointer[Chain]

	next, from Chain // the end after this batch, and before
	known      bool  // whether from is known
}

// Known is the end of the log, as far as memory knows.
func (a *Log) Known() Chain {
	if head := a.head.Load(); head != nil {
		return *head
	}
	return Chain{}
}

// Begin implements commit.Participant.
func (a *Log) Begin(t *commit.Transaction) error {
	a.known = false
	if !t.Shared() {
		a.from, a.known = a.Known(), true
		a.next = a.from
	}
	return nil
}

// end returns the end of the log after this batch, for the caller to change.
func (a *Log) end(t *commit.Transaction) (*Chain, error) {
	if a.known {
		return &a.next, nil
	}
	head, err := ReadHead(t)
	if err != nil {
		return nil, fmt.Errorf("reading the end of the audit log: %w", err)
	}
	if known := a.head.Load(); known != nil {
		if err := known.precedes(&head); err != nil {
			return nil, err
		}
	}
	a.from, a.next, a.known = head, head, true
	return &a.next, nil
}

// precedes returns an error if the log ends earlier than it once did.
func (c *Chain) precedes(head *Chain) error {
	if head.Seq < c.Seq {
		return store.Doubt("the audit log had reached entry %d, and the store says that it ends with entry %d", c.Seq, head.Seq)
	}
	return nil
}

// Succeeds returns an error if the log ends earlier than former had known.
func (a *Log) Succeeds(former *Log) error { return former.head.Load().precedes(a.head.Load()) }

// Add writes an entry in the transaction of the act that it records. Add assigns its
// number, its time and the hash of the entry before it: a batch that is run again
// numbers its entries again.
func (a *Log) Add(t *commit.Transaction, at time.Time, e *Entry) error {
	end, err := a.end(t)
	if err != nil {
		return err
	}
	sealed := *e
	sealed.Seq, sealed.Time, sealed.Prev = end.Seq+1, at, end.Hash
	line, err := sealed.seal()
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if err := t.Set(EntryKey(sealed.Seq), line); err != nil {
		return err
	}
	end.Seq, end.Hash = sealed.Seq, sealed.Hash
	return nil
}

// Finish implements commit.Participant.
func (a *Log) Finish(t *commit.Transaction) error {
	if !a.known || a.next == a.from {
		return nil
	}
	return t.Set(record.MetaAudit, a.next.encode())
}

// Committed implements commit.Participant.
func (a *Log) Committed() {
	if a.known && a.next != a.from {
		a.Follow(a.next)
	}
}

// Follow notes the end of the log as it was read from the store, unless memory knows of
// a later one.
func (a *Log) Follow(head Chain) {
	for {
		known := a.head.Load()
		if known != nil && (known.Seq > head.Seq || *known == head) || a.head.CompareAndSwap(known, &head) {
			return
		}
	}
}

// Interface guards
var _ commit.Participant = (*Log)(nil)
