package limiter

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

const (
	fingerprintKeyLen = 32
	fingerprintLen    = 16 // bytes, of 32
	fingerprintInfo   = "till/credential/1\x00"
)

// fingerprints name real keys in the records of one store.
type fingerprints struct{ secret token.Secret }

// Fingerprint names a real key without showing it: an HMAC-SHA256 under a
// random secret of this store, cut in half. It cannot be reversed, and the same
// key has a different fingerprint in another store. Only the owner of the store
// could try guesses, and a real key has too much entropy for that.
func (f *fingerprints) Fingerprint(credential token.Secret) string {
	h := hmac.New(sha256.New, []byte(f.secret.Reveal()))
	h.Write([]byte(fingerprintInfo))
	h.Write([]byte(credential.Reveal()))
	return hex.EncodeToString(h.Sum(nil)[:fingerprintLen])
}

// makeFingerprintKey makes the secret of a new store.
func makeFingerprintKey(tx store.Tx) error {
	if _, err := tx.Get(record.MetaSecret); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	var key [fingerprintKeyLen]byte
	if _, err := rand.Read(key[:]); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	return tx.Set(record.MetaSecret, key[:])
}

func readFingerprintKey(r store.Reader) (token.Secret, error) {
	b, err := r.Get(record.MetaSecret)
	if err == nil && len(b) != fingerprintKeyLen {
		err = record.ErrRecord
	}
	if err != nil {
		return token.Secret{}, fmt.Errorf("the secret of fingerprints: %w", err)
	}
	return token.NewSecret(string(b)), nil
}
