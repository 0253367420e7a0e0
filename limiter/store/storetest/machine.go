package storetest

import (
	"bytes"
	"fmt"
	"io/fs"

	"github.com/till-proxy/till/limiter/store"
)

// Step is one action of a limiter on its disk, at which a fault can occur.
type Step string

// The steps. Each can fail before it has any effect, or after.
const (
	Commit   Step = "commit"
	Write    Step = "write"   // in place, into the anchor
	Sync     Step = "sync"    // of that
	Replace  Step = "replace" // of a whole file
	OpenFile Step = "open"    // of a file, for reading or writing
	Map      Step = "map"     // of the shadow counter
)

// Fault gets each step, and says whether the step fails, and whether it takes
// effect all the same.
type Fault func(n int, step Step) (err error, reached bool)

// Inject lets fn decide about each step from now on; nil ends it.
func (d *Disk) Inject(fn Fault) { d.set(func() { d.fault = fn }) }

// Steps counts the steps so far.
func (d *Disk) Steps() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.steps
}

// step counts a step and asks for a fault. It is called with the lock held.
func (d *Disk) step(s Step) (err error, reached bool) {
	d.steps++
	if d.fault == nil {
		return nil, true
	}
	err, reached = d.fault(d.steps, s)
	return err, reached || err == nil
}

// content is a file: what a process reads, and what a power cut leaves.
type content struct{ cached, durable []byte }

// Restarted is the disk as found by a process that starts after a kill, or after
// a power cut. After a power cut, each sector that was not synced may be the old
// one or the new one, as torn says, and mapped content is gone.
func (d *Disk) Restarted(power bool, torn func() bool) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := NewDisk()
	next.data, next.commits = d.data, d.commits
	for path, f := range d.files {
		b := bytes.Clone(f.cached)
		if power {
			for at := 0; at < len(b); at += sector {
				if end := min(at+sector, len(b)); torn() {
					copy(b[at:end], f.durable[at:end])
				}
			}
		}
		next.files[path] = &content{b, bytes.Clone(b)}
	}
	if !power {
		for path, b := range d.maps {
			next.maps[path] = bytes.Clone(b)
		}
	}
	return next
}

const sector = 512

// TakeData puts the store of another disk in place of this one's, as when a backup
// of it is restored, and leaves the files beside it.
func (d *Disk) TakeData(from *Disk) {
	from.mu.Lock()
	data := from.data
	from.mu.Unlock()
	d.set(func() { d.data = data })
}

// Files returns the files beside the store.
func (d *Disk) Files() store.Disk { return files{d} }

type files struct{ *Disk }

// ReadFile implements store.Disk.
func (d files) ReadFile(path string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err, _ := d.step(OpenFile); err != nil {
		return nil, err
	}
	f := d.Disk.files[path]
	if f == nil {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return bytes.Clone(f.cached), nil
}

// Replace implements store.Disk.
func (d files) Replace(path string, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err, reached := d.step(Replace)
	if reached {
		d.files[path] = &content{bytes.Clone(b), bytes.Clone(b)}
	}
	return err
}

// Open implements store.Disk.
func (d files) Open(path string) (store.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err, _ := d.step(OpenFile); err != nil {
		return nil, err
	}
	f := d.Disk.files[path]
	if f == nil {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return &file{d.Disk, f}, nil
}

// mostMapped is how much of a file is mapped at most: every restart of a simulated
// machine copies, clears and reads all of it, and a simulation restarts thousands
// of times.
const mostMapped = 128 << 10

// Map implements store.Disk.
func (d files) Map(path string, size int) (store.Mapping, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err, _ := d.step(Map); err != nil {
		return nil, err
	}
	size = min(size, mostMapped)
	b := d.maps[path]
	if len(b) != size {
		b = make([]byte, size)
		d.maps[path] = b
	}
	return mapped(b), nil
}

type file struct {
	disk *Disk
	c    *content
}

func (f *file) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if int(at)+len(b) > len(f.c.cached) {
		return 0, fmt.Errorf("writing %d bytes at %d of %d", len(b), at, len(f.c.cached))
	}
	err, reached := f.disk.step(Write)
	if reached {
		copy(f.c.cached[at:], b)
	}
	return len(b), err
}

func (f *file) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	err, reached := f.disk.step(Sync)
	if reached {
		f.c.durable = bytes.Clone(f.c.cached)
	}
	return err
}

func (f *file) Close() error { return nil }

type mapped []byte

func (m mapped) Bytes() []byte { return m }
func (m mapped) Close() error  { return nil }

// Interface guards
var (
	_ store.Disk    = files{}
	_ store.File    = (*file)(nil)
	_ store.Mapping = mapped(nil)
)
