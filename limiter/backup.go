package limiter

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A backup is every record of one moment, and a checksum over them all:
//
//	magic 9 | records: key length, key, value length, value | 0 | number of
//	records, 8 bytes | SHA-256 of all before
//
// Lengths are unsigned varints. Records that concern this store and moment alone are
// left out: its commit, its digest, its session. So are the indexes, which are made again,
// and, unless they are asked for, the salts of sealed keys, without which no box opens.
const backupMagic = "tillbak1\n"

// maxBackupValue bounds one record of a backup that is read, in bytes.
const maxBackupValue = 16 << 20

// ErrBackup is wrapped by the errors about a file that is not a complete backup.
var ErrBackup = errors.New("this is not a complete backup")

// Backup writes a backup to w while the store is in use, and returns how many
// keys are in it. It includes all use up to the moment that it shows; what is then
// reserved counts as spent.
func (l *Limiter) Backup(ctx context.Context, by Caller, w io.Writer, withSalts bool) (keys int64, err error) {
	if err := l.authorise(by, record.Everything, nil); err != nil {
		return 0, err
	}
	if err := l.saveAll(); err != nil {
		return 0, fmt.Errorf("saving what keys used: %w", err)
	}
	err = l.committer.Do(func(b *batch) error {
		return b.audit(by.entry(audit.ActStoreBackup, "", map[string]record.Delta{"with_seal": {Before: nil, After: withSalts}}))
	}, nil)
	if err != nil {
		return 0, fmt.Errorf("writing the audit log: %w", err)
	}
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	if _, err := out.WriteString(backupMagic); err != nil {
		return 0, err
	}
	var records uint64
	err = store.Browse(l.store, func(r store.Reader) error {
		return r.Scan(nil, nil, false, func(key, value []byte) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if !inBackup(key, withSalts) {
				return true, nil
			}
			records++
			if bytes.HasPrefix(key, []byte(record.SpaceKeys)) {
				keys++
			}
			head := binary.AppendUvarint(nil, uint64(len(key)))
			head = binary.AppendUvarint(append(head, key...), uint64(len(value)))
			if _, err := out.Write(head); err != nil {
				return false, err
			}
			_, err := out.Write(value)
			return true, err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("writing the backup: %w", err)
	}
	if _, err := out.Write(binary.BigEndian.AppendUint64([]byte{0}, records)); err != nil {
		return 0, fmt.Errorf("writing the backup: %w", err)
	}
	if err := out.Flush(); err != nil {
		return 0, fmt.Errorf("writing the backup: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return 0, fmt.Errorf("writing the backup: %w", err)
	}
	return keys, nil
}

func inBackup(key []byte, withSalts bool) bool {
	switch {
	case bytes.Equal(key, record.MetaCommit), bytes.Equal(key, record.MetaSession), bytes.HasPrefix(key, []byte(record.SpaceBuckets)), bytes.HasPrefix(key, []byte(spaceIndexes)):
		return false
	case bytes.HasPrefix(key, []byte(record.SpaceSalts)):
		return withSalts
	}
	return true
}

// backupReader reads records and checks that the file is whole.
type backupReader struct {
	r       *bufio.Reader
	sum     hash.Hash
	records uint64
}

func newBackupReader(r io.Reader) (*backupReader, error) {
	b := &backupReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	magic := make([]byte, len(backupMagic))
	if err := b.read(magic); err != nil || string(magic) != backupMagic {
		return nil, fmt.Errorf("%w: it does not begin like one", ErrBackup)
	}
	return b, nil
}

func (b *backupReader) read(p []byte) error {
	if _, err := io.ReadFull(b.r, p); err != nil {
		return fmt.Errorf("%w: it ends too early", ErrBackup)
	}
	b.sum.Write(p)
	return nil
}

// ReadByte implements io.ByteReader, for varints.
func (b *backupReader) ReadByte() (byte, error) {
	var p [1]byte
	err := b.read(p[:])
	return p[0], err
}

func (b *backupReader) field(limit uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(b)
	if err != nil || n > limit {
		return nil, errors.Join(fmt.Errorf("%w: record %d", ErrBackup, b.records), err)
	}
	p := make([]byte, n)
	return p, b.read(p)
}

// next returns a record; io.EOF at the end of a whole backup.
func (b *backupReader) next() (key, value []byte, err error) {
	if key, err = b.field(1 << 10); err != nil {
		return nil, nil, err
	}
	if len(key) > 0 {
		b.records++
		value, err = b.field(maxBackupValue)
		return key, value, err
	}
	var count [8]byte
	if err := b.read(count[:]); err != nil {
		return nil, nil, err
	}
	want := b.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(b.r, got); err != nil || !bytes.Equal(got, want) || binary.BigEndian.Uint64(count[:]) != b.records {
		return nil, nil, fmt.Errorf("%w: its checksum is wrong", ErrBackup)
	}
	if _, err := b.r.ReadByte(); err != io.EOF {
		return nil, nil, fmt.Errorf("%w: something follows it", ErrBackup)
	}
	return nil, nil, io.EOF
}

// CheckBackup reads a backup to its end and returns how many keys are in it. The
// error wraps ErrBackup if the backup is not whole.
func CheckBackup(r io.Reader) (keys int64, err error) {
	err = eachRecord(r, func(key, _ []byte) error {
		if bytes.HasPrefix(key, []byte(record.SpaceKeys)) {
			keys++
		}
		return nil
	})
	return keys, err
}

// Restored counts what Restore did.
type Restored struct {
	Keys      int64
	Suspended int64 // keys that were alive
	Tokens    int64 // admin tokens that were active, and are revoked now
	Sealed    int64 // sealed keys that were not revoked, with their salts
	Unsalted  int64 // such keys without their salts, whose boxes open for nobody
}

// Restore puts a backup into an empty store, and makes an anchor for it. The whole backup
// is checked before anything is written. What was used or revoked since the backup is not
// known, so keys that were alive in it are suspended and admin tokens revoked, unless
// trust is set.
func Restore(o Offline, by Caller, backup io.ReadSeeker, trust bool) (Restored, error) {
	if err := onlyOperator(by); err != nil {
		return Restored{}, err
	}
	o.complete()
	s, format := o.Store, store.Format
	err := eachRecord(backup, func(key, value []byte) error {
		if bytes.Equal(key, store.FormatKey) {
			format = string(value)
		}
		return nil
	})
	if err == nil && format != store.Format {
		err = store.OtherFormat([]byte(format))
	}
	if err != nil {
		return Restored{}, err
	}
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return Restored{}, err
	}
	err = s.View(func(r store.Reader) error {
		return r.Scan(nil, nil, false, func([]byte, []byte) (bool, error) {
			return false, errors.New("the store is not empty: move it away first, with its anchor")
		})
	})
	if err != nil {
		return Restored{}, err
	}
	switch _, err := o.Disk.ReadFile(o.Anchor); {
	case err == nil:
		return Restored{}, fmt.Errorf("%s is the anchor of a store, which would never open again without it: move it away first, with its store", o.Anchor)
	case !errors.Is(err, fs.ErrNotExist):
		return Restored{}, fmt.Errorf("looking for an anchor: %w", err)
	}
	if err := s.Update(integrity.PutInDoubt); err != nil { // until all of it is there
		return Restored{}, err
	}
	var keys, values [][]byte
	size := 0
	flush := func() error {
		err := s.Update(func(tx store.Tx) error {
			for i, key := range keys {
				if err := tx.Set(key, values[i]); err != nil {
					return err
				}
			}
			return nil
		})
		keys, values, size = keys[:0], values[:0], 0
		return err
	}
	err = eachRecord(backup, func(key, value []byte) error {
		if !inBackup(key, true) {
			return fmt.Errorf("%w: it holds what no backup does", ErrBackup)
		}
		keys, values = append(keys, key), append(values, value)
		if size += len(key) + len(value); size < repairBytes && len(keys) < repairStep {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	r := rebuild{store: s, disk: o.Disk, now: o.Now, by: by, action: audit.ActStoreRestore, suspend: !trust}
	if err := r.run(o.Anchor); err != nil {
		return Restored{}, err
	}
	o.Logger.Warn("a backup was restored", "keys", r.done.Keys, "suspended", r.done.Suspended, "tokens_revoked", r.done.Tokens, "trusted", trust)
	return Restored{Keys: r.done.Keys, Suspended: r.done.Suspended, Tokens: r.done.Tokens, Sealed: r.done.sealed, Unsalted: r.done.unsalted}, nil
}

func eachRecord(backup io.Reader, fn func(key, value []byte) error) error {
	b, err := newBackupReader(backup)
	if err != nil {
		return err
	}
	for {
		key, value, err := b.next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = fn(key, value)
		}
		if err != nil {
			return err
		}
	}
}
