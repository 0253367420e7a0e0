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

const anchorPath = "anchor"

// process has the store of a disk open, with its anchor.
type process struct {
	t      *testing.T
	disk   *storetest.Disk
	digest *integrity.Digest
	*committest.Committer
}

func open(t *testing.T, disk *storetest.Disk) (*process, error) {
	t.Helper()
	d, err := integrity.Open(disk.Files(), anchorPath, disk.Open())
	if err != nil {
		return nil, err
	}
	return &process{t, disk, d, committest.Start(t, disk.Open(), func(o *committest.Options) { o.Guard = d })}, nil
}

func mustOpen(t *testing.T, disk *storetest.Disk) *process {
	t.Helper()
	p, err := open(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newProcess has a store with some accounts.
func newProcess(t *testing.T) *process {
	t.Helper()
	p := mustOpen(t, storetest.NewDisk())
	for i := range byte(5) {
		p.write(i, "before")
	}
	return p
}

func account(n byte) record.AccountID { return record.AccountID{15: n} }

// write commits an account's record, with the format that says that the store is not new.
func (p *process) write(n byte, value string) {
	p.t.Helper()
	if err := p.Do(func(tx committest.Transaction) error {
		return errors.Join(tx.Set(store.FormatKey, []byte("1")), tx.Set(record.AccountKey(account(n)), []byte(value)))
	}, nil); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) check(n byte) error {
	p.t.Helper()
	return p.disk.Open().View(func(r store.Reader) error { return p.digest.Check(r, account(n)) })
}

// file reads a file of a disk.
func file(t *testing.T, disk *storetest.Disk, path string) []byte {
	t.Helper()
	b, err := disk.Files().ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, disk *storetest.Disk, path string, b []byte) {
	t.Helper()
	if err := disk.Files().Replace(path, b); err != nil {
		t.Fatal(err)
	}
}

// change writes to a store as nothing that knows its anchor would.
func change(t *testing.T, disk *storetest.Disk, fn func(tx store.Tx) error) {
	t.Helper()
	if err := disk.Open().Update(fn); err != nil {
		t.Fatal(err)
	}
}
