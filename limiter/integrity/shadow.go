package integrity

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The shadow counter is a memory-mapped file that says, for every account in use,
// limited or not, how much of it is used or held, and when it was used. The page cache
// outlives a killed process, so kill -9 loses only the requests in flight, and neither
// the remainder of each block nor the use of a key without a limit since it was saved.
// The file is believed only if it was written in this boot and by the last session of
// this very store; otherwise every reserved block counts as spent.
//
//	header (64 bytes)   magic 8 | session 16 | boot id 36 | pad
//	slot   (112 bytes)  account id 16 | lineage 8 | first use 8 | last use 8 |
//	                    last use once more 8 | used + held 4 × 8 | the same
//	                    once more 4 × 8
//
// A slot's amounts are absolute (used since the lineage began), so a block that arrives
// does not invalidate them. If the two copies differ, the larger one is believed: either
// a kill came between the two, or one of them is damaged, and then use must never be
// counted too low. Of two last uses the earlier one is believed: a key that ends when it
// is idle must not live longer because of a crash.
type Shadow struct {
	mem    []byte
	mapped store.Mapping

	mu   sync.Mutex
	free []int32 // unused slots
	over bool    // no more slots are given out
}

const (
	shadowMagic  = "tillshd3"
	shadowHeader = 64
	shadowSlot   = 112
	shadowSlots  = 32 << 10
	shadowSize   = shadowHeader + shadowSlot*shadowSlots
	SessionLen   = 16

	slotFirst    = 24
	slotLast     = 32
	slotLastCopy = 40
	slotUsed     = 48
	slotCopy     = slotUsed + 8*int(record.NumKinds)
)

// Session names one opening of a store.
type Session [SessionLen]byte

// Slot is the place of one account in the shadow. nil means that there is none, and
// that a crash costs the account its block, or what it counted since it was saved.
type Slot struct {
	b     []byte
	index int32
}

// OpenShadow maps the file at path, and makes it if it is missing or has another
// size. A disk that has less room gives fewer slots.
func OpenShadow(disk store.Disk, path string) (*Shadow, error) {
	m, err := disk.Map(path, shadowSize)
	if err != nil {
		return nil, fmt.Errorf("opening shadow counter: %w", err)
	}
	return &Shadow{mem: m.Bytes(), mapped: m}, nil
}

// Remembered is one account as the shadow last saw it.
type Remembered struct {
	ID          record.AccountID
	Lineage     uint64
	First, Last int64          // unix nanoseconds of its uses; 0: none
	Used        record.Amounts // used + held
}

// Recall lists the slots in use, or nothing when the file was not written by
// that session in this boot.
func (s *Shadow) Recall(last Session, boot string) []Remembered {
	header := s.mem[:shadowHeader]
	if string(header[:8]) != shadowMagic || Session(header[8:24]) != last ||
		boot == "" || string(header[24:24+store.BootIDLen]) != boot {
		return nil
	}
	var found []Remembered
	for i := range s.slots() {
		b := s.slot(i)
		r := Remembered{ID: record.AccountID(b[:16]), Lineage: binary.NativeEndian.Uint64(b[16:])}
		if r.ID == (record.AccountID{}) {
			continue
		}
		r.First = int64(binary.NativeEndian.Uint64(b[slotFirst:]))
		r.Last = int64(min(binary.NativeEndian.Uint64(b[slotLast:]), binary.NativeEndian.Uint64(b[slotLastCopy:])))
		for k := range r.Used {
			r.Used[k] = max(int64(binary.NativeEndian.Uint64(b[slotUsed+8*k:])), int64(binary.NativeEndian.Uint64(b[slotCopy+8*k:])))
		}
		found = append(found, r)
	}
	return found
}

// Begin forgets everything, and gives the shadow to the new session from here on.
func (s *Shadow) Begin(now Session, boot string) {
	clear(s.mem)
	s.free = make([]int32, s.slots())
	for i := range s.free {
		s.free[i] = int32(len(s.free) - 1 - i)
	}
	copy(s.mem[8:24], now[:])
	copy(s.mem[24:24+store.BootIDLen], boot)
	copy(s.mem, shadowMagic)
}

func (s *Shadow) slots() int { return (len(s.mem) - shadowHeader) / shadowSlot }

func (s *Shadow) slot(i int) []byte {
	return s.mem[shadowHeader+i*shadowSlot:][:shadowSlot:shadowSlot]
}

// Take gives an account a slot that says what was used, or nil when all are taken or
// the shadow was stopped.
func (s *Shadow) Take(a Remembered) *Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 || s.over {
		return nil
	}
	index := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	sl := &Slot{b: s.slot(int(index)), index: index}
	for k, used := range a.Used {
		sl.Set(record.Kind(k), used)
	}
	sl.SetLast(a.Last)
	*(*int64)(unsafe.Pointer(&sl.b[slotFirst])) = a.First
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&sl.b[16])), a.Lineage)
	// The id is written last: until then the slot counts as unused.
	copy(sl.b[8:16], a.ID[8:])
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&sl.b[0])), binary.NativeEndian.Uint64(a.ID[:8]))
	return sl
}

// Set stores used + held of one kind by aligned 8-byte stores: a kill leaves each of
// them done or not done. Only a later process reads them.
func (sl *Slot) Set(k record.Kind, used int64) {
	if sl != nil {
		atomic.StoreInt64((*int64)(unsafe.Pointer(&sl.b[slotUsed+8*int(k)])), used)
		*(*int64)(unsafe.Pointer(&sl.b[slotCopy+8*int(k)])) = used
	}
}

// SetLast stores in the same way when the account was last used.
func (sl *Slot) SetLast(at int64) {
	if sl != nil {
		atomic.StoreInt64((*int64)(unsafe.Pointer(&sl.b[slotLast])), at)
		*(*int64)(unsafe.Pointer(&sl.b[slotLastCopy])) = at
	}
}

// Release frees a slot. The account must have nothing reserved beyond what it spent,
// and nothing that the store does not know.
func (s *Shadow) Release(sl *Slot) {
	if s == nil || sl == nil {
		return
	}
	clear(sl.b)
	s.mu.Lock()
	s.free = append(s.free, sl.index)
	s.mu.Unlock()
}

// Stop gives out no more slots. Accounts that have one must release it before the
// shadow is closed.
func (s *Shadow) Stop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
}

func (s *Shadow) Close() error {
	if s == nil {
		return nil
	}
	return s.mapped.Close()
}
