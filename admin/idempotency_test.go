package admin

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
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
	first := admintest.Get[replayed](t, w.Do("POST", "/keys", mint, "Idempotency-Key", "a"))
	if first.ScopedKey == "" || first.Replayed {
		t.Fatalf("the first: %+v", first)
	}
	again := w.Do("POST", "/keys", mint, "Idempotency-Key", "a")
	if r := admintest.Get[replayed](t, again); again.Status != 200 || r.ID != first.ID || !r.Replayed || r.ScopedKey != "" || strings.Contains(again.Body, "till_sk_") {
		t.Errorf("the replay: %d %s", again.Status, again.Body)
	}
	for name, a := range map[string]admintest.Answer{
		"another body": w.Do("POST", "/keys", `{"upstream":"openai","max_activations":6}`, "Idempotency-Key", "a"),
		"another call": w.Do("POST", "/keys/"+first.ID+"/suspend", "", "Idempotency-Key", "a"),
	} {
		if code, _ := a.Fault(t); a.Status != 422 || code != "idempotency_key_reused" {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	grant := `{"activations":10}`
	for i, want := range []bool{false, true, true} {
		r := admintest.Get[replayed](t, w.Do("POST", "/keys/"+first.ID+"/grant", grant, "Idempotency-Key", "b"))
		if *r.MaxActivations != 15 || r.Replayed != want {
			t.Errorf("grant %d: %d activations, replayed %v", i, *r.MaxActivations, r.Replayed)
		}
	}
	rotated := admintest.Get[replayed](t, w.Do("POST", "/keys/"+first.ID+"/rotate", `{}`, "Idempotency-Key", "c"))
	if r := admintest.Get[replayed](t, w.Do("POST", "/keys/"+first.ID+"/rotate", `{}`, "Idempotency-Key", "c")); rotated.ScopedKey == "" || r.ScopedKey != "" || !r.Replayed {
		t.Errorf("rotate: %+v, then %+v", rotated, r)
	}
	token := admintest.Get[replayed](t, w.Do("POST", "/tokens", `{"name":"anna","role":"member"}`, "Idempotency-Key", "d"))
	if r := admintest.Get[replayed](t, w.Do("POST", "/tokens", `{"name":"anna","role":"member"}`, "Idempotency-Key", "d")); token.Token == "" || r.Token != "" || !r.Replayed || r.ID != token.ID {
		t.Errorf("token: %+v, then %+v", token, r)
	}
	bulk := `{"filter":{"q":"nosuch"}}`
	first2 := w.Do("POST", "/keys/revoke", bulk, "Idempotency-Key", "e")
	if a := w.Do("POST", "/keys/revoke", bulk, "Idempotency-Key", "e"); first2.Status != 200 || a.Status != 200 || !strings.Contains(a.Body, `"job":"1"`) || !strings.Contains(a.Body, `"replayed":true`) {
		t.Errorf("bulk revoke: %s, then %s", first2.Body, a.Body)
	}
	// The same key of another caller is another key, and a refused call leaves none.
	as := w.as(token.Token)
	if a := as.Do("POST", "/keys", `{"upstream":"openai","max_activations":101}`, "Idempotency-Key", "a"); a.Status != 403 {
		t.Errorf("above a ceiling: %d %s", a.Status, a.Body)
	}
	if r := admintest.Get[replayed](t, as.Do("POST", "/keys", mint, "Idempotency-Key", "a")); r.Replayed || r.ID == first.ID {
		t.Errorf("another caller: %+v", r)
	}
	if r := admintest.Get[replayed](t, as.Do("POST", "/keys", mint, "Idempotency-Key", "a")); !r.Replayed {
		t.Errorf("its replay: %+v", r)
	}
	for _, key := range []string{"", " ", "ä", strings.Repeat("x", limiter.MaxOnceKey+1), "a b"} {
		if a := w.Do("POST", "/keys", mint, "Idempotency-Key", key); a.Status != 400 {
			t.Errorf("the key %q: %d %s", key, a.Status, a.Body)
		}
	}
	if list := admintest.Get[wire.Listed](t, w.Do("GET", "/keys", "")); len(list.Keys) != 2 {
		t.Errorf("%d keys, want 2", len(list.Keys))
	}
}

func TestCallsAtTheSameTimeUnderOneIdempotencyKeyAreDoneOnce(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	k := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	for round := range 5 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		ids, secrets := map[string]bool{}, 0
		for range 20 {
			wg.Go(func() {
				m := admintest.Get[replayed](t, w.Do("POST", "/keys", `{"upstream":"openai","max_activations":5}`, "Idempotency-Key", fmt.Sprint("mint", round)))
				admintest.Get[replayed](t, w.Do("POST", "/keys/"+k.ID+"/grant", `{"activations":1}`, "Idempotency-Key", fmt.Sprint("grant", round)))
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
			t.Errorf("%d keys were minted and %d strings shown, want 1 and 1", len(ids), secrets)
		}
	}
	if v := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+k.ID, "")); *v.MaxActivations != 10 {
		t.Errorf("%d activations after 5 grants of 1, want 10", *v.MaxActivations)
	}
}

func TestAChangeNamesTheVersionItIsBasedOn(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	k := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	path := "/keys/" + k.ID
	for _, test := range []struct {
		match  string
		status int
	}{{`"1"`, 200}, {`"1"`, 412}, {"2", 200}, {"*", 200}, {`W/"4"`, 400}, {"x", 400}, {"", 400}, {`"4"`, 200}} {
		if a := w.Do("PATCH", path, fmt.Sprintf(`{"name":%q}`, "n"+fmt.Sprint(test.status, test.match)), "If-Match", test.match); a.Status != test.status {
			t.Errorf("If-Match: %s: %d %s, want %d", test.match, a.Status, a.Body, test.status)
		}
	}
	r := httptest.NewRequest("PATCH", path, strings.NewReader(`{"name":"two versions"}`))
	r.Header["If-Match"] = []string{"5", "4"}
	rec := httptest.NewRecorder()
	if w.Handler.ServeHTTP(rec, r); rec.Code != 400 {
		t.Errorf("two versions: %d %s", rec.Code, rec.Body)
	}
}

// TestAReplayTakesThePermissionOfItsCall: it shows the key as it is now.
func TestAReplayTakesThePermissionOfItsCall(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	as := w.as(w.newToken("anna", "lead").Token)
	mint := func() admintest.Answer {
		return as.Do("POST", "/keys", `{"upstream":"openai","max_activations":5}`, "Idempotency-Key", "a")
	}
	if a := mint(); a.Status != 201 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	roles := admintest.Team()
	lead := roles["lead"]
	lead.Permissions = nil
	roles["lead"] = lead
	if err := w.SetRoles(roles); err != nil {
		t.Fatal(err)
	}
	if a := mint(); a.Status != 403 {
		t.Errorf("with a role that may do nothing any more: %d %s", a.Status, a.Body)
	}
}
