package admin

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

type replayed struct {
	wire.KeyObject
	ScopedKey string `json:"scoped_key"`
	Token     string `json:"token"`
	Replayed  bool   `json:"replayed"`
}

func TestACallUnderAnIdempotencyKeyIsDoneOnce(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	mint := `{"upstream":"openai","max_activations":5}`
	first := get[replayed](t, w.do("POST", "/keys", mint, "Idempotency-Key", "a"))
	if first.ScopedKey == "" || first.Replayed {
		t.Fatalf("the first: %+v", first)
	}
	again := w.do("POST", "/keys", mint, "Idempotency-Key", "a")
	if r := get[replayed](t, again); again.status != 200 || r.ID != first.ID || !r.Replayed || r.ScopedKey != "" || strings.Contains(again.body, "till_sk_") {
		t.Errorf("the replay: %d %s", again.status, again.body)
	}
	for name, a := range map[string]answer{
		"another body": w.do("POST", "/keys", `{"upstream":"openai","max_activations":6}`, "Idempotency-Key", "a"),
		"another call": w.do("POST", "/keys/"+first.ID+"/suspend", "", "Idempotency-Key", "a"),
	} {
		if code, _ := a.fault(t); a.status != 422 || code != "idempotency_key_reused" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	grant := `{"activations":10}`
	for i, want := range []bool{false, true, true} {
		r := get[replayed](t, w.do("POST", "/keys/"+first.ID+"/grant", grant, "Idempotency-Key", "b"))
		if *r.MaxActivations != 15 || r.Replayed != want {
			t.Errorf("grant %d: %d activations, replayed %v", i, *r.MaxActivations, r.Replayed)
		}
	}
	rotated := get[replayed](t, w.do("POST", "/keys/"+first.ID+"/rotate", `{}`, "Idempotency-Key", "c"))
	if r := get[replayed](t, w.do("POST", "/keys/"+first.ID+"/rotate", `{}`, "Idempotency-Key", "c")); rotated.ScopedKey == "" || r.ScopedKey != "" || !r.Replayed {
		t.Errorf("rotate: %+v, then %+v", rotated, r)
	}
	token := get[replayed](t, w.do("POST", "/tokens", `{"name":"anna","role":"member"}`, "Idempotency-Key", "d"))
	if r := get[replayed](t, w.do("POST", "/tokens", `{"name":"anna","role":"member"}`, "Idempotency-Key", "d")); token.Token == "" || r.Token != "" || !r.Replayed || r.ID != token.ID {
		t.Errorf("token: %+v, then %+v", token, r)
	}
	bulk := `{"filter":{"q":"nosuch"}}`
	first2 := w.do("POST", "/keys/revoke", bulk, "Idempotency-Key", "e")
	if a := w.do("POST", "/keys/revoke", bulk, "Idempotency-Key", "e"); first2.status != 200 || a.status != 200 || !strings.Contains(a.body, `"job":"1"`) || !strings.Contains(a.body, `"replayed":true`) {
		t.Errorf("bulk revoke: %s, then %s", first2.body, a.body)
	}
	// Another caller's key is another key, and a refused call leaves none.
	as := w.as(token.Token)
	if a := as.do("POST", "/keys", `{"upstream":"openai","max_activations":101}`, "Idempotency-Key", "a"); a.status != 403 {
		t.Errorf("above a ceiling: %d %s", a.status, a.body)
	}
	if r := get[replayed](t, as.do("POST", "/keys", mint, "Idempotency-Key", "a")); r.Replayed || r.ID == first.ID {
		t.Errorf("another caller: %+v", r)
	}
	if r := get[replayed](t, as.do("POST", "/keys", mint, "Idempotency-Key", "a")); !r.Replayed {
		t.Errorf("its replay: %+v", r)
	}
	for _, key := range []string{"", " ", "ä", strings.Repeat("x", limiter.MaxOnceKey+1), "a b"} {
		if a := w.do("POST", "/keys", mint, "Idempotency-Key", key); a.status != 400 {
			t.Errorf("the key %q: %d %s", key, a.status, a.body)
		}
	}
	if list := get[wire.Listed](t, w.do("GET", "/keys", "")); len(list.Keys) != 2 {
		t.Errorf("%d keys, want 2", len(list.Keys))
	}
}

func TestCallsAtTheSameTimeUnderOneIdempotencyKeyAreDoneOnce(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	k := w.mint(`{"upstream":"openai","max_activations":5}`)
	for round := range 5 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		ids, secrets := map[string]bool{}, 0
		for range 20 {
			wg.Go(func() {
				m := get[replayed](t, w.do("POST", "/keys", `{"upstream":"openai","max_activations":5}`, "Idempotency-Key", fmt.Sprint("mint", round)))
				get[replayed](t, w.do("POST", "/keys/"+k.ID+"/grant", `{"activations":1}`, "Idempotency-Key", fmt.Sprint("grant", round)))
				mu.Lock()
				defer mu.Unlock()
				ids[m.ID] = true
				if m.ScopedKey != "" {
					secrets++
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || secrets != 1 {
			t.Errorf("%d keys were minted and %d strings told, want 1 and 1", len(ids), secrets)
		}
	}
	if v := get[wire.KeyObject](t, w.do("GET", "/keys/"+k.ID, "")); *v.MaxActivations != 10 {
		t.Errorf("%d activations after 5 grants of 1, want 10", *v.MaxActivations)
	}
}

func TestAChangeNamesTheVersionItIsBasedOn(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	k := w.mint(`{"upstream":"openai","max_activations":5}`)
	path := "/keys/" + k.ID
	for _, test := range []struct {
		match  string
		status int
	}{{`"1"`, 200}, {`"1"`, 412}, {"2", 200}, {"*", 200}, {`W/"4"`, 400}, {"x", 400}, {`"4"`, 200}} {
		if a := w.do("PATCH", path, fmt.Sprintf(`{"name":%q}`, "n"+fmt.Sprint(test.status, test.match)), "If-Match", test.match); a.status != test.status {
			t.Errorf("If-Match: %s: %d %s, want %d", test.match, a.status, a.body, test.status)
		}
	}
}
