package admin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

func TestLeaksFindsAndRevokes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.NewKey(`{"name":"a","upstream":"openai","max_activations":5}`), w.NewKey(`{"upstream":"openai","max_activations":5}`)
	sealed := w.NewKey(`{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-1"}`)
	spared := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	stranger, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	text := "curl -u " + a.ScopedKey + ": …\nAuthorization: Basic " + base64.StdEncoding.EncodeToString([]byte(b.ScopedKey+":")) +
		"\n" + strings.ReplaceAll(sealed.ScopedKey, "_", "%5F") + "\n" + a.ScopedKey + " " + stranger.Reveal()
	answer := admintest.Get[wire.LeaksAnswer](t, w.Do("POST", "/leaks", mustJSON(t, object{"text": text, "dry_run": true})))
	if answer.Found != 4 || len(answer.Revoked) != 0 || answer.Unknown != 1 || w.Live(a).View().Status != record.Active {
		t.Errorf("a dry run: %+v", answer)
	}
	raw := w.Do("POST", "/leaks", mustJSON(t, object{"text": text}))
	answer = admintest.Get[wire.LeaksAnswer](t, raw)
	want := []string{a.ID, sealed.ID, b.ID}
	if answer.Found != 4 || answer.Unknown != 1 || len(answer.Revoked) != 3 || len(answer.Matches) != 4 {
		t.Errorf("%+v", answer)
	}
	for _, id := range want {
		if !slices.Contains(answer.Revoked, id) {
			t.Errorf("%s is not among %v", id, answer.Revoked)
		}
	}
	if m := answer.Matches[0]; m.ID != a.ID || m.Name != "a" || m.State != limiter.LeakRevoked || m.Hint != a.ScopedKey[:12]+"..." {
		t.Errorf("%+v", m)
	}
	if strings.Contains(raw.Body, a.ScopedKey[:14]) {
		t.Error("the answer shows more of a key than its beginning")
	}
	for _, m := range []*wire.Minted{a, b, sealed} {
		if w.Live(m).View().Status != record.Revoked {
			t.Errorf("%s still works", m.ID)
		}
	}
	if w.Live(spared).View().Status != record.Active {
		t.Error("another key was revoked")
	}
	again := admintest.Get[wire.LeaksAnswer](t, w.Do("POST", "/leaks", mustJSON(t, object{"text": text})))
	if again.Found != 4 || len(again.Revoked) != 0 || again.Unknown != 1 {
		t.Errorf("once more: %+v", again)
	}
	if empty := admintest.Get[wire.LeaksAnswer](t, w.Do("POST", "/leaks", `{"text":""}`)); empty.Found != 0 || empty.Revoked == nil {
		t.Errorf("%+v", empty)
	}
}

func TestLeaksTakesEightMegabytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	text := strings.Repeat(".\n", (maxLeakText-len(m.ScopedKey)-1)/2) + " " + m.ScopedKey
	if answer := admintest.Get[wire.LeaksAnswer](t, w.Do("POST", "/leaks", mustJSON(t, object{"text": text}))); len(answer.Revoked) != 1 {
		t.Errorf("%+v", answer)
	}
	a := w.Do("POST", "/leaks", mustJSON(t, object{"text": text + strings.Repeat(" ", 100)}))
	if _, message := a.Fault(t); a.Status != http.StatusRequestEntityTooLarge || !strings.Contains(message, "overlap") {
		t.Errorf("%d %s", a.Status, message)
	}
}

type object = map[string]any

func TestFewTextsAreSearchedForLeaksAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	body := `{"text":"` + k.ScopedKey + `"}`
	for range cap(leakSlots) {
		leakSlots <- struct{}{}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	rec := httptest.NewRecorder()
	w.Handler.ServeHTTP(rec, httptest.NewRequestWithContext(gone, "POST", "/leaks", strings.NewReader(body)))
	for range cap(leakSlots) {
		<-leakSlots
	}
	if rec.Code != http.StatusServiceUnavailable {
		t.Errorf("one too many, whose client went away: %d %s", rec.Code, rec.Body)
	}
	if a := w.Do("POST", "/leaks", body); a.Status != http.StatusOK || !strings.Contains(a.Body, k.ID) {
		t.Errorf("after that: %d %s", a.Status, a.Body)
	}
}

// TestALeakThatCannotBeEndedHidesNoOther: whoever has pasted a log of many keys has to
// know which of them still work.
func TestALeakThatCannotBeEndedHidesNoOther(t *testing.T) {
	t.Parallel()
	of, lose := admintest.Unreadable(t)
	w := serving(of)
	before, lost, after := w.NewKey(`{"upstream":"openai","max_activations":5}`), w.NewKey(`{"upstream":"openai","max_activations":5}`), w.NewKey(`{"upstream":"openai","max_activations":5}`)
	lose(record.RecordKey(lost.ID))
	a := w.Do("POST", "/leaks", mustJSON(t, object{"text": before.ScopedKey + " ~\n" + lost.ScopedKey + " ~\n" + after.ScopedKey}))
	code, message := a.Fault(t)
	if a.Status != http.StatusServiceUnavailable || code == "" || !strings.Contains(message, "1 of 3 strings") {
		t.Errorf("%d %s: %s", a.Status, code, message)
	}
	var answer wire.LeaksAnswer
	if err := json.Unmarshal([]byte(a.Body), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Found != 3 || answer.Unknown != 0 || !slices.Equal(answer.Revoked, []string{before.ID, after.ID}) {
		t.Errorf("%+v", answer)
	}
	var states []limiter.LeakState
	for _, m := range answer.Matches {
		states = append(states, m.State)
		if (m.State == limiter.LeakFailed) != (m.Error != "") {
			t.Errorf("%+v", m)
		}
	}
	if want := []limiter.LeakState{limiter.LeakRevoked, limiter.LeakFailed, limiter.LeakRevoked}; !slices.Equal(states, want) {
		t.Errorf("the strings are %s, want %s", states, want)
	}
	for _, m := range []*wire.Minted{before, after} {
		if w.Live(m).View().Status != record.Revoked {
			t.Errorf("%s still works", m.ID)
		}
	}
}
