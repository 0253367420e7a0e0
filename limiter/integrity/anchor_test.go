package integrity_test

import (
	"errors"
	"testing"

	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// lose deletes the first record under a prefix.
func lose(t *testing.T, disk *storetest.Disk, prefix string) {
	t.Helper()
	change(t, disk, func(tx store.Tx) error {
		var gone []byte
		if err := tx.Scan([]byte(prefix), nil, false, func(key, _ []byte) (bool, error) { gone = key; return false, nil }); err != nil {
			return err
		}
		if gone == nil {
			return errors.New("there is no " + prefix)
		}
		return tx.Delete(gone)
	})
}

func flip(t *testing.T, disk *storetest.Disk, at int) {
	t.Helper()
	b := file(t, disk, anchorPath)
	b[at] ^= 1
	put(t, disk, anchorPath, b)
}

func TestAStoreThatDoesNotAgreeWithItsAnchorIsInDoubt(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, disk, old *storetest.Disk){
		"an older store":  func(_ *testing.T, disk, old *storetest.Disk) { disk.TakeData(old) },
		"an older anchor": func(t *testing.T, disk, old *storetest.Disk) { put(t, disk, anchorPath, file(t, old, anchorPath)) },
		"no store":        func(_ *testing.T, disk, _ *storetest.Disk) { disk.TakeData(storetest.NewDisk()) },
		"another's anchor": func(t *testing.T, disk, _ *storetest.Disk) {
			put(t, disk, anchorPath, file(t, newProcess(t).disk, anchorPath))
		},
		"a cut anchor":      func(t *testing.T, disk, _ *storetest.Disk) { put(t, disk, anchorPath, file(t, disk, anchorPath)[:700]) },
		"an empty anchor":   func(t *testing.T, disk, _ *storetest.Disk) { put(t, disk, anchorPath, nil) },
		"a lost commit":     func(t *testing.T, disk, _ *storetest.Disk) { lose(t, disk, string(record.MetaCommit)) },
		"a lost sum":        func(t *testing.T, disk, _ *storetest.Disk) { lose(t, disk, record.SpaceBuckets) },
		"a damaged header":  func(t *testing.T, disk, _ *storetest.Disk) { flip(t, disk, 20) },
		"both slots broken": func(t *testing.T, disk, _ *storetest.Disk) { flip(t, disk, 515); flip(t, disk, 1027) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t)
			old := p.disk.Restarted(false, nil)
			for range 2 {
				p.write(1, "after")
			}
			damage(t, p.disk, old)
			if _, err := open(t, p.disk); !errors.Is(err, store.ErrDoubt) {
				t.Errorf("opened: %v", err)
			}
			err := p.disk.Open().View(func(r store.Reader) error { return integrity.Compare(p.disk.Files(), anchorPath, r) })
			if !errors.Is(err, store.ErrDoubt) {
				t.Errorf("compared: %v", err)
			}
		})
	}
}

// TestATornSlotOfTheAnchorIsNoDamage: the other slot says one commit less, as after a
// crash between a commit and its anchor.
func TestATornSlotOfTheAnchorIsNoDamage(t *testing.T) {
	t.Parallel()
	for _, at := range []int{515, 1027} {
		p := newProcess(t)
		flip(t, p.disk, at)
		mustOpen(t, p.disk).write(1, "after")
		mustOpen(t, p.disk)
	}
}

func TestCommitsThatTheAnchorHasNotHeardOf(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	for range 3 { // one at a time is no damage, however often that happens
		before := file(t, p.disk, anchorPath)
		p.write(1, "after")
		put(t, p.disk, anchorPath, before)
		p = mustOpen(t, p.disk)
	}
	before := file(t, p.disk, anchorPath)
	p.write(1, "after")
	p.write(1, "later")
	put(t, p.disk, anchorPath, before)
	if _, err := open(t, p.disk); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("with two commits more: %v", err)
	}
}

func TestAStoreThatComesAfterAnotherHasToBeAsNew(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	old := p.disk.Restarted(false, nil)
	if err := mustOpen(t, old).digest.Succeeds(p.digest); err != nil {
		t.Errorf("the same store: %v", err)
	}
	p.write(1, "after")
	if err := mustOpen(t, p.disk).digest.Succeeds(p.digest); err != nil {
		t.Errorf("the same store, newer: %v", err)
	}
	for name, d := range map[string]*integrity.Digest{"an older one": mustOpen(t, old).digest, "another one": newProcess(t).digest} {
		if err := d.Succeeds(p.digest); !errors.Is(err, store.ErrDoubt) {
			t.Errorf("%s with its own anchor: %v", name, err)
		}
	}
}
