package token

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func sealer(t *testing.T, keys ...string) *Sealer {
	t.Helper()
	var list []SealKey
	for _, k := range keys {
		key, err := ParseSealKey(strings.Repeat(k, 64))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, key)
	}
	s, err := NewSealer(list...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func salt(t testing.TB) Secret {
	t.Helper()
	s, err := NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func binding() Binding {
	return Binding{Lookup: Lookup{1, 2, 3}, Upstream: "openai", Origins: []string{"https://api.openai.com", "https://eu.api.openai.com"}}
}

const boxed = "sk-real-0123456789"

func TestABoxOpensForWhatItWasMadeFor(t *testing.T) {
	t.Parallel()
	old, both := sealer(t, "a"), sealer(t, "b", "a")
	s := salt(t)
	box, id, err := old.Seal(s, binding(), NewSecret(boxed))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(box.Reveal(), boxed) || !validBox(box.Reveal()) {
		t.Fatalf("box %s", box.Reveal())
	}
	for name, opener := range map[string]*Sealer{"the same": old, "a later one that still has the seal key": both} {
		got, err := opener.Open(box.Reveal(), id, s, binding())
		if err != nil || got.Reveal() != boxed {
			t.Errorf("%s: %v, %q", name, err, got.Reveal())
		}
	}
	again, _, err := old.Seal(s, binding(), NewSecret(boxed))
	if err != nil || again.Reveal() == box.Reveal() {
		t.Errorf("two boxes of the same credential are alike (%v)", err)
	}
	if _, id, _ := both.Seal(s, binding(), NewSecret(boxed)); id != both.ids[0] {
		t.Error("the first seal key does not seal")
	}
}

func TestABoxOpensForNothingElse(t *testing.T) {
	t.Parallel()
	s, right := sealer(t, "a"), salt(t)
	box, id, err := s.Seal(right, binding(), NewSecret(boxed))
	if err != nil {
		t.Fatal(err)
	}
	alter := func(fn func(*Binding)) Binding {
		b := binding()
		fn(&b)
		return b
	}
	for name, b := range map[string]Binding{
		"another key":            alter(func(b *Binding) { b.Lookup[0]++ }),
		"another upstream":       alter(func(b *Binding) { b.Upstream = "openai2" }),
		"another origin":         alter(func(b *Binding) { b.Origins = []string{"https://evil.example", b.Origins[1]} }),
		"one origin less":        alter(func(b *Binding) { b.Origins = b.Origins[:1] }),
		"one origin more":        alter(func(b *Binding) { b.Origins = append(b.Origins, "https://x") }),
		"origins joined":         alter(func(b *Binding) { b.Origins = []string{strings.Join(b.Origins, "")} }),
		"name and origin joined": alter(func(b *Binding) { b.Upstream += b.Origins[0]; b.Origins = b.Origins[1:] }),
	} {
		if _, err := s.Open(box.Reveal(), id, right, b); !errors.Is(err, ErrBox) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, wrong := range map[string]Secret{"another salt": salt(t), "no salt": {}, "a short salt": NewSecret("x")} {
		if _, err := s.Open(box.Reveal(), id, wrong, binding()); !errors.Is(err, ErrBox) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := sealer(t, "b").Open(box.Reveal(), id, right, binding()); !errors.Is(err, ErrNoSealKey) {
		t.Errorf("without the seal key: %v", err)
	}
	if _, err := sealer(t, "b").Open(box.Reveal(), sealer(t, "b").ids[0], right, binding()); !errors.Is(err, ErrBox) {
		t.Errorf("with another seal key than the record's: %v", err)
	}
}

func TestEveryAlteredBoxIsRefused(t *testing.T) {
	t.Parallel()
	s, right := sealer(t, "a"), salt(t)
	box, id, err := s.Seal(right, binding(), NewSecret(boxed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(box.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, altered []byte) {
		t.Helper()
		text := base64.RawURLEncoding.EncodeToString(altered)
		if _, err := s.Open(text, id, right, binding()); !errors.Is(err, ErrBox) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range raw {
		for bit := range 8 {
			flipped := append([]byte(nil), raw...)
			flipped[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d flipped", bit, i), flipped)
		}
		refused(fmt.Sprintf("cut to %d bytes", i), raw[:i])
	}
	refused("longer", append(append([]byte(nil), raw...), 0))
	refused("version 0", append([]byte{0}, raw[1:]...))
	for _, text := range []string{"", "!", box.Reveal() + "=", box.Reveal() + "\n", " " + box.Reveal()} {
		if _, err := s.Open(text, id, right, binding()); !errors.Is(err, ErrBox) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSealKeysAreCheckedAndHidden(t *testing.T) {
	t.Parallel()
	key, err := ParseSealKey(strings.Repeat("a", 64))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSealer(); err == nil {
		t.Error("no seal key is accepted")
	}
	if _, err := NewSealer(key, key); err == nil {
		t.Error("the same seal key twice is accepted")
	}
	if _, err := NewSealer(SealKey{}); err == nil {
		t.Error("an empty seal key is accepted")
	}
	s := sealer(t, "a")
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", s, *s, s, key), fmt.Sprint(key.ID())} {
		if strings.Contains(text, "\xaa\xaa") || strings.Contains(text, strings.Repeat("aa", 8)) {
			t.Errorf("a seal key shows in %q", text)
		}
	}
	for _, n := range []int{0, MaxCredential + 1} {
		if _, _, err := s.Seal(salt(t), binding(), NewSecret(strings.Repeat("x", n))); err == nil {
			t.Errorf("a credential of %d bytes is sealed", n)
		}
	}
	if box, _, err := s.Seal(salt(t), binding(), NewSecret(strings.Repeat("x", MaxCredential))); err != nil || len(box.Reveal()) > MaxBox {
		t.Errorf("the longest credential: %v, a box of %d", err, len(box.Reveal()))
	}
}

func FuzzOpenBox(f *testing.F) {
	key, err := ParseSealKey(strings.Repeat("a", 64))
	if err != nil {
		f.Fatal(err)
	}
	s, err := NewSealer(key)
	if err != nil {
		f.Fatal(err)
	}
	right := NewSecret(strings.Repeat("s", SaltLen))
	box, id, err := s.Seal(right, binding(), NewSecret(boxed))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(box.Reveal())
	f.Add("")
	f.Add(strings.Repeat("A", 40))
	f.Fuzz(func(t *testing.T, text string) {
		// Only boxes made here open, of which another process has others.
		if got, err := s.Open(text, id, right, binding()); err == nil && got.Reveal() != boxed {
			t.Errorf("%q opens", text)
		}
	})
}

func BenchmarkOpenBox(b *testing.B) {
	key, err := ParseSealKey(strings.Repeat("a", 64))
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewSealer(key)
	if err != nil {
		b.Fatal(err)
	}
	right := salt(b)
	box, id, err := s.Seal(right, binding(), NewSecret(boxed))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(box.Reveal(), id, right, binding()); err != nil {
			b.Fatal(err)
		}
	}
}
