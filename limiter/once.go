package limiter

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A caller who does not know whether a call was done may send it again under the same
// idempotency key, and it is done only once. That it was done is written in the same
// transaction, together with its entry in the audit log.

const (
	// keepOnce is how long a call is remembered.
	keepOnce = 24 * time.Hour
	// maxOnce bounds how many calls are remembered at a time.
	maxOnce = 100_000
	// keptOnce of them are reserved for the operator, whom no other caller can
	// shut out.
	keptOnce = 10_000
	// MaxOnceKey bounds an idempotency key, in bytes.
	MaxOnceKey = 255
)

// These are the answers that a call under an idempotency key can get besides its own.
var (
	// ErrReplayed says that the call was done before, and was not done again.
	ErrReplayed = errors.New("this call was done before, under this Idempotency-Key")
	// ErrReused says that the key stands for another call.
	ErrReused = errors.New("this Idempotency-Key was used for another call in the last 24 hours: use a new one for each")
	// errOnceFull is an InvalidError's message when no more keys can be remembered.
	errOnceFull = fmt.Sprintf("cannot be taken: more than %d are known, and no more are kept; send none, or wait", maxOnce-keptOnce)
)

// onceRecord is the record of a call.
type onceRecord struct {
	at    time.Time
	call  [sha256.Size]byte
	try   [16]byte
	about string // id of the key, token or job that it was about
}

const onceHead = 8 + sha256.Size + 16

func (r *onceRecord) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, onceHead+len(r.about)), uint64(r.at.UnixNano()))
	return append(append(append(b, r.call[:]...), r.try[:]...), r.about...)
}

func decodeOnce(b []byte) (r onceRecord, err error) {
	if len(b) < onceHead {
		return r, fmt.Errorf("idempotency key: %w", record.ErrRecord)
	}
	r.at = time.Unix(0, int64(binary.BigEndian.Uint64(b)))
	copy(r.call[:], b[8:])
	copy(r.try[:], b[8+sha256.Size:])
	r.about = string(b[onceHead:])
	return r, nil
}

func onceKey(id [sha256.Size]byte) []byte { return append([]byte(record.SpaceOnce+"k/"), id[:]...) }

func onceTimeKey(at time.Time, id [sha256.Size]byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte(record.SpaceOnce+"t/"), uint64(at.UnixNano()))
	return append(b, id[:]...)
}

// readOnce returns the record of a call that is still known.
func readOnce(r store.Reader, o *Once, now time.Time) (rec onceRecord, known bool, err error) {
	b, there, err := store.Find(r, onceKey(o.id))
	if there {
		rec, err = decodeOnce(b)
	}
	return rec, there && err == nil && now.Sub(rec.at) < keepOnce, err
}

// onces counts the calls that are known, durably and after the batch that is being
// written. Nodes that share a store keep the count in a common record.
type onces struct {
	known, next int
	counted     bool // next is what the store holds
	stored      int  // what the record says; -1: there is none yet
}

var onceCountKey = record.CommonKey("onces")

// Begin implements commit.Participant.
func (o *onces) Begin(t *commit.Transaction) error {
	o.next, o.counted = o.known, !t.Shared()
	return nil
}

// count returns how many calls are known after this batch, for the caller to change.
func (o *onces) count(t *commit.Transaction) (*int, error) {
	if o.counted {
		return &o.next, nil
	}
	v, err := t.Get(onceCountKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		o.stored = -1
		o.next, err = countOnces(t)
	case err == nil:
		if o.stored, err = strconv.Atoi(string(v)); err != nil {
			err = fmt.Errorf("number of idempotency keys: %w: %w", record.ErrRecord, err)
		}
		o.next = o.stored
	}
	o.counted = err == nil
	return &o.next, err
}

// Finish implements commit.Participant.
func (o *onces) Finish(t *commit.Transaction) error {
	if !t.Shared() || !o.counted || o.next == o.stored {
		return nil
	}
	return t.Set(onceCountKey, strconv.AppendInt(nil, int64(o.next), 10))
}

// Committed implements commit.Participant.
func (o *onces) Committed() { o.known = o.next }

// once writes that a call is done, or says that it was done before.
func (b *batch) once(o *Once, about string) error {
	now := b.clock.Now()
	rec, known, err := readOnce(b, o, now)
	switch {
	case err != nil:
		return err
	case known && rec.try == o.try:
		return nil
	case known && rec.call != o.call:
		return ErrReused
	case known:
		return ErrReplayed
	case rec.at.IsZero():
		n, err := b.onces.count(b.Transaction)
		if err != nil {
			return err
		}
		if *n >= maxOnce || *n >= maxOnce-keptOnce && !o.reserve {
			return record.Invalid("Idempotency-Key", "%s", errOnceFull)
		}
		*n++
	default: // the old record has expired, and this one takes its place
		if err := b.Delete(onceTimeKey(rec.at, o.id)); err != nil {
			return err
		}
	}
	rec = onceRecord{at: now, call: o.call, try: o.try, about: about}
	return errors.Join(b.Set(onceKey(o.id), rec.encode()), b.Set(onceTimeKey(now, o.id), nil))
}

// onceIfFree records a call that can no longer be stopped: another call that ran at
// the same time has done the same.
func (b *batch) onceIfFree(o *Once, about string) error {
	if o == nil {
		return nil
	}
	err := b.once(o, about)
	var full *record.InvalidError
	if errors.Is(err, ErrReplayed) || errors.Is(err, ErrReused) || errors.As(err, &full) {
		return nil
	}
	return err
}

// jobAbout is how the record of a call names a job.
func jobAbout(number int64) string { return fmt.Sprintf("job_%d", number) }

// Replay is the subject of a call that was done before. One of the fields is set,
// except for calls about none of these.
type Replay struct {
	Key   *View
	Token *record.AdminToken
	Job   *Job
}

// Replay reports whether the caller's call was done before, and returns its subject as
// that is now. ErrReused says that the key was used for another call.
func (l *Limiter) Replay(by Caller) (Replay, bool, error) {
	if by.once == nil {
		return Replay{}, false, nil
	}
	var rec onceRecord
	var known bool
	err := l.store.View(func(r store.Reader) (err error) {
		rec, known, err = readOnce(r, by.once, l.clock.Now())
		return err
	})
	switch {
	case err != nil || !known:
		return Replay{}, false, err
	case rec.call != by.once.call:
		return Replay{}, false, ErrReused
	}
	switch number, job := strings.CutPrefix(rec.about, "job_"); {
	case job:
		j, err := l.JobOf(by, number)
		return Replay{Job: &j}, true, err
	case strings.HasPrefix(rec.about, record.IDPrefix):
		k, err := l.load(rec.about)
		if err != nil {
			return Replay{}, true, err
		}
		if !l.Sees(by, k.Key()) {
			return Replay{}, true, store.ErrNotFound
		}
		v := k.View()
		return Replay{Key: &v}, true, nil
	case strings.HasPrefix(rec.about, record.TokenIDPrefix):
		t, ok, err := l.tokens.Fetch(rec.about)
		if err != nil {
			return Replay{}, true, err
		}
		if !ok || !l.seesToken(by, &t) {
			return Replay{}, true, store.ErrNotFound
		}
		return Replay{Token: &t}, true, nil
	}
	return Replay{}, true, nil
}

// countOnces counts the calls that are known.
func countOnces(r store.Reader) (n int, err error) {
	err = r.Scan([]byte(record.SpaceOnce+"t/"), nil, false, func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}

// pruneOnces forgets calls from long ago.
func (l *Limiter) pruneOnces() error {
	prefix, before := []byte(record.SpaceOnce+"t/"), l.clock.Now().Add(-keepOnce).UnixNano()
	return commit.Prune(l.committer.Writer(), l.store, l.stopping, prefix, func(key []byte) (gone, more bool) {
		at := key[len(prefix):]
		if len(at) != 8+sha256.Size {
			return false, true // it is not a call's
		}
		gone = int64(binary.BigEndian.Uint64(at)) <= before
		return gone, gone
	}, func(t *commit.Transaction, key []byte) error {
		n, err := l.onces.count(t)
		if err != nil {
			return err
		}
		*n--
		return t.Delete(onceKey([sha256.Size]byte(key[len(key)-sha256.Size:])))
	})
}

// Interface guards
var _ commit.Participant = (*onces)(nil)
