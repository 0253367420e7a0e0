package integrity_test

import (
	"errors"
	"testing"

	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestAnAccountThatWentBackIsFoundAtItsFirstUse(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	p.write(1, "after")
	if err := p.check(1); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(tx store.Tx) error{
		"went back":  func(tx store.Tx) error { return tx.Set(record.AccountKey(account(1)), []byte("before")) },
		"is missing": func(tx store.Tx) error { return tx.Delete(record.AccountKey(account(1))) },
	} {
		disk := p.disk.Restarted(false, nil)
		change(t, disk, damage)
		again := mustOpen(t, disk) // which reads no account
		if err := again.check(1); !errors.Is(err, store.ErrDoubt) {
			t.Errorf("an account that %s: %v", name, err)
		}
	}
}

// TestABucketIsComparedOnceUntilMemoryLetsGo: what a process has read it knows, and only
// what it reads again has to be right.
func TestABucketIsComparedOnceUntilMemoryLetsGo(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	if err := p.check(1); err != nil {
		t.Fatal(err)
	}
	change(t, p.disk, func(tx store.Tx) error { return tx.Delete(record.AccountKey(account(1))) })
	if err := p.check(1); err != nil {
		t.Errorf("compared again: %v", err)
	}
	p.digest.Recheck(account(1))
	if err := p.check(1); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("after memory let go: %v", err)
	}
}

// TestRecordsThatAreReadOnOpeningAreComparedThen is about those that no key's use would
// find.
func TestRecordsThatAreReadOnOpeningAreComparedThen(t *testing.T) {
	t.Parallel()
	for _, key := range [][]byte{record.TokenKey("tok_1"), []byte(record.SpaceJobs + "1"), record.MetaClock, record.MetaAudit} {
		p := newProcess(t)
		for _, value := range []string{"before", "after"} {
			if err := p.Do(func(tx committest.Transaction) error { return tx.Set(key, []byte(value)) }, nil); err != nil {
				t.Fatal(err)
			}
		}
		mustOpen(t, p.disk)
		change(t, p.disk, func(tx store.Tx) error { return tx.Set(key, []byte("before")) })
		if _, err := open(t, p.disk); !errors.Is(err, store.ErrDoubt) {
			t.Errorf("%s went back: %v", key, err)
		}
	}
}

func TestARebuildMakesAStoreAgreeWithItsRecords(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	disk := p.disk
	change(t, disk, func(tx store.Tx) error { return tx.Set(record.AccountKey(account(1)), []byte("repaired")) })
	r, err := integrity.NewRebuild(disk.Open(), disk.Files(), anchorPath)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, disk); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("while it is rebuilt: %v", err)
	}
	for range 2 { // the first run of the transaction is rolled back
		r.Begin()
		r.Add(account(1), []byte("former"))
		r.Take(account(1), []byte("former"))
		for i, value := range []string{"before", "repaired", "before", "before", "before"} {
			r.Add(account(byte(i)), []byte(value))
		}
	}
	r.Committed()
	change(t, disk, r.Finish)
	mustOpen(t, disk.Restarted(false, nil)) // as after a crash before Seal
	if err := errors.Join(r.Seal(), r.Close()); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, disk)
	for i := range byte(5) {
		if err := again.check(i); err != nil {
			t.Errorf("account %d: %v", i, err)
		}
	}
	again.write(1, "after")
	mustOpen(t, disk)
}

func TestAStoreWithoutAnAnchorHasNoDigest(t *testing.T) {
	t.Parallel()
	var d *integrity.Digest
	d.Recheck(account(1))
	err := storetest.NewDisk().Open().View(func(r store.Reader) error { return d.Check(r, account(1)) })
	if err := errors.Join(err, d.Succeeds(newProcess(t).digest), d.Close()); err != nil {
		t.Error(err)
	}
}
