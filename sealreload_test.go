package till

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// TestAReloadKeepsTheSealKeysThatAreNeeded: what they sealed could not be opened any more.
func TestAReloadKeepsTheSealKeysThatAreNeeded(t *testing.T) {
	t.Parallel()
	r, first, second := newReloads(t, t.TempDir())
	defer r.end()
	var keys []token.SealKey
	sealer := func(keys ...token.SealKey) *token.Sealer {
		s, err := token.NewSealer(keys...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 2 {
		key, err := token.NewSealKey()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	first.sealing.sealer, second.sealing.sealer = sealer(keys...), sealer(keys[1])
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	spec := &record.Key{Upstream: "openai", Custody: record.CustodySealed, Limit: record.NoLimits(), SealKey: keys[0].ID(), Origins: []string{"https://a"}}
	spec.Limit[record.Activations] = 1
	v, err := r.e.current().Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Salt: token.NewSecret(strings.Repeat("a", token.SaltLen))})
	if err != nil {
		t.Fatal(err)
	}
	err = r.e.enter(second)
	if err == nil || !strings.Contains(err.Error(), keys[0].ID().String()) || !strings.Contains(err.Error(), "put it back") {
		t.Errorf("without a seal key that a key needs: %v", err)
	}
	r.inForce("first")
	second.sealing.sealer = sealer(keys[1], keys[0])
	if err := r.e.enter(second); err != nil {
		t.Errorf("with another before it: %v", err)
	}
	r.e.leave(second)
	if _, _, err := r.e.current().Revoke(t.Context(), limiter.Operator, v.ID, ""); err != nil {
		t.Fatal(err)
	}
	second.sealing.sealer = sealer(keys[1])
	if err := r.e.enter(second); err != nil {
		t.Errorf("without a seal key that none needs: %v", err)
	}
	r.e.leave(first)
	r.inForce("second")
}

// TestAReloadKeepsTheFileOfSealKeysThatAreNeeded, also if this process has not used them
// yet, and makes no other file.
func TestAReloadKeepsTheFileOfSealKeysThatAreNeeded(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, first, second *sealing){
		"another file": func(t *testing.T, _, second *sealing) { second.file += ".new" },
		"the file is gone": func(t *testing.T, first, second *sealing) {
			if _, err := first.get(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(second.file); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r, first, second := newReloads(t, dir)
			defer r.end()
			first.sealing.file = filepath.Join(dir, "seal.key")
			second.sealing.file = first.sealing.file
			if err := r.e.enter(second); err != nil {
				t.Fatalf("before there is a file: %v", err)
			}
			r.e.leave(second)
			keys, err := token.LoadOrCreateSealKeys(first.sealing.file)
			if err != nil {
				t.Fatal(err)
			}
			_, lookup, err := token.MintKey()
			if err != nil {
				t.Fatal(err)
			}
			spec := &record.Key{Upstream: "openai", Custody: record.CustodySealed, Limit: record.NoLimits(), SealKey: keys[0].ID(), Origins: []string{"https://a"}}
			spec.Limit[record.Activations] = 1
			if _, err := r.e.current().Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Salt: token.NewSecret(strings.Repeat("a", token.SaltLen))}); err != nil {
				t.Fatal(err)
			}
			second.sealing = &sealing{file: first.sealing.file}
			change(t, first.sealing, second.sealing)
			if err := r.e.enter(second); err == nil || !strings.Contains(err.Error(), keys[0].ID().String()) {
				t.Errorf("without a seal key that a key needs: %v", err)
			}
			if _, err := os.Stat(second.sealing.file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file of seal keys was made: %v", err)
			}
			r.inForce("first")
		})
	}
}
