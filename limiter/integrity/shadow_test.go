package integrity_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

var (
	session = integrity.Session{1}
	boot    = strings.Repeat("b", store.BootIDLen)
)

// newShadow opens the shadow of a disk.
func newShadow(t *testing.T, disk *storetest.Disk) *integrity.Shadow {
	t.Helper()
	s, err := integrity.OpenShadow(disk.Files(), "shadow")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheShadowRemembersWhatWasUsedOverAKill(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	s := newShadow(t, disk)
	s.Begin(session, boot)
	one := integrity.Remembered{ID: account(1), Lineage: 7, First: 10, Last: 20, Used: record.Amounts{1, 2, 3, 4}}
	slot := s.Take(one)
	s.Release(s.Take(integrity.Remembered{ID: account(2)}))
	slot.Set(record.Tokens, 200)
	slot.SetLast(30)
	one.Used[record.Tokens], one.Last = 200, 30
	want := []integrity.Remembered{one}
	killed := newShadow(t, disk.Restarted(false, nil))
	if got := killed.Recall(session, boot); !slices.Equal(got, want) {
		t.Errorf("it remembers %+v, want %+v", got, want)
	}
	for name, got := range map[string][]integrity.Remembered{
		"of another session": killed.Recall(integrity.Session{2}, boot),
		"of another boot":    killed.Recall(session, strings.Repeat("c", store.BootIDLen)),
		"of no known boot":   killed.Recall(session, ""),
		"after a power cut":  newShadow(t, disk.Restarted(true, func() bool { return true })).Recall(session, boot),
	} {
		if got != nil {
			t.Errorf("%s: believed is %+v", name, got)
		}
	}
	killed.Begin(session, boot)
	if got := killed.Recall(session, boot); got != nil {
		t.Errorf("the next session begins with %+v", got)
	}
}

// TestOfTwoCopiesThatDifferTheShadowBelievesTheOneThatCostsMore: a kill may come between
// the two, and a bit may flip in either.
func TestOfTwoCopiesThatDifferTheShadowBelievesTheOneThatCostsMore(t *testing.T) {
	t.Parallel()
	const first = 64 // the first slot
	const last, lastCopy, used, usedCopy = first + 32, first + 40, first + 48, first + 48 + 8*int(record.NumKinds)
	for _, at := range []int{last, lastCopy, used, usedCopy} {
		disk := storetest.NewDisk()
		s := newShadow(t, disk)
		s.Begin(session, boot)
		s.Take(integrity.Remembered{ID: account(1), Last: 0x40, Used: record.Amounts{0x40}})
		m, err := disk.Files().Map("shadow", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, bit := range []byte{0x20, 0x40} { // one makes the figure larger, the other smaller
			m.Bytes()[at] ^= bit
			got := s.Recall(session, boot)
			if len(got) != 1 || got[0].Used[0] < 0x40 || got[0].Last > 0x40 {
				t.Errorf("bit %x of byte %d: %+v", bit, at, got)
			}
			m.Bytes()[at] ^= bit
		}
	}
}

func TestTheShadowGivesNoMoreSlotsThanItHasAndNoneOnceItIsStopped(t *testing.T) {
	t.Parallel()
	s := newShadow(t, storetest.NewDisk())
	s.Begin(session, boot)
	var slots []*integrity.Slot
	for slot := s.Take(integrity.Remembered{ID: account(1)}); slot != nil; slot = s.Take(integrity.Remembered{ID: account(1)}) {
		slots = append(slots, slot)
	}
	if n := len(s.Recall(session, boot)); n != len(slots) || n < 1000 {
		t.Errorf("%d slots were given, and %d are in use", len(slots), n)
	}
	s.Release(slots[0])
	if slots[0] = s.Take(integrity.Remembered{ID: account(1)}); slots[0] == nil {
		t.Error("a slot that was released is not given again")
	}
	s.Release(slots[0])
	s.Stop()
	if s.Take(integrity.Remembered{ID: account(1)}) != nil {
		t.Error("a slot was given after the shadow was stopped")
	}
}

// TestWithoutAShadowNothingIsRemembered: a store may have none, and an account may have no
// slot.
func TestWithoutAShadowNothingIsRemembered(t *testing.T) {
	t.Parallel()
	var s *integrity.Shadow
	var slot *integrity.Slot
	slot.Set(record.Tokens, 1)
	slot.SetLast(1)
	s.Release(slot)
	s.Stop()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
