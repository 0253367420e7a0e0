package limiter

import (
	"math"

	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// thresholds are the percentages of a limit whose crossing is reported.
var thresholds = [...]int64{50, 80, 100}

// percentOf is that percentage of a limit, rounded up.
func percentOf(limit, percent int64) int64 {
	return limit/100*percent + (limit%100*percent+99)/100
}

// setMarks works out the use at which the next threshold of each limit is crossed.
// Thresholds below the present use count as reported.
func (k *Live) setMarks() {
	kept := k.net()
	for _, kind := range record.LimitKinds {
		k.marks[kind] = math.MaxInt64
		for _, percent := range thresholds {
			if at := percentOf(kept[kind], percent); kept[kind] > 0 && at > k.total(kind) {
				k.marks[kind] = at
				break
			}
		}
	}
}

// emitThresholds reports the limits whose use has crossed a threshold since the
// last call. Callers hold the key.
func (k *Live) emitThresholds() {
	for _, kind := range record.LimitKinds {
		if k.total(kind) < k.marks[kind] {
			continue
		}
		reached, kept := int64(0), k.net()[kind]
		for _, percent := range thresholds {
			if k.total(kind) >= percentOf(kept, percent) {
				reached = percent
			}
		}
		k.l.emitThreshold(event.Event{
			Name: event.KeyThreshold, Key: k.key, Kind: kind, Percent: int(reached),
			Used: k.total(kind), Limit: kept,
		}, k.lineage)
		k.setMarks()
	}
}

// emitThreshold reports that a threshold was crossed. Where several nodes share the
// store, each node finds that out by itself, as it reads what the others have used, and
// the first to record it in the store reports it.
func (l *Limiter) emitThreshold(e event.Event, lineage uint64) {
	if l.shared == nil {
		l.emit(e)
		return
	}
	first := false
	l.committer.Submit(func(b *batch) (err error) {
		if first, err = b.crosses(&e, lineage); err != nil || !first {
			return err
		}
		return b.emit(e)
	}, func(err error) {
		if err != nil {
			l.complainOfEvent(e.Name, err)
		}
	})
}

// crossed are the thresholds of a key that were reported.
//
//	n//crossed/<key id>   crossed, as JSON
type crossed struct {
	Lineage uint64                           `json:"lineage"` // of the account that was used
	Of      map[record.Kind]crossedThreshold `json:"of"`
}

// crossedThreshold is the highest threshold of a limit that was reported.
type crossedThreshold struct {
	Limit   int64 `json:"limit"`
	Percent int   `json:"percent"`
}

func crossedKey(id string) []byte { return record.CommonKey("crossed/" + id) }

// crosses records that a threshold was crossed, and reports whether that is new.
func (b *batch) crosses(e *event.Event, lineage uint64) (bool, error) {
	key := crossedKey(e.Key.ID)
	if _, there, err := store.Find(b, record.RecordKey(e.Key.ID)); err != nil || !there { // forgotten
		return false, err
	}
	var c crossed
	if _, err := record.FindJSON(b, key, &c, "thresholds of key "+e.Key.ID); err != nil {
		return false, err
	}
	if c.Lineage != lineage || c.Of == nil {
		c = crossed{Lineage: lineage, Of: make(map[record.Kind]crossedThreshold)}
	}
	if last := c.Of[e.Kind]; last.Limit == e.Limit && last.Percent >= e.Percent {
		return false, nil
	}
	c.Of[e.Kind] = crossedThreshold{e.Limit, e.Percent}
	return true, record.SetJSON(b, key, &c)
}
