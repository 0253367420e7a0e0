package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

const (
	sealKeyA = "5ea1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sealKeyB = "5ea1bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	// sealedReal is a real key that the server has nowhere.
	sealedReal = "sk-real-sealed-98765432109876543210"
)

// sealedServer has two upstreams without credentials of their own.
func sealedServer(t *testing.T, sealKeys string) (*server, *upstreamtest.Server) {
	t.Helper()
	to := upstreamtest.Start(t, upstreamtest.OpenAI, sealedReal)
	s := newServer(t, options{more: fmt.Sprintf("%s\nupstream x openai {\n\tto %s\n}\nupstream y openai {\n\tto %s\n}\n", sealKeys, to.URL, to.URL)})
	return s, to
}

// sends returns status and refusal code of one request.
func (s *server) sends(key string) (int, string) {
	s.t.Helper()
	res, err := s.client.Do(s.request(context.Background(), key))
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		s.t.Error(err)
	}
	return res.StatusCode, res.Header.Get("Till-Refusal")
}

func (s *server) refuses(what, key string, status int, code string) {
	s.t.Helper()
	if gotStatus, got := s.sends(key); gotStatus != status || got != code {
		s.t.Errorf("%s: answered %d %s, want %d %s", what, gotStatus, got, status, code)
	}
}

func TestASealedKeyWorksAndOnlyWhole(t *testing.T) {
	t.Parallel()
	s, to := sealedServer(t, "seal_key "+sealKeyA)
	mint := func(upstream string) (id, first, box string) {
		id, key := s.mint(object{"upstream": upstream, "upstream_key": sealedReal, "max_activations": 50})
		first, box, ok := strings.Cut(key, ".")
		if !ok {
			t.Fatalf("no box in %s", key)
		}
		return id, first, box
	}
	id, first, box := mint("x")
	_, otherFirst, otherBox := mint("x")
	_, yFirst, yBox := mint("y")
	_, held := s.mint(object{"max_activations": 50})

	for range 3 { // the first opens the box, the others find it open
		if status, code := s.sends(first + "." + box); status != http.StatusOK {
			t.Fatalf("the whole key: %d %s", status, code)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(box)
	if err != nil {
		t.Fatal(err)
	}
	altered := func(at int, to byte) string {
		b := append([]byte(nil), raw...)
		b[at] = to
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for what, key := range map[string]string{
		"no box":                      first,
		"an empty box":                first + ".",
		"the box of another key":      first + "." + otherBox,
		"this box on another key":     otherFirst + "." + box,
		"the box of another upstream": first + "." + yBox,
		"this box on its key":         yFirst + "." + box,
		"a cut box":                   first + "." + box[:len(box)-4],
		"half a box":                  first + "." + box[:len(box)/2],
		"a longer box":                first + "." + box + "AAAA",
		"two boxes":                   first + "." + box + "." + box,
		"an old version":              first + "." + altered(0, 0),
		"a new version":               first + "." + altered(0, 2),
		"another seal key's id":       first + "." + altered(3, raw[3]^1),
		"a flipped nonce":             first + "." + altered(10, raw[10]^1),
		"a flipped text":              first + "." + altered(30, raw[30]^1),
		"a flipped tag":               first + "." + altered(len(raw)-1, raw[len(raw)-1]^1),
		"a box on a held key":         held + "." + box,
	} {
		s.refuses(what, key, http.StatusUnauthorized, "till_key_invalid")
	}
	if n := s.used(id); n != 3 {
		t.Errorf("used %d, want 3: what is refused takes nothing", n)
	}
	if n := to.Count(); n != 3 {
		t.Errorf("the upstream counted %d, want 3", n)
	}
	for _, v := range to.Violations() {
		t.Error("at the upstream: ", v)
	}
}

func TestASealedKeyOutlivesARestartAndAnotherFirstSealKey(t *testing.T) {
	t.Parallel()
	s, to := sealedServer(t, "seal_key "+sealKeyA)
	id, key := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 9})
	configure := func(old, new string) {
		t.Helper()
		s.replace(old, new)
		s.reload()
	}
	if status, code := s.sends(key); status != http.StatusOK {
		t.Fatalf("at first: %d %s", status, code)
	}
	configure("seal_key "+sealKeyA, "seal_key "+sealKeyB+"\nseal_key "+sealKeyA)
	if status, code := s.sends(key); status != http.StatusOK {
		t.Errorf("when its seal key is the second: %d %s", status, code)
	}
	s.replace("\nseal_key "+sealKeyA, "")
	if out, err := s.tryReload(); err == nil || !strings.Contains(out, "1 live and 0 ended keys need it") {
		t.Errorf("a reload that drops its seal key: %v, %s", err, out)
	}
	s.oldEndpointIsGone() // one that failed replaces it, too
	if status, code := s.sends(key); status != http.StatusOK {
		t.Errorf("after a reload that was refused: %d %s", status, code)
	}
	s.stop()
	s.start() // does not know which seal keys there were
	s.refuses("without its seal key", key, http.StatusServiceUnavailable, "till_store_unavailable")
	configure("seal_key "+sealKeyB, "seal_key "+sealKeyB+"\nseal_key "+sealKeyA)
	s.stop()
	s.start()
	if status, code := s.sends(key); status != http.StatusOK {
		t.Errorf("after a restart: %d %s", status, code)
	}
	// Now the upstream has another address than the one it was sealed for.
	configure("upstream x openai {\n\tto "+to.URL, "upstream x openai {\n\tto "+s.upstream.URL)
	s.refuses("at another address", key, http.StatusBadGateway, "till_upstream_changed")
	if n := s.used(id); n != 4 {
		t.Errorf("used %d, want 4", n)
	}
	if n := s.upstream.Count(); n != 0 {
		t.Errorf("the other address got %d requests", n)
	}
}

func TestTheBoxOfARevokedKeyOpensForNobody(t *testing.T) {
	t.Parallel()
	s, to := sealedServer(t, "")
	id, key := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 9})
	if status, code := s.sends(key); status != http.StatusOK {
		t.Fatalf("at first: %d %s", status, code)
	}
	revoked, _ := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 9})
	s.stop()
	for _, id := range []string{id, revoked} {
		if len(s.stored("s/"+id)) != 32 {
			t.Fatal("the store has no salt of a live sealed key")
		}
	}
	s.start()
	if status, answer := s.api("POST", "/keys/"+revoked+"/revoke", object{}); status != http.StatusOK {
		t.Fatalf("revoke: %d %v", status, answer)
	}
	s.stop()
	if salt := s.stored("s/" + revoked); salt != nil {
		t.Error("the salt is there after the key was revoked")
	}
	// A live record without its salt, as a backup brings it back.
	s.inStore(func(tx store.Tx) error { return tx.Delete([]byte("s/" + id)) })
	s.start()
	if status := s.show(id)["status"]; status != "active" {
		t.Fatalf("the record did not come back: %v", status)
	}
	s.refuses("a record without its salt", key, http.StatusUnauthorized, "till_key_invalid")
	if n := to.Count(); n != 1 {
		t.Errorf("the upstream counted %d, want 1", n)
	}
}

// openStore opens the store of a server that is stopped.
func (s *server) openStore() (store.Store, error) {
	if s.schema == "" {
		return store.OpenBadger(s.store(), slog.New(slog.DiscardHandler))
	}
	node, err := postgres.Open(context.Background(), postgres.Options{DSN: s.dsn, Schema: s.schema, Node: "test"})
	if err != nil {
		return nil, err
	}
	return node, node.Join(store.Bystander{})
}

// inStore changes the store of a server that is stopped.
func (s *server) inStore(fn func(store.Tx) error) {
	s.t.Helper()
	store, err := s.openStore()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := store.Update(fn); err != nil {
		s.t.Error(err)
	}
	if err := store.Close(); err != nil {
		s.t.Error(err)
	}
}

// stored is a value in the store of a server that is stopped; nil if none.
func (s *server) stored(key string) (value []byte) {
	s.t.Helper()
	s.inStore(func(tx store.Tx) error {
		b, err := tx.Get([]byte(key))
		if err == nil {
			value = append([]byte{}, b...)
		}
		return nil
	})
	return value
}
