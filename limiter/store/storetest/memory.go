package storetest

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/till-proxy/till/limiter/store"
)

// ErrInjected is what a Disk answers when it was told to fail.
var ErrInjected = errors.New("injected failure")

// Disk is what survives when a Memory store's process dies: the transactions
// that were acknowledged, and possibly the one that was not.
type Disk struct {
	mu      sync.Mutex
	data    map[string][]byte // as of the last commit; replaced, never changed
	commits int

	failAt    int  // the commit that fails; 0: none
	halfWay   bool // the failing commit reaches the disk all the same
	beforeAny func(commit int)
	full      bool

	// The files beside the store; see machine.go.
	files map[string]*content
	maps  map[string][]byte
	steps int
	fault Fault
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{data: map[string][]byte{}, files: map[string]*content{}, maps: map[string][]byte{}}
}

// FailAt lets the n-th commit from now on fail, and each one after it. When
// reached is set the failing commit reaches the disk all the same: its caller
// cannot know.
func (d *Disk) FailAt(n int, reached bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failAt, d.halfWay = d.commits+n, reached
}

// Fill lets every Update say that the disk is nearly full, until Heal.
func (d *Disk) Fill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = true
}

// Heal ends the failing.
func (d *Disk) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failAt, d.full = 0, false
}

// BeforeCommit calls fn before each commit, with its number from 1. It may
// block, and so hold the commit up.
func (d *Disk) BeforeCommit(fn func(commit int)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beforeAny = fn
}

// Commits counts what was committed so far.
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
	next.data = d.data
	return next
}

// Open returns a store on the disk.
func (d *Disk) Open() store.Store { return &memory{disk: d} }

type memory struct{ disk *Disk }

func (m *memory) Update(fn func(store.Tx) error) error {
	d := m.disk
	d.mu.Lock()
	data, before, n, full := maps.Clone(d.data), d.beforeAny, d.commits+1, d.full
	d.mu.Unlock()
	if full {
		return store.ErrNoSpace
	}
	tx := &memoryTx{data: data}
	if err := fn(tx); err != nil {
		return err
	}
	if before != nil {
		before(n)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err, reached := d.step(Commit); err != nil {
		if reached {
			d.data = tx.data
		}
		return err
	}
	d.commits++
	if d.failAt != 0 && d.commits >= d.failAt {
		if d.halfWay && d.commits == d.failAt {
			d.data = tx.data
		}
		return ErrInjected
	}
	d.data = tx.data
	return nil
}

func (m *memory) View(fn func(store.Reader) error) error {
	m.disk.mu.Lock()
	data := m.disk.data
	m.disk.mu.Unlock()
	return fn(&memoryTx{data: data})
}

func (m *memory) Close() error { return nil }

type memoryTx struct{ data map[string][]byte }

func (t *memoryTx) Get(key []byte) ([]byte, error) {
	v, ok := t.data[string(key)]
	if !ok {
		return nil, store.ErrNotFound
	}
	return bytes.Clone(v), nil
}

func (t *memoryTx) Set(key, value []byte) error {
	t.data[string(key)] = bytes.Clone(value)
	return nil
}

func (t *memoryTx) Delete(key []byte) error {
	delete(t.data, string(key))
	return nil
}

func (t *memoryTx) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	keys := slices.Sorted(maps.Keys(t.data))
	if reverse {
		slices.Reverse(keys)
	}
	for _, key := range keys {
		past := after == nil || !reverse && key > string(after) || reverse && key < string(after)
		if !strings.HasPrefix(key, string(prefix)) || !past {
			continue
		}
		more, err := fn([]byte(key), bytes.Clone(t.data[key]))
		if err != nil || !more {
			return err
		}
	}
	return nil
}
