package audit

import (
	"bytes"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// PruneStep is how many entries one call of Prune removes.
const PruneStep = 1000

// Prunable reports whether the oldest entry is older than a time.
func Prunable(r store.Reader, before time.Time) (due bool, err error) {
	err = r.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
		e, err := ParseLine(line)
		due = err == nil && e.Time().Before(before)
		return false, err
	})
	return due, err
}

// Prune removes some of the entries that are older than a time, but never the last one,
// and returns how many. The hash of the last removed entry stays in the store and in an
// entry of the log, so that the remaining entries can be verified.
func (a *Log) Prune(t *commit.Transaction, now, before time.Time, actor string) (n int, err error) {
	end, err := a.end(t)
	if err != nil {
		return 0, err
	}
	to := *end
	var gone [][]byte
	err = t.Scan([]byte(record.SpaceAudit), nil, false, func(key, line []byte) (bool, error) {
		e, err := ParseLine(line)
		if err != nil || e.Seq >= end.Seq || !e.Time().Before(before) {
			return false, err
		}
		to.gone, to.goneHash = e.Seq, e.Hash
		gone = append(gone, bytes.Clone(key))
		return len(gone) < PruneStep, nil
	})
	if err != nil || len(gone) == 0 {
		return 0, err
	}
	if err := store.DeleteAll(t, gone); err != nil {
		return 0, err
	}
	*end = to
	return len(gone), a.Add(t, now, &Entry{Actor: actor, Action: ActAuditPrune, Changes: map[string]record.Delta{
		"through": {Before: nil, After: pruneMark(to.gone, to.goneHash)}, "entries": {Before: nil, After: len(gone)},
	}})
}

// Repair continues the log from the last entry that is present, and returns where it ended
// before, as far as the store says, and where it ends now.
func (a *Log) Repair(t *commit.Transaction) (before, after Chain, err error) {
	before, err = ReadChain(t)
	if err != nil && !errors.Is(err, store.ErrDoubt) && !errors.Is(err, record.ErrRecord) {
		return before, after, err
	}
	end, err := a.end(t)
	if err != nil {
		return before, after, err
	}
	*end = Chain{gone: before.gone, goneHash: before.goneHash}
	err = t.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
		e, err := ParseLine(line)
		if err == nil {
			end.gone, end.goneHash = e.Seq-1, e.Prev
		}
		return err != nil, nil
	})
	if err != nil {
		return before, after, err
	}
	end.Seq, end.Hash = end.gone, end.goneHash
	var damaged [][]byte // at the end, so that nothing follows them
	err = t.Scan([]byte(record.SpaceAudit), nil, true, func(key, line []byte) (bool, error) {
		e, err := ParseLine(line)
		if err != nil || !bytes.Equal(key, EntryKey(e.Seq)) {
			damaged = append(damaged, bytes.Clone(key))
			return true, nil
		}
		end.Seq, end.Hash = e.Seq, e.Hash
		return false, nil
	})
	return before, *end, errors.Join(err, store.DeleteAll(t, damaged))
}
