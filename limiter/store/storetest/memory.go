package storetest

import (
	"bytes"
	"errors"
	"sync"

	"github.com/till-proxy/till/limiter/store"
)

// ErrInjected is the error of a Disk that was set to fail.
var ErrInjected = errors.New("injected failure")

// Disk is what survives when a Memory store's process dies: the transactions
// that were acknowledged, and possibly the one that was not.
type Disk struct {
	mu      sync.Mutex
	data    table // as of the last commit; replaced, never changed
	commits int

	failAt    int  // the commit that fails; 0: none
	halfWay   bool // the failing commit reaches the disk all the same
	beforeAny func(commit int)
	full      bool
	most      int // entries that a transaction may write; 0: any number

	// The files beside the store; see machine.go.
	files map[string]*content
	maps  map[string][]byte
	steps int
	fault Fault
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{files: map[string]*content{}, maps: map[string][]byte{}}
}

// FailAt lets the n-th commit from now on fail, and each one after it. When
// reached is set the failing commit reaches the disk all the same: its caller
// cannot know.
func (d *Disk) FailAt(n int, reached bool) {
	d.set(func() { d.failAt, d.halfWay = d.commits+n, reached })
}

// Fill lets every Update say that the disk is nearly full, until Heal.
func (d *Disk) Fill() { d.set(func() { d.full = true }) }

// Limit lets no transaction write more entries than most.
func (d *Disk) Limit(most int) { d.set(func() { d.most = most }) }

// Heal ends the failing.
func (d *Disk) Heal() { d.set(func() { d.failAt, d.full = 0, false }) }

// BeforeCommit calls fn before each commit, with its number from 1. It may
// block, and so hold the commit up.
func (d *Disk) BeforeCommit(fn func(commit int)) { d.set(func() { d.beforeAny = fn }) }

func (d *Disk) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// Commits counts the commits so far, also those that failed.
func (d *Disk) Commits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commits
}

// Snapshot is a disk with what this one holds now: what a restart after a
// kill at this moment finds.
func (d *Disk) Snapshot() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := NewDisk()
	next.data, next.most = d.data, d.most
	return next
}

// Open returns a store on the disk.
func (d *Disk) Open() store.Store { return &memory{disk: d} }

type memory struct {
	disk    *Disk
	nesting nesting
}

func (m *memory) Update(fn func(store.Tx) error) error {
	d := m.disk
	d.mu.Lock()
	data, before, n, full, most := d.data, d.beforeAny, d.commits+1, d.full, d.most
	d.mu.Unlock()
	if full {
		return store.ErrNoSpace
	}
	tx := &memoryTx{overlay: overlay{base: data, changes: map[string]change{}}, most: most}
	if err := m.nesting.transaction(func() error { return fn(tx) }); err != nil {
		return err
	}
	data = data.with(tx.changes)
	if before != nil {
		before(n)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err, reached := d.step(Commit); err != nil {
		if reached {
			d.data = data
		}
		return err
	}
	d.commits++
	if d.failAt != 0 && d.commits >= d.failAt {
		if d.halfWay && d.commits == d.failAt {
			d.data = data
		}
		return ErrInjected
	}
	d.data = data
	return nil
}

func (m *memory) View(fn func(store.Reader) error) error {
	m.disk.mu.Lock()
	data := m.disk.data
	m.disk.mu.Unlock()
	return m.nesting.view(func() error { return fn(data) })
}

func (m *memory) Close() error { return nil }

type memoryTx struct {
	overlay
	most   int // writes that fit; 0: any number
	writes int
}

func (t *memoryTx) Set(key, value []byte) error {
	return t.write(key, change{value: bytes.Clone(value)})
}

func (t *memoryTx) Delete(key []byte) error { return t.write(key, change{deleted: true}) }

func (t *memoryTx) write(key []byte, ch change) error {
	if t.most != 0 && t.writes >= t.most {
		return store.ErrTooBig
	}
	t.writes++
	t.changes[string(key)] = ch
	return nil
}
