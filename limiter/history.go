package limiter

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Bucket is what a key did in one hour or one day. Statistics ride on other
// commits and may lose some seconds in a crash; budgets never do.
type Bucket struct {
	Start       time.Time             `json:"start"`
	Activations int64                 `json:"activations"`
	Tokens      int64                 `json:"tokens,omitempty"`
	Nanodollars int64                 `json:"nanodollars,omitempty"`
	Kinds       record.TokenKinds     `json:"kinds,omitzero"` // of Tokens
	Refusals    map[record.Code]int64 `json:"refusals,omitempty"`
}

func (b *Bucket) add(o *Bucket) {
	b.Activations += o.Activations
	b.Tokens += o.Tokens
	b.Nanodollars += o.Nanodollars
	b.Kinds.Add(o.Kinds)
	if len(o.Refusals) > 0 && b.Refusals == nil {
		b.Refusals = make(map[record.Code]int64, len(o.Refusals))
	}
	for code, n := range o.Refusals {
		b.Refusals[code] += n
	}
}

func (b *Bucket) book(used *record.Amounts) {
	b.Activations += used[record.Activations]
	b.Tokens += used[record.Tokens]
	b.Nanodollars += used[record.Nanodollars]
}

// history holds the hours that are not yet in the store; nearly always one.
type history struct {
	hours []Bucket
	// pruned is the day on which old hours were last deleted, where nodes share the store.
	pruned time.Time
	// unsure are saves during which the store failed, so that it is not known whether they
	// reached it. That becomes clear when the store is opened again.
	unsure []booking
}

// booking is a save of hours, and the booked sum that the record has if the save succeeded.
type booking struct {
	hours  []Bucket
	booked record.Amounts
}

func (h *history) dirty() bool { return len(h.hours) > 0 }

// hour returns the bucket of a moment. The last one nearly always fits.
func (h *history) hour(nanos int64) *Bucket {
	const perHour = int64(time.Hour)
	unix := nanos - nanos%perHour
	for i := len(h.hours) - 1; i >= 0; i-- {
		if h.hours[i].Start.UnixNano() == unix {
			return &h.hours[i]
		}
	}
	h.hours = append(h.hours, Bucket{Start: time.Unix(0, unix).UTC()})
	return &h.hours[len(h.hours)-1]
}

func (h *history) used(nanos int64, used *record.Amounts, kinds *record.TokenKinds) {
	b := h.hour(nanos)
	b.book(used)
	b.Kinds.Add(*kinds)
}

func (h *history) refused(now time.Time, code record.Code) {
	b := h.hour(now.UnixNano())
	if b.Refusals == nil {
		b.Refusals = make(map[record.Code]int64)
	}
	b.Refusals[code]++
}

// take empties the history for writing it.
func (h *history) take() []Bucket {
	hours := h.hours
	h.hours = nil
	return hours
}

// putBack returns what was taken and could not be written.
func (h *history) putBack(hours []Bucket) {
	for i := range hours {
		h.hour(hours[i].Start.UnixNano()).add(&hours[i])
	}
}

// unbooked empties the history for a store that has been opened again, whose record says how
// much is booked. A save of refusals alone changes no sum, and counts as one that reached
// the store.
func (h *history) unbooked(booked record.Amounts) []Bucket {
	for _, b := range h.unsure {
		if missing := b.booked.Minus(booked); slices.Max(missing[:]) > 0 {
			h.putBack(b.hours)
		}
	}
	h.unsure = nil
	return h.take()
}

// writeHours adds buckets to those in the store.
func writeHours(tx *batch, id string, hours []Bucket) error {
	for i := range hours {
		key := record.HourKey(id, hours[i].Start.Unix())
		sum := Bucket{Start: hours[i].Start}
		there, err := record.FindJSON(tx, key, &sum, "history of "+id)
		if err == nil && !there && !tx.Shared() { // otherwise see forgetSharedHours
			err = forgetHours(tx, id, hours[i].Start)
		}
		if err != nil {
			return err
		}
		sum.add(&hours[i])
		if err := record.SetJSON(tx, key, &sum); err != nil {
			return err
		}
	}
	return nil
}

// forgetHours removes hours that no report on a key shows any longer, when the first
// hour of a day is written, and only as many at a time as fit into one commit.
func forgetHours(tx store.Tx, id string, now time.Time) error {
	today := now.Truncate(24 * time.Hour)
	first := true
	var old [][]byte
	err := tx.Scan(record.HourPrefix(id), nil, true, func(key, _ []byte) (bool, error) {
		if len(key) != len(record.HourPrefix(id))+8 {
			return false, fmt.Errorf("history of %s: %w", id, record.ErrRecord)
		}
		hour := int64(binary.BigEndian.Uint64(key[len(key)-8:]))
		if len(old) == 0 && hour >= today.Unix() && hour < now.Unix() {
			first = false
			return false, nil
		}
		if hour > 0 && hour < today.Add(-historyDays*24*time.Hour).Unix() { // hour 0 holds what the key was used with
			old = append(old, slices.Clone(key))
		}
		return len(old) < mostForgotten, nil
	})
	if err != nil || !first {
		return err
	}
	return store.DeleteAll(tx, old)
}

// forgetSharedHours does what forgetHours does where nodes share the store, for each of
// these keys once a day. It looks for old hours beforehand, because a transaction that scans
// keeps all others in the cluster waiting. The one that deletes them does not have to scan,
// as nobody adds to them.
func (l *Limiter) forgetSharedHours(keys []*Live, now time.Time) {
	today := now.Truncate(24 * time.Hour)
	oldest := today.Add(-historyDays * 24 * time.Hour).Unix()
	due := slices.DeleteFunc(keys, func(k *Live) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.gone || k.history.pruned.Equal(today) // it may be later: the clock had run ahead
	})
	for step := range slices.Chunk(due, refreshStep) {
		if l.stopping() {
			return
		}
		old := make([][][]byte, len(step))
		err := store.Upkeep(l.store, func(r store.Reader) error {
			for i, k := range step {
				id := k.Key().ID
				limit := record.HourKey(id, oldest)
				err := r.Scan(record.HourPrefix(id), seenKey(id), false, func(key, _ []byte) (bool, error) {
					if bytes.Compare(key, limit) >= 0 {
						return false, nil
					}
					old[i] = append(old[i], slices.Clone(key))
					return true, nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			l.complain("reading what is too old in the history of keys failed", err)
			return
		}
		for i, k := range step {
			k.mu.Lock()
			k.history.pruned = today
			k.mu.Unlock()
			if len(old[i]) > 0 {
				l.deleteHours(k, old[i])
			}
		}
	}
}

func (l *Limiter) deleteHours(k *Live, hours [][]byte) {
	l.committer.SubmitRows(l.rows(&k.account), func(b *batch) error { return store.DeleteAll(b, hours) }, func(err error) {
		if err != nil {
			l.complain("deleting what is too old in the history of a key failed", err)
		}
	})
}

// History is what a key did lately.
type History struct {
	Hours []Bucket `json:"hours"` // of the last 48, those that saw use; oldest first
	Days  []Bucket `json:"days"`  // of the last 90, in UTC, those that saw use; oldest first
}

const (
	historyHours  = 48
	historyDays   = 90
	mostForgotten = 1000 // hours that one commit removes
)

// Usage returns the history of a key.
func (l *Limiter) Usage(by Caller, id string) (History, error) {
	k, err := l.reach(by, record.KeysRead, id)
	if err != nil {
		return History{}, err
	}
	now := l.clock.Now()
	sums := make(map[int64]*Bucket)
	k.mu.Lock()
	pending := slices.Clone(k.history.hours)
	for i := range pending {
		pending[i].Refusals = maps.Clone(pending[i].Refusals)
	}
	k.mu.Unlock()
	for i := range pending {
		sums[pending[i].Start.Unix()] = &pending[i]
	}
	oldest := now.Add(-historyDays * 24 * time.Hour).Unix()
	err = l.store.View(func(r store.Reader) error {
		prefix := record.HourPrefix(id)
		return r.Scan(prefix, record.HourKey(id, oldest), false, func(key, value []byte) (bool, error) {
			var b Bucket
			if len(key) != len(prefix)+8 {
				return false, fmt.Errorf("history of %s: %w", id, record.ErrRecord)
			}
			if err := json.Unmarshal(value, &b); err != nil {
				return false, fmt.Errorf("history of %s: %w: %w", id, record.ErrRecord, err)
			}
			hour := int64(binary.BigEndian.Uint64(key[len(prefix):]))
			if sums[hour] == nil {
				sums[hour] = &Bucket{Start: b.Start}
			}
			sums[hour].add(&b)
			return true, nil
		})
	})
	if err != nil {
		return History{}, fmt.Errorf("reading history: %w", err)
	}
	h := History{Hours: []Bucket{}, Days: []Bucket{}}
	recent := now.Add(-historyHours * time.Hour).Unix()
	for _, hour := range slices.Sorted(maps.Keys(sums)) {
		b := sums[hour]
		if hour > recent {
			h.Hours = append(h.Hours, *b)
		}
		day := b.Start.Truncate(24 * time.Hour)
		if n := len(h.Days); n == 0 || !h.Days[n-1].Start.Equal(day) {
			h.Days = append(h.Days, Bucket{Start: day})
		}
		h.Days[len(h.Days)-1].add(b)
	}
	return h, nil
}
