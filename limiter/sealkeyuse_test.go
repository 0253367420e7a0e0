package limiter_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// mintSealed makes a sealed key whose box was made with seal key n.
func (w *world) mintSealed(n byte, credential string) *key {
	w.t.Helper()
	spec := &record.Key{
		Upstream: "openai", Custody: record.CustodySealed, Limit: record.NoLimits(),
		SealKey: token.SealKeyID{n}, Origins: []string{"https://a"}, Fingerprint: w.Fingerprint(token.NewSecret(credential)),
	}
	spec.Limit[record.Activations] = 10
	lookup := newLookup(w.t)
	v, err := w.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Salt: token.NewSecret(strings.Repeat("a", token.SaltLen))})
	if err != nil {
		w.t.Fatal(err)
	}
	return &key{w: w, id: v.ID, lookup: lookup}
}

func TestSealKeysAreNeededByTheBoxesThatTheyOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	expect := func(what string, want map[token.SealKeyID]limiter.SealUse) {
		t.Helper()
		got, err := w.SealUses(ctx, limiter.Operator)
		if err != nil || len(got) != len(want) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		for id, use := range want {
			if got[id] != use {
				t.Errorf("%s: seal key %s: %+v, want %+v", what, id, got[id], use)
			}
		}
	}
	one, two := token.SealKeyID{1}, token.SealKeyID{2} // rotate seals with the second
	w.mint(activations(5))
	k, revoked, dead := w.mintSealed(1, "a"), w.mintSealed(1, "a"), w.mintSealed(1, "a")
	expect("minted", map[token.SealKeyID]limiter.SealUse{one: {Live: 3}})
	if _, _, err := w.Revoke(ctx, limiter.Operator, revoked.id, ""); err != nil {
		t.Fatal(err)
	}
	dead.drain(record.CodeActivationsExhausted)
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	expect("ended", map[token.SealKeyID]limiter.SealUse{one: {Live: 1, Ended: 1}})
	k.rotate(time.Hour)
	expect("in its grace a key needs both", map[token.SealKeyID]limiter.SealUse{one: {Live: 1, Ended: 1}, two: {Live: 1}})
	w.clock.advance(time.Hour)
	expect("after the grace", map[token.SealKeyID]limiter.SealUse{one: {Ended: 1}, two: {Live: 1}})
	if _, err := w.SealUses(ctx, limiter.Caller{Name: "nobody"}); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("asked by nobody: %v", err)
	}
	if err := w.SealRotated(limiter.Caller{Name: "nobody"}, two); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("rotated by nobody: %v", err)
	}
}

func TestAFingerprintNamesACredentialInOneStoreOnly(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	a, b := token.NewSecret("sk-real-a"), token.NewSecret("sk-real-b")
	name := w.Fingerprint(a)
	if len(name) != 32 || name != w.Fingerprint(a) || name == w.Fingerprint(b) || name == other.Fingerprint(a) {
		t.Errorf("%q %q %q", name, w.Fingerprint(b), other.Fingerprint(a))
	}
	w.restart()
	if w.Fingerprint(a) != name {
		t.Error("a restart changed it")
	}
	w.kill(true)
	if w.Fingerprint(a) != name {
		t.Error("a crash changed it")
	}
	var backup bytes.Buffer
	if _, err := w.Backup(ctx, limiter.Operator, &backup, false); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(backup.String(), "sk-real") {
		t.Error("the backup shows a credential")
	}
}

func TestKeysAreFoundByTheCredentialThatTheyDependOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.mintSealed(1, "sk-real-a")
	w.mintSealed(1, "sk-real-b")
	held := w.mint(activations(1))
	elsewhere := w.mint(func(k *record.Key) { k.Upstream = "github" })
	find := func(f limiter.Filter) map[string]bool {
		t.Helper()
		page, err := w.List(ctx, limiter.Operator, f)
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for _, v := range page.Keys {
			ids[v.ID] = true
		}
		return ids
	}
	a := w.Fingerprint(token.NewSecret("sk-real-a"))
	if ids := find(limiter.Filter{Fingerprint: a}); len(ids) != 1 || !ids[first.id] {
		t.Errorf("sealed: %v", ids)
	}
	if ids := find(limiter.Filter{Fingerprint: a, Holders: []string{"openai"}}); len(ids) != 2 || !ids[held.id] || ids[elsewhere.id] {
		t.Errorf("sealed and held: %v", ids)
	}
	first.rotate(time.Hour) // to a credential without a name
	if ids := find(limiter.Filter{Fingerprint: a}); !ids[first.id] {
		t.Error("in its grace the former string is not found")
	}
	first.rotate(0)
	if ids := find(limiter.Filter{Fingerprint: a}); len(ids) != 0 {
		t.Errorf("after it: %v", ids)
	}
}
