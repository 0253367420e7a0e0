package limiter

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// SealUse says how many keys have boxes that one seal key opens.
type SealUse struct {
	Live  int64 // keys that work, suspended ones included
	Ended int64 // exhausted and expired ones, which a grant would revive
}

// SealRotated records that a caller makes a new seal key. It must come before
// the key is used.
func (l *Limiter) SealRotated(by Caller, next token.SealKeyID) error {
	if err := l.authorise(by, record.Everything, nil); err != nil {
		return err
	}
	err := l.committer.Do(func(b *batch) error {
		return b.audit(by.entry(audit.ActSealRotate, "", map[string]record.Delta{"seal_key": {Before: nil, After: next.String()}}))
	}, nil)
	if err != nil {
		return fmt.Errorf("recording the rotation of the seal key: %w", err)
	}
	l.log.Info("seal key rotated", "seal_key_id", next.String(), "by", by.Name)
	return nil
}

// SealUses counts which seal keys are still needed, by looking at every key.
func (l *Limiter) SealUses(ctx context.Context, by Caller) (map[token.SealKeyID]SealUse, error) {
	if err := l.authorise(by, record.Everything, nil); err != nil {
		return nil, err
	}
	now := l.clock.Now()
	uses := make(map[token.SealKeyID]SealUse)
	err := store.Browse(l.store, func(r store.Reader) error {
		return r.Scan([]byte(record.SpaceKeys), nil, false, func(at, value []byte) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			var key struct { // the rest of a Key is not needed
				SealKey     token.SealKeyID `json:"seal_key"`
				Former      []record.Former `json:"former"`
				EndedStatus record.Status   `json:"ended_status"`
			}
			if err := json.Unmarshal(value, &key); err != nil {
				return false, fmt.Errorf("key %s: %w: %w", at[len(record.SpaceKeys):], record.ErrRecord, err)
			}
			if key.SealKey.IsZero() || key.EndedStatus == record.Revoked {
				return true, nil
			}
			for id := range sealedWith(key.SealKey, key.Former, now) {
				use := uses[id]
				if key.EndedStatus == "" {
					use.Live++
				} else {
					use.Ended++
				}
				uses[id] = use
			}
			return true, nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("counting sealed keys: %w", err)
	}
	return uses, nil
}

// sealedWith are the seal keys of a key's boxes that still open.
func sealedWith(present token.SealKeyID, former []record.Former, now time.Time) map[token.SealKeyID]bool {
	ids := map[token.SealKeyID]bool{present: true}
	for i := range former {
		if f := &former[i]; !f.SealKey.IsZero() && f.Works(now) {
			ids[f.SealKey] = true
		}
	}
	return ids
}
