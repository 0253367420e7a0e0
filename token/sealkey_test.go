package token

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestSealKeysAreReadInEveryUsualForm(t *testing.T) {
	t.Parallel()
	raw := make([]byte, SealKeyLen)
	for i := range raw {
		raw[i] = byte(250 + i)
	}
	for _, s := range []string{
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), " " + base64.RawURLEncoding.EncodeToString(raw) + "\n",
	} {
		if k, err := ParseSealKey(s); err != nil || k.secret.Reveal() != string(raw) {
			t.Errorf("%d characters: %v", len(s), err)
		}
	}
	for _, s := range []string{"", "short", hex.EncodeToString(raw[:31]), hex.EncodeToString(append(raw, 0))} {
		if _, err := ParseSealKey(s); err == nil || s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%d characters: %v", len(s), err)
		}
	}
}

func TestStartersAtOnceShareOneSealKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "seal.key")
	var mu sync.Mutex
	keys := map[string]bool{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			all, err := LoadOrCreateSealKeys(path)
			if err != nil || len(all) != 1 {
				t.Error(len(all), err)
				return
			}
			k := all[0]
			mu.Lock()
			keys[k.secret.Reveal()] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(keys) != 1 {
		t.Errorf("%d different keys", len(keys))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".seal-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestASealKeyThatOthersMayReadIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	if _, err := LoadOrCreateSealKeys(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateSealKeys(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("%v, want the command that mends it", err)
	}
}

func FuzzParseSealKey(f *testing.F) {
	f.Add(strings.Repeat("0", 64))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseSealKey(s); err == nil && len(k.secret.Reveal()) != SealKeyLen {
			t.Error("a key of another length")
		}
	})
}

func TestASealKeyIsAddedBeforeThoseThatAreThere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	// A file as it was made by hand, without a note.
	old := strings.Repeat("5e", SealKeyLen)
	if err := os.WriteFile(path, []byte(old+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var added []SealKeyID
	for range 3 {
		key, err := NewSealKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := AddSealKey(path, key); err != nil {
			t.Fatal(err)
		}
		added = append(added, key.ID())
	}
	keys, err := LoadOrCreateSealKeys(path)
	if err != nil || len(keys) != 4 || keys[0].ID() != added[2] || keys[2].ID() != added[0] || keys[3].secret.Reveal() != strings.Repeat("\x5e", SealKeyLen) {
		t.Errorf("%v, %v", keys, err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(b), "# "+added[2].String()+", made 20") {
		t.Errorf("%v", err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if err := os.WriteFile(path, []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateSealKeys(path); err == nil {
		t.Error("a file without a key is taken")
	}
	if err := os.WriteFile(path, []byte(old+"\nrubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateSealKeys(path); err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "rubbish") {
		t.Errorf("%v", err)
	}
}
