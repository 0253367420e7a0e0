package token

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
	return SealKey{}, fmt.Errorf("a seal key must be %d bytes in base64 or hex, got %d characters; make one with: openssl rand -base64 32", SealKeyLen, len(s))
}

// LoadOrCreateSealKey reads the seal key in the file at path, making file and
// directory when they are missing. A file that others may read is refused.
// Processes that start at once end up with the same key.
func LoadOrCreateSealKey(path string) (SealKey, error) {
	key, err := loadSealKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := createSealKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return SealKey{}, fmt.Errorf("making the seal key: %w", err)
	}
	return loadSealKey(path)
}

func loadSealKey(path string) (SealKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return SealKey{}, fmt.Errorf("reading the seal key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return SealKey{}, fmt.Errorf("the seal key %s may be read by others (mode %04o); run: chmod 600 %s", path, mode, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return SealKey{}, fmt.Errorf("reading the seal key: %w", err)
	}
	key, err := ParseSealKey(string(b))
	if err != nil {
		return SealKey{}, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// createSealKey writes a new key beside path and links it into place, so that
// nobody ever reads half of one, and the first of several writers wins.
func createSealKey(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var key [SealKeyLen]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".seal-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
