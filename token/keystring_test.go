package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestMintedKeysParseToTheirLookup(t *testing.T) {
	t.Parallel()
	seen := map[Lookup]bool{}
	for range 1000 {
		secret, lookup, err := MintKey()
		if err != nil {
			t.Fatal(err)
		}
		s := secret.Reveal()
		if len(s) != len("till_sk_")+28 || seen[lookup] {
			t.Fatalf("a key of %d characters, seen before: %v", len(s), seen[lookup])
		}
		seen[lookup] = true
		for _, dressed := range []string{s, "sk-" + s} {
			if p, err := ParseKey(dressed); err != nil || p.Lookup != lookup || p.Box != "" {
				t.Fatalf("a minted key does not parse: %v", err)
			}
		}
		if p, err := ParseKey(s + ".AQx-_9"); err != nil || p.Lookup != lookup || p.Box != "AQx-_9" {
			t.Fatalf("a sealed key does not parse: %v", err)
		}
	}
}

func TestChecksumIsCRC32InSixBase62Digits(t *testing.T) {
	t.Parallel()
	secret, _, err := MintAdmin()
	if err != nil {
		t.Fatal(err)
	}
	s := secret.Reveal()
	if _, err := ParseAdmin(s); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseKey(s); !errors.Is(err, ErrMalformed) {
		t.Errorf("an admin token parses as a key: %v", err)
	}
	if got := string(appendBase62(nil, 0, 61*62+1, 6)); got != "0000z1" {
		t.Errorf("61*62+1 is %q, want 0000z1", got)
	}
	if got := string(appendBase62(nil, 1<<63, 0, 22)); !fits128(got) {
		t.Errorf("2^127 as %q is said not to fit", got)
	}
	if fits128("zzzzzzzzzzzzzzzzzzzzzz") {
		t.Error("62^22-1 is said to fit into 128 bits")
	}
}

func TestMangledKeysAreRefused(t *testing.T) {
	t.Parallel()
	secret, _, err := MintKey()
	if err != nil {
		t.Fatal(err)
	}
	good := secret.Reveal()
	for i := range good {
		for _, c := range []byte{'0', 'z', '!', 0, 0xff} {
			if good[i] == c {
				continue
			}
			if _, err := ParseKey(good[:i] + string(rune(c)) + good[i+1:]); err == nil {
				t.Errorf("character %d changed to %q: still parses", i, c)
			}
		}
		if _, err := ParseKey(good[:i]); err == nil {
			t.Errorf("cut at %d: still parses", i)
		}
	}
	for _, s := range []string{"", "sk-", ".", good + ".", good + "..", good + ".a b", good + "." + strings.Repeat("a", MaxBox+1), good + "x", " " + good, "sk-sk-" + good} {
		if _, err := ParseKey(s); err == nil {
			t.Errorf("%d bytes that are no key parse", len(s))
		}
	}
}

func TestParsingAKeyDoesNotAllocate(t *testing.T) {
	secret, _, err := MintKey()
	if err != nil {
		t.Fatal(err)
	}
	s := secret.Reveal()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ParseKey(s); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNoPrintedFormShowsASecret(t *testing.T) {
	t.Parallel()
	const text = "sk-REALSECRET"
	type holder struct {
		Public string
		S      Secret
		P      *Secret
		inner  Secret
		list   []Secret
		m      map[string]Secret
	}
	s := NewSecret(text)
	h := holder{"x", s, &s, s, []Secret{s}, map[string]Secret{"k": s}}
	var out strings.Builder
	for _, v := range []any{s, &s, h, &h, []holder{h}, map[string]any{"s": s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	}
	fmt.Fprint(&out, fmt.Errorf("wrapped: %v", s))
	for _, leak := range []string{text, fmt.Sprintf("%x", text), "REALSECRET"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("a printed form shows %q", leak)
		}
	}
	if s.Reveal() != text {
		t.Error("Reveal does not")
	}
	_, _ = h.inner, h.list
}

func FuzzParseKey(f *testing.F) {
	secret, _, err := MintKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(secret.Reveal())
	f.Add("sk-till_sk_0000000000000000000000000000.box")
	f.Add("till_sk_.")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseKey(s)
		if err != nil {
			if strings.Contains(err.Error(), s) && s != "" && len(s) > 8 {
				t.Error("the error quotes the string")
			}
			return
		}
		if !LooksLikeKey(s) || len(p.Box) > MaxBox {
			t.Errorf("accepted %q", s)
		}
	})
}
