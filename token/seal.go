package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// The box of a sealed key is base64url, without padding, of
//
//	version (1) | seal key id (8) | nonce (12) | AES-256-GCM of the credential
//
// Its key is HKDF-SHA256 (RFC 5869) of the seal key with the record's salt. Its
// additional data are the version, the seal key id, and everything in [Binding]: a
// box opens only for the key, the upstream and the addresses that it was made for,
// and only with the salt, which only the record's store has.
const (
	boxVersion   = 1
	sealKeyIDLen = 8
	boxHeader    = 1 + sealKeyIDLen
	boxInfo      = "till/box/1"

	// SaltLen is the length of a record's salt in bytes.
	SaltLen = 32

	// MaxCredential bounds the credential in a box, in bytes.
	MaxCredential = 4 << 10
)

// These are the reasons why a box does not open. Neither error says more.
var (
	// ErrBox means that the box was altered, or is not the one that was made for this
	// key, upstream and addresses under this salt.
	ErrBox = errors.New("the sealed key's box does not open")
	// ErrNoSealKey means that the seal key with which the box was made is not
	// configured.
	ErrNoSealKey = errors.New("the seal key that this box was made with is not configured")
)

// SealKeyID identifies a seal key. It reveals nothing of the key itself.
type SealKeyID [sealKeyIDLen]byte

// MarshalText writes lower-case hex.
func (id SealKeyID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads hex.
func (id *SealKeyID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("a seal key's id must be %d hex digits, got %d characters", hex.EncodedLen(len(id)), len(text))
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// IsZero reports whether the id is unset.
func (id SealKeyID) IsZero() bool { return id == SealKeyID{} }

func (id SealKeyID) String() string { return hex.EncodeToString(id[:]) }

// ID returns the id of the seal key.
func (k SealKey) ID() SealKeyID {
	sum := sha256.Sum256([]byte("till/seal-key-id/1\x00" + k.secret.Reveal()))
	return SealKeyID(sum[:sealKeyIDLen])
}

// NewSalt makes the salt of one record.
func NewSalt() (Secret, error) {
	var b [SaltLen]byte
	if _, err := rand.Read(b[:]); err != nil {
		return Secret{}, fmt.Errorf("reading random bytes: %w", err)
	}
	return NewSecret(string(b[:])), nil
}

// Binding is what a box is valid for.
type Binding struct {
	Lookup   Lookup   // the key that carries the box
	Upstream string   // the upstream's name
	Origins  []string // its declared addresses, sorted
}

// Sealer seals credentials with its first key and opens with any.
type Sealer struct {
	keys []SealKey
	ids  []SealKeyID
}

// NewSealer returns a Sealer. There must be at least one key.
func NewSealer(keys ...SealKey) (*Sealer, error) {
	s := new(Sealer)
	for _, k := range keys {
		if k.secret.IsZero() {
			return nil, errors.New("a seal key must not be empty")
		}
		if slices.Contains(s.ids, k.ID()) {
			return nil, errors.New("the same seal key is given twice")
		}
		s.keys, s.ids = append(s.keys, k), append(s.ids, k.ID())
	}
	if len(s.keys) == 0 {
		return nil, errors.New("there must be a seal key")
	}
	return s, nil
}

// IDs returns the ids of the seal keys, of which the first seals.
func (s *Sealer) IDs() []SealKeyID { return slices.Clone(s.ids) }

// Has reports whether boxes made with that seal key can be opened.
func (s *Sealer) Has(id SealKeyID) bool { return slices.Contains(s.ids, id) }

// Seal puts a credential into a box.
func (s *Sealer) Seal(salt Secret, b Binding, credential Secret) (Secret, SealKeyID, error) {
	text := credential.Reveal()
	if text == "" || len(text) > MaxCredential {
		return Secret{}, SealKeyID{}, fmt.Errorf("a credential must be from 1 to %d bytes long, got %d", MaxCredential, len(text))
	}
	aead, err := boxCipher(s.keys[0], salt)
	if err != nil {
		return Secret{}, SealKeyID{}, err
	}
	box := make([]byte, boxHeader+aead.NonceSize(), boxHeader+aead.NonceSize()+len(text)+aead.Overhead())
	box[0] = boxVersion
	copy(box[1:], s.ids[0][:])
	nonce := box[boxHeader:]
	if _, err := rand.Read(nonce); err != nil {
		return Secret{}, SealKeyID{}, fmt.Errorf("reading random bytes: %w", err)
	}
	box = aead.Seal(box, nonce, []byte(text), b.additional(box[:boxHeader]))
	return NewSecret(base64.RawURLEncoding.EncodeToString(box)), s.ids[0], nil
}

// Open decrypts the credential in a box made with the seal key id. It returns ErrBox,
// or ErrNoSealKey if the box names that key and the key is not configured.
func (s *Sealer) Open(box string, id SealKeyID, salt Secret, b Binding) (Secret, error) {
	if !validBox(box) { // the decoder would skip line ends
		return Secret{}, ErrBox
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(box)
	if err != nil || len(raw) <= boxHeader || raw[0] != boxVersion || SealKeyID(raw[1:boxHeader]) != id || salt.IsZero() {
		return Secret{}, ErrBox
	}
	at := slices.Index(s.ids, id)
	if at < 0 {
		return Secret{}, ErrNoSealKey
	}
	aead, err := boxCipher(s.keys[at], salt)
	if err != nil {
		return Secret{}, err
	}
	header, rest := raw[:boxHeader], raw[boxHeader:]
	if len(rest) <= aead.NonceSize() {
		return Secret{}, ErrBox
	}
	text, err := aead.Open(nil, rest[:aead.NonceSize()], rest[aead.NonceSize():], b.additional(header))
	if err != nil {
		return Secret{}, ErrBox
	}
	return NewSecret(string(text)), nil
}

func boxCipher(key SealKey, salt Secret) (cipher.AEAD, error) {
	if len(salt.Reveal()) != SaltLen {
		return nil, ErrBox
	}
	derived, err := hkdf.Key(sha256.New, []byte(key.secret.Reveal()), []byte(salt.Reveal()), boxInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("deriving a box's key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("preparing a box's cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

// additional returns what a box is bound to. Each part is preceded by its length, so
// that no two bindings have the same form.
func (b Binding) additional(header []byte) []byte {
	data := slices.Clone(header)
	for _, part := range append([]string{string(b.Lookup[:]), b.Upstream}, b.Origins...) {
		data = binary.BigEndian.AppendUint32(data, uint32(len(part)))
		data = append(data, part...)
	}
	return data
}
