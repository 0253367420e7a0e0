package token

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// SealKeyLen is the length of a seal key in bytes.
const SealKeyLen = 32

// SealKey is the server's own key, under which the credentials inside sealed
// keys are encrypted. It redacts itself like a Secret.
type SealKey struct{ secret Secret }

// String implements fmt.Stringer.
func (SealKey) String() string { return redacted }

// ParseSealKey reads 32 bytes in base64 (standard or URL, padded or not) or
// in hex.
func ParseSealKey(s string) (SealKey, error) {
	s = strings.TrimSpace(s)
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString,
		base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString,
		base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if b, err := decode(s); err == nil && len(b) == SealKeyLen {
			return SealKey{NewSecret(string(b))}, nil
		}
	}
	return SealKey{}, fmt.Errorf("a seal key must be %d bytes in base64 or hex, alone; make one with: openssl rand -base64 32", SealKeyLen)
}

// NewSealKey makes a seal key.
func NewSealKey() (SealKey, error) {
	var key [SealKeyLen]byte
	if _, err := rand.Read(key[:]); err != nil {
		return SealKey{}, fmt.Errorf("reading random bytes: %w", err)
	}
	return SealKey{NewSecret(string(key[:]))}, nil
}

const maxSealKeyFile = 1 << 20

// LoadOrCreateSealKeys reads the seal keys in the file at path, creating the file and
// its directory if they are missing. The file has one key per line, of which the
// first seals, and comments that begin with #. A file that others may read is
// refused. Processes that start at the same time get the same key.
func LoadOrCreateSealKeys(path string) ([]SealKey, error) {
	keys, err := LoadSealKeys(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	key, err := NewSealKey()
	if err != nil {
		return nil, err
	}
	// If several processes write, the first wins.
	if err := writeSealKeys(path, []byte(key.line(time.Now())), os.Link); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the seal key: %w", err)
	}
	return LoadSealKeys(path)
}

// AddSealKey inserts a seal key before those in the file at path.
func AddSealKey(path string, key SealKey) error {
	before, err := readSealKeys(path)
	if err != nil {
		return err
	}
	if err := writeSealKeys(path, append([]byte(key.line(time.Now())), before...), os.Rename); err != nil {
		return fmt.Errorf("writing the seal key: %w", err)
	}
	return nil
}

func (k SealKey) line(now time.Time) string {
	return fmt.Sprintf("# %s, made %s\n%s\n", k.ID(), now.UTC().Format(time.DateOnly),
		base64.StdEncoding.EncodeToString([]byte(k.secret.Reveal())))
}

// LoadSealKeys reads the seal keys in the file at path, which must exist.
func LoadSealKeys(path string) ([]SealKey, error) {
	b, err := readSealKeys(path)
	if err != nil {
		return nil, err
	}
	var keys []SealKey
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, err := ParseSealKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, n, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no seal key in %s; if it never held one, remove the file: another is made", path)
	}
	return keys, nil
}

func readSealKeys(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would block
	if err != nil {
		return nil, fmt.Errorf("reading the seal key: %w", err)
	}
	defer f.Close() //nolint:errcheck // the file was only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the seal key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading the seal key: %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("the seal key %s may be read by others (mode %04o); run: chmod 600 %s", path, mode, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSealKeyFile))
	if err != nil {
		return nil, fmt.Errorf("reading the seal key: %w", err)
	}
	return b, nil
}

// writeSealKeys writes a file beside path and then moves it into place, so that
// nobody ever reads half a file.
func writeSealKeys(path string, content []byte, put func(from, to string) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".seal-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a file that was moved into place is gone
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := put(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
