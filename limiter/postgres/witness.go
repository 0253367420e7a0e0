package postgres

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/till-proxy/till/limiter/store"
)

// witness remembers, beside the database, the last acknowledged commit of this node: a
// database with fewer commits is older than it was. It is a memory-mapped file: the writes
// of a killed process stay, and after a power cut the number is at worst an older one,
// which is no reason to doubt.
type witness struct {
	mapping  store.Mapping // nil: none
	database string
	// generation is that of the database. A repair raises it, and after that the number
	// of commits that was acknowledged before means nothing.
	generation int64
	batch      int64
}

const (
	witnessSize  = 64
	witnessMagic = "tillpg01"
)

// openWitness maps the file. One that was written in part is taken for an empty one.
func openWitness(disk store.Disk, path string) (*witness, error) {
	if path == "" {
		return &witness{}, nil
	}
	mapping, err := disk.Map(path, witnessSize)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	w := &witness{mapping: mapping}
	if b := mapping.Bytes(); string(b[:8]) == witnessMagic && binary.BigEndian.Uint32(b[60:]) == crc32.ChecksumIEEE(b[:60]) {
		w.batch, w.database = int64(binary.BigEndian.Uint64(b[8:])), string(b[16:16+databaseLen])
		w.generation = int64(binary.BigEndian.Uint64(b[52:]))
	}
	return w, nil
}

// databaseLen is the length of a database's id.
const databaseLen = 36

// of returns the last acknowledged commit of this database, if the witness is about it.
func (w *witness) of(database string, generation int64) (batch int64, known bool) {
	if w.database != database || w.generation != generation {
		return 0, false
	}
	return w.batch, true
}

func (w *witness) acknowledge(database string, generation, batch int64) {
	w.database, w.generation, w.batch = database, generation, batch
	if w.mapping == nil {
		return
	}
	var b [witnessSize]byte
	copy(b[:], witnessMagic)
	binary.BigEndian.PutUint64(b[8:], uint64(batch))
	copy(b[16:16+databaseLen], database)
	binary.BigEndian.PutUint64(b[52:], uint64(generation))
	binary.BigEndian.PutUint32(b[60:], crc32.ChecksumIEEE(b[:60]))
	copy(w.mapping.Bytes(), b[:])
}

func (w *witness) close() error {
	if w.mapping == nil {
		return nil
	}
	return w.mapping.Close()
}
