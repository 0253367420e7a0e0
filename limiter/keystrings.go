package limiter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// Number returns which of the key's strings a lookup belongs to, or why that
// string no longer works. addr is the client that presents it.
func (k *Live) Number(key *record.Key, lookup token.Lookup, addr netip.Addr) (int64, *record.Refusal) {
	if lookup == key.Lookup {
		return key.Rotations, nil
	}
	number, refusal := k.numberOf(key, lookup)
	if refusal != nil && refusal.Code == record.CodeKeyRevoked {
		now := k.l.clock.Now()
		k.mu.Lock()
		k.history.refused(now, refusal.Code)
		k.usedDead(now, refusal, addr)
		k.mu.Unlock()
	}
	return number, refusal
}

func (k *Live) numberOf(key *record.Key, lookup token.Lookup) (int64, *record.Refusal) {
	if lookup == key.Lookup {
		return key.Rotations, nil
	}
	for i := range key.Former {
		if f := &key.Former[i]; f.Lookup == lookup {
			switch {
			case key.EndedStatus == record.Revoked: // the refusal will then name the revocation
				return key.Rotations, nil
			case f.Works(k.l.clock.Now()):
				return f.Number, nil
			}
			return 0, key.Replaced(f.Until)
		}
	}
	return 0, record.UnknownKey()
}

// hasString reports whether a lookup is that of one of the key's strings.
func (k *Live) hasString(lookup token.Lookup) bool {
	key := k.Key()
	return slices.Contains(key.Lookups(), lookup)
}

// Box returns what is needed to open the box of one of the key's strings. The salt
// is missing once the key was revoked or the string's grace has ended, and in a copy
// of a store that left the salts out.
func (k *Live) Box(key *record.Key, number int64) record.Box {
	b := record.Box{SealKey: key.SealKey, Origins: key.Origins}
	if number != key.Rotations {
		i := slices.IndexFunc(key.Former, func(f record.Former) bool { return f.Number == number })
		if i < 0 {
			return record.Box{}
		}
		b = record.Box{SealKey: key.Former[i].SealKey, Origins: key.Former[i].Origins}
	}
	k.mu.Lock()
	b.Salt = k.salts.of(number)
	k.mu.Unlock()
	return b
}

// cutReplaced ends the running requests whose string no longer works, and returns
// how many there were.
func (k *Live) cutReplaced(now time.Time) int {
	k.mu.Lock()
	key := k.key
	k.mu.Unlock()
	n := 0
	oldest := key.Rotations
	for i := range key.Former {
		f := &key.Former[i]
		if oldest = min(oldest, f.Number); !f.Works(now) {
			n += k.cutWhere(key.Replaced(f.Until), func(g *Grant) bool { return g.number == f.Number })
		}
	}
	if oldest > 0 { // nothing is known of older strings except that they do not work
		n += k.cutWhere(key.Replaced(key.RotatedAt), func(g *Grant) bool { return g.number < oldest })
	}
	return n
}

// writeStrings keeps lookups and salts in step with the key's record. old is
// nil for a new one.
func writeStrings(b *batch, old, key *record.Key) error {
	if old == nil || key.Lookup != old.Lookup {
		if err := b.Set(record.LookupKey(key.Lookup), []byte(key.ID)); err != nil || old == nil {
			return err
		}
	}
	known := key.Lookups()
	for _, lookup := range old.Lookups() {
		if !slices.Contains(known, lookup) {
			if err := b.Delete(record.LookupKey(lookup)); err != nil {
				return err
			}
		}
	}
	var kept [][]byte
	if key.EndedStatus != record.Revoked { // without its salt nobody can ever open a box
		kept = key.SaltKeys()
	}
	for _, at := range old.SaltKeys() {
		if !among(kept, at) {
			if err := b.Delete(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// salts holds the salts of a sealed key's boxes, by the number of the string. There
// is nearly always one.
type salts map[int64]token.Secret

func (s salts) of(number int64) token.Secret { return s[number] }

func (s *salts) add(number int64, salt token.Secret) {
	if *s == nil {
		*s = make(salts, 1)
	}
	(*s)[number] = salt
}

// unsalted reports whether nobody can open the box of a sealed key's string, although
// the key was not revoked. Callers hold the key.
func (k *Live) unsalted() bool {
	revoked := k.halt == record.CodeKeyRevoked || k.key.EndedStatus == record.Revoked
	return k.key.Custody == record.CustodySealed && !revoked && k.salts.of(k.key.Rotations).IsZero()
}

// keep drops the salts of boxes that the record no longer knows.
func (s salts) keep(key *record.Key) {
	for number := range s {
		boxed := slices.ContainsFunc(key.Former, func(f record.Former) bool { return f.Number == number && !f.SealKey.IsZero() })
		if number != key.Rotations && !boxed {
			delete(s, number)
		}
	}
}

// readSalts reads the salts of a sealed key.
func readSalts(r store.Reader, key *record.Key) (salts, error) {
	var all salts
	for _, at := range key.SaltKeys() {
		salt, there, err := store.Find(r, at)
		if err != nil {
			return nil, fmt.Errorf("the salt of key %s: %w", key.ID, err)
		}
		if !there {
			continue
		}
		number := key.Rotations
		if rest := at[len(record.SaltKey(key.ID)):]; len(rest) > 0 {
			number = int64(binary.BigEndian.Uint64(rest[1:]))
		}
		all.add(number, token.NewSecret(string(salt)))
	}
	return all, nil
}
