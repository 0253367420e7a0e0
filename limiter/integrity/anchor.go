package integrity

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/till-proxy/till/limiter/store"
)

// The anchor is a small file that knows the last commit that was acknowledged. It is
// written after the commit and before it is acknowledged, so a store that is behind
// its anchor has lost something, and a store that is ahead by one was cut off between
// the two. Two slots are written in turn, so that a torn write of one leaves the
// other.
//
//	0     magic 8 | secret of the digest 32 | store's id 16 | CRC-32C 4
//	512   commit 8 | root 16 | CRC-32C 4     the even commits
//	1024  the same                           the odd ones
type anchor struct {
	path   string
	disk   store.Disk
	file   store.File
	secret [32]byte
	store  [16]byte
	seq    uint64
	root   sum
}

const (
	anchorMagic  = "tillanc1"
	anchorHeader = 8 + 32 + 16 + 4
	anchorSlot   = 8 + 16 + 4
	anchorSector = 512 // what a disk writes atomically
	anchorSize   = 3 * anchorSector
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sealed(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func unsealed(b []byte) ([]byte, bool) {
	n := len(b) - 4
	return b[:n], crc32.Checksum(b[:n], castagnoli) == binary.BigEndian.Uint32(b[n:])
}

// openAnchor opens the anchor at path. If there is none, it makes a new one when
// fresh is set; otherwise the store is in doubt.
func openAnchor(disk store.Disk, path string, fresh bool) (*anchor, error) {
	a := &anchor{path: path, disk: disk}
	b, err := disk.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && fresh:
		return a, a.create()
	case errors.Is(err, fs.ErrNotExist):
		return a, store.Doubt("its anchor %s is missing", path)
	case err != nil:
		return a, fmt.Errorf("opening the anchor: %w", err)
	case len(b) != anchorSize || string(b[:8]) != anchorMagic:
		return a, store.Doubt("%s is no anchor", path)
	}
	header, ok := unsealed(b[:anchorHeader])
	if !ok {
		return a, store.Doubt("its anchor %s is damaged", path)
	}
	copy(a.secret[:], header[8:])
	copy(a.store[:], header[40:])
	valid := false
	for i := 1; i <= 2; i++ {
		slot, ok := unsealed(b[i*anchorSector:][:anchorSlot])
		if seq := binary.BigEndian.Uint64(slot); ok && (!valid || seq > a.seq) {
			valid, a.seq, a.root = true, seq, sum(slot[8:])
		}
	}
	if !valid {
		return a, store.Doubt("its anchor %s is damaged", path)
	}
	if a.file, err = disk.Open(path); err != nil {
		return a, fmt.Errorf("opening the anchor: %w", err)
	}
	return a, nil
}

// create writes a new anchor for a store without commits.
func (a *anchor) create() error {
	if _, err := rand.Read(a.secret[:]); err != nil {
		return err
	}
	if _, err := rand.Read(a.store[:]); err != nil {
		return err
	}
	return a.replace()
}

// replace writes a complete new anchor in place of the old one.
func (a *anchor) replace() (err error) {
	b := make([]byte, anchorSize)
	copy(b, sealed(append(append([]byte(anchorMagic), a.secret[:]...), a.store[:]...)))
	slot := a.slot()
	copy(b[anchorSector:], slot)
	copy(b[2*anchorSector:], slot)
	if err := a.disk.Replace(a.path, b); err != nil {
		return fmt.Errorf("making the anchor: %w", err)
	}
	if a.file != nil {
		err = a.file.Close()
	}
	file, openErr := a.disk.Open(a.path)
	a.file = file
	return errors.Join(err, openErr)
}

func (a *anchor) slot() []byte {
	return sealed(append(binary.BigEndian.AppendUint64(nil, a.seq), a.root[:]...))
}

// write makes a commit known. It returns once that is on the disk.
func (a *anchor) write(seq uint64, root sum) error {
	a.seq, a.root = seq, root
	if _, err := a.file.WriteAt(a.slot(), anchorSector*int64(1+seq%2)); err != nil {
		return fmt.Errorf("writing the anchor: %w", err)
	}
	if err := a.file.Sync(); err != nil {
		return fmt.Errorf("writing the anchor: %w", err)
	}
	return nil
}

func (a *anchor) close() error {
	if a == nil || a.file == nil {
		return nil
	}
	return a.file.Close()
}
