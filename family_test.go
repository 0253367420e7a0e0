package till

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestAFamilyWhoseCountsFailStopsNobodyElses: a holder chooses what is counted, and mints as
// many keys as it takes to speak for the upstream.
func TestAFamilyWhoseCountsFailStopsNobodyElses(t *testing.T) {
	t.Parallel()
	s, asked := countedBy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.UserAgent() == "hostile" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, `{"input_tokens":14000}`)
	})
	tokens := func(n int64) func(*record.Key) { return func(k *record.Key) { k.Limit[record.Tokens] = n } }
	parent := s.mint(tokens(1_000_000))
	hostile := tooLong
	hostile.header = http.Header{"User-Agent": {"hostile"}}
	for i := range 2 * pausedKeys {
		status, _, answer := s.serve(parent, asks{method: "POST", path: childrenPath, body: `{"max_activations":5,"max_tokens":30000}`})
		var child struct {
			ID  string `json:"id"`
			Key string `json:"scoped_key"`
		}
		if err := json.Unmarshal([]byte(answer), &child); err != nil || status != http.StatusCreated {
			t.Fatalf("%d %s", status, answer)
		}
		if status, _, answer := s.serve(minted{child.ID, child.Key}, hostile); status != http.StatusTooManyRequests {
			t.Fatalf("child %d: %d %s", i, status, answer)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the family was counted for %d times", n)
	}
	if status, _, answer := s.serve(s.mint(tokens(30_000)), tooLong); status != http.StatusOK {
		t.Errorf("another key: %d %s", status, answer)
	}
}

// TestAFamilyHasTheDrainPlacesOfAKey: what of a client that left is read on is counted for
// the topmost key.
func TestAFamilyHasTheDrainPlacesOfAKey(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	var of string
	s.inside = func(r *http.Request) { of = exchangeOf(r.Context()).usage.family }
	parent := s.mint(func(k *record.Key) { k.Limit[record.Tokens] = 100_000 })
	child := s.offspring(t, parent)
	for _, k := range []minted{parent, child, s.offspring(t, child)} {
		if status, _, answer := s.serve(k, chat("gpt-5-mini")); status != http.StatusOK || of != parent.id {
			t.Errorf("%s: %d %s, the place is of %s, want %s", k.id, status, answer, of, parent.id)
		}
	}
	places := drainSlots{of: make(map[string]int)}
	taken := 0
	for places.take(parent.id) {
		taken++
	}
	if taken != maxDrainsOfKey || !places.take(fmt.Sprint(parent.id, "'s neighbour")) {
		t.Errorf("%d places", taken)
	}
}
