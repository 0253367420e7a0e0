package token

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"strings"
)

// A key's string is a prefix, 22 base62 characters of 128 random bits, and 6 base62
// characters of the CRC-32 (IEEE) of everything before them:
//
//	till_sk_ 7n42DGM5Tflk9n8mt7Fhc7 2xQ9Lk [. box of a sealed key]
//
// The checksum distinguishes a mangled string from an unknown one without a look-up,
// even offline.
const (
	KeyPrefix   = "till_sk_"
	AdminPrefix = "till_admin_"
	randomLen   = 22
	checksumLen = 6
	alphabet    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

	// looseKeyPrefix may precede a key for tools that require it.
	looseKeyPrefix = "sk-"

	// MaxBox bounds the box of a sealed key, in bytes of base64.
	MaxBox = 8 << 10
)

// These are the reasons why a string is not a key. Neither error quotes the string.
var (
	// ErrMalformed means that the length, the alphabet or the prefix is wrong.
	ErrMalformed = errors.New("malformed key")
	// ErrChecksum means that the string was altered or truncated.
	ErrChecksum = errors.New("the key's checksum does not match")
)

// Lookup is the SHA-256 of a string's first part, by which the store finds a key. It
// is not secret.
type Lookup [sha256.Size]byte

// MarshalText writes lower-case hex.
func (l Lookup) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, l[:]), nil }

// UnmarshalText reads hex.
func (l *Lookup) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(l)) {
		return fmt.Errorf("lookup must be %d hex digits, got %d characters", hex.EncodedLen(len(l)), len(text))
	}
	if _, err := hex.Decode(l[:], text); err != nil {
		return fmt.Errorf("lookup must be hex: %w", err)
	}
	return nil
}

func (l Lookup) String() string { return hex.EncodeToString(l[:]) }

// Parsed is a well-formed key string.
type Parsed struct {
	Lookup Lookup
	// Box is what follows the dot of a sealed key; empty for a held one.
	Box string
}

// MintKey generates the string of a new scoped key.
func MintKey() (Secret, Lookup, error) { return mint(KeyPrefix) }

// MintAdmin generates the string of a new admin token.
func MintAdmin() (Secret, Lookup, error) { return mint(AdminPrefix) }

func mint(prefix string) (Secret, Lookup, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return Secret{}, Lookup{}, fmt.Errorf("reading random bytes: %w", err)
	}
	b := append(make([]byte, 0, len(prefix)+randomLen+checksumLen), prefix...)
	var hi, lo uint64
	for i := range 8 {
		hi = hi<<8 | uint64(random[i])
		lo = lo<<8 | uint64(random[8+i])
	}
	b = appendBase62(b, hi, lo, randomLen)
	b = appendBase62(b, 0, uint64(crc32.ChecksumIEEE(b)), checksumLen)
	return NewSecret(string(b)), sha256.Sum256(b), nil
}

// appendBase62 writes a 128-bit number with exactly n digits, the most
// significant first.
func appendBase62(b []byte, hi, lo uint64, n int) []byte {
	start := len(b)
	b = append(b, strings.Repeat("0", n)...)
	for i := start + n - 1; i >= start; i-- {
		var rem uint64
		hi, rem = hi/62, hi%62
		lo, rem = bits.Div64(rem, lo, 62)
		b[i] = alphabet[rem]
	}
	return b
}

// ParseKey parses the string of a scoped key, with or without "sk-" in front. It
// checks only the form; the store knows whether the key exists. A valid key without a
// box causes no allocation.
func ParseKey(s string) (Parsed, error) {
	s = strings.TrimPrefix(s, looseKeyPrefix)
	first, box, sealed := strings.Cut(s, ".")
	if sealed && !validBox(box) {
		return Parsed{}, ErrMalformed
	}
	lookup, err := parse(KeyPrefix, first)
	return Parsed{Lookup: lookup, Box: box}, err
}

// ParseAdmin parses the string of an admin token.
func ParseAdmin(s string) (Lookup, error) { return parse(AdminPrefix, s) }

func parse(prefix, s string) (Lookup, error) {
	if len(s) != len(prefix)+randomLen+checksumLen || !strings.HasPrefix(s, prefix) {
		return Lookup{}, ErrMalformed
	}
	if !fits128(s[len(prefix) : len(prefix)+randomLen]) {
		return Lookup{}, ErrMalformed
	}
	body := len(s) - checksumLen
	var sum uint64
	for i := body; i < len(s); i++ {
		d := digit(s[i])
		if d < 0 {
			return Lookup{}, ErrMalformed
		}
		sum = sum*62 + uint64(d)
	}
	if sum != uint64(checksum(s[:body])) {
		return Lookup{}, ErrChecksum
	}
	var buf [len(AdminPrefix) + randomLen + checksumLen]byte
	return sha256.Sum256(buf[:copy(buf[:], s)]), nil
}

// checksum returns the CRC-32 (IEEE). It is written out because hash/crc32 would move
// the string to the heap on every request.
func checksum(s string) uint32 {
	crc := ^uint32(0)
	for i := range len(s) {
		crc = crc32.IEEETable[byte(crc)^s[i]] ^ crc>>8
	}
	return ^crc
}

// fits128 reports whether base62 digits are a number below 2^128.
func fits128(s string) bool {
	var hi, lo uint64
	for i := range len(s) {
		d := digit(s[i])
		if d < 0 {
			return false
		}
		over, top := bits.Mul64(hi, 62)
		carry, low := bits.Mul64(lo, 62)
		var c uint64
		lo, c = bits.Add64(low, uint64(d), 0)
		hi, c = bits.Add64(top, carry, c)
		if over != 0 || c != 0 {
			return false
		}
	}
	return true
}

func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'Z':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 36
	}
	return -1
}

func validBox(box string) bool {
	if box == "" || len(box) > MaxBox {
		return false
	}
	for i := range len(box) {
		if c := box[i]; digit(c) < 0 && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// LooksLikeKey reports whether s is meant to be a scoped key, well formed or not, so
// that a mistake in it deserves an answer. Any other value is foreign.
func LooksLikeKey(s string) bool {
	return strings.HasPrefix(strings.TrimPrefix(s, looseKeyPrefix), KeyPrefix)
}
