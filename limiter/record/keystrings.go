package record

import (
	"slices"
	"time"

	"github.com/till-proxy/till/token"
)

// A key has its present string and the former ones, by number: the first is 0, and each
// rotation adds one. The record and the budget are the same for all of them, so it does
// not matter which one a request presents.
//
// A former string works until its grace ends. It stays known after that, so that a
// client that still uses it gets a clear refusal; its salt is deleted.
const (
	// MaxGrace bounds how long a former string works.
	MaxGrace = 30 * 24 * time.Hour
	// maxFormer is how many former strings are known. Older ones are as unknown
	// as any other string.
	maxFormer = 16
)

// Former is a string that a key had before it was rotated.
type Former struct {
	Lookup token.Lookup `json:"lookup"`
	Number int64        `json:"number"`
	Until  time.Time    `json:"until"` // it works before that
	// Ended says that it was seen to work no longer, or was ended at once: another node,
	// whose clock is a little behind, must not accept it again.
	Ended bool `json:"ended,omitempty"`
	// SealKey and Origins are what its box was made with, if it has one, for as
	// long as its salt is kept.
	SealKey token.SealKeyID `json:"seal_key,omitzero"`
	Origins []string        `json:"origins,omitempty"`
	// Fingerprint names the credential in that box.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Works reports whether the string is in its grace.
func (f *Former) Works(now time.Time) bool { return !f.Ended && now.Before(f.Until) }

// EndGrace ends the grace of a former string, and reports whether it was running.
func (k *Key) EndGrace(lookup token.Lookup, now time.Time) bool {
	i := slices.IndexFunc(k.Former, func(f Former) bool { return f.Lookup == lookup })
	if i < 0 || !k.Former[i].Works(now) {
		return false
	}
	k.Former[i].Limit(now, now)
	return true
}

// Box is what opens the box of one string of a sealed key.
type Box struct {
	SealKey token.SealKeyID
	Origins []string
	Salt    token.Secret
}

// Issue is the string that a rotation gives a key.
type Issue struct {
	Lookup token.Lookup
	// Box and Fingerprint belong to a sealed key: the box that was made for this
	// lookup, and the name of the credential in it.
	Box         Box
	Fingerprint string
}

// Rotated returns the key with its next string.
func (k *Key) Rotated(next Issue, now time.Time, grace time.Duration) (*Key, error) {
	key := k.Clone()
	last := Former{Lookup: key.Lookup, Number: key.Rotations, Until: now.Add(grace), Ended: grace <= 0}
	if grace > 0 {
		last.SealKey, last.Origins, last.Fingerprint = key.SealKey, key.Origins, key.Fingerprint
	}
	for i := range key.Former {
		key.Former[i].Limit(last.Until, now)
	}
	key.Former = append(key.Former, last)
	if n := len(key.Former) - maxFormer; n > 0 {
		if key.Former[n-1].Works(now) {
			return nil, Invalid("grace", "would let more than %d earlier strings of key %s work at once: rotate it with a grace of 0, which ends them", maxFormer, k.ID)
		}
		key.Former = slices.Clone(key.Former[n:])
	}
	key.Version++
	key.Rotations++
	key.RotatedAt = now
	key.Lookup, key.SealKey, key.Origins = next.Lookup, next.Box.SealKey, next.Box.Origins
	key.Fingerprint = next.Fingerprint
	return key, nil
}

// Limit lets a former string work until that time at most.
func (f *Former) Limit(until, now time.Time) {
	if until.Before(f.Until) {
		f.Until = until
	}
	if !f.Works(now) {
		f.Ended = true
		f.SealKey, f.Origins, f.Fingerprint = token.SealKeyID{}, nil, "" // its salt is deleted
	}
}

// Outdated is the refusal of a string that a rotation has replaced, or nil while the
// string works.
func (k *Key) Outdated(number int64, now time.Time) *Refusal {
	if number == k.Rotations {
		return nil
	}
	until := k.RotatedAt
	for i := range k.Former {
		if f := &k.Former[i]; f.Number == number {
			if f.Works(now) {
				return nil
			}
			until = f.Until
		}
	}
	return k.Replaced(until)
}

func (k *Key) Replaced(since time.Time) *Refusal {
	return k.Refuse(CodeKeyRevoked, "was rotated: this string of it does not work since %s; use the one that replaced it", Stamp(since))
}

// graceEnds is when the sweeper looks for a box whose salt has to be deleted.
func (k *Key) graceEnds() (at time.Time) {
	for i := range k.Former {
		if f := &k.Former[i]; !f.SealKey.IsZero() && (at.IsZero() || f.Until.Before(at)) {
			at = f.Until
		}
	}
	return at
}

// SweepFormer forgets what opened the boxes of strings whose grace is over.
func (k *Key) SweepFormer(now time.Time) {
	for i := range k.Former {
		k.Former[i].Limit(k.Former[i].Until, now)
	}
}

// Lookups are the hashes of all strings by which the key is found.
func (k *Key) Lookups() []token.Lookup {
	all := []token.Lookup{k.Lookup}
	for i := range k.Former {
		all = append(all, k.Former[i].Lookup)
	}
	return all
}

// SaltKeys are the places of the salts that the key has or may have.
func (k *Key) SaltKeys() [][]byte {
	if k.Custody != CustodySealed {
		return nil
	}
	all := [][]byte{SaltKey(k.ID)}
	for i := range k.Former {
		if f := &k.Former[i]; !f.SealKey.IsZero() {
			all = append(all, FormerSaltKey(k.ID, f.Number))
		}
	}
	return all
}
