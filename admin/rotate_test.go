package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

func TestRotateAnswersWithTheSameRecordAndANewString(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":500}`)
	w.Use(m, 3)
	r := admintest.Get[wire.Rotated](t, w.Do("POST", "/keys/"+m.ID+"/rotate", `{"grace":"1h"}`))
	if r.ID != m.ID || *r.RemainingActivations != 497 || r.ScopedKey == m.ScopedKey || r.RotatedAt == nil ||
		!r.GraceEndsAt.Equal(r.RotatedAt.Add(time.Hour)) || r.Version <= m.Version || r.BaseURL != w.Base {
		t.Errorf("rotated %+v, string %t", r.KeyObject, r.ScopedKey == m.ScopedKey)
	}
	for i, text := range []string{m.ScopedKey, r.ScopedKey} {
		p, err := token.ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, refusal := w.Find(t.Context(), p.Lookup); refusal != nil {
			t.Errorf("string %d: %v", i, refusal)
		}
	}
	// Only the answer shows the string, and no list shows a hash.
	for _, path := range []string{"/keys", "/keys/" + m.ID} {
		body := w.Do("GET", path, "").Body
		if strings.Contains(body, "till_sk_") || strings.Contains(body, "lookup") || strings.Contains(body, "former") {
			t.Errorf("%s: %s", path, body)
		}
	}
	r = admintest.Get[wire.Rotated](t, w.Do("POST", "/keys/"+m.ID+"/rotate", ""))
	if !r.GraceEndsAt.Equal(*r.RotatedAt) {
		t.Errorf("without a grace it ends at %s, rotated at %s", r.GraceEndsAt, r.RotatedAt)
	}
}

func TestRotateRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	held := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	sealed := w.NewKey(`{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-1"}`)
	dead := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	if a := w.Do("POST", "/keys/"+dead.ID+"/revoke", ""); a.Status != http.StatusOK {
		t.Fatal(a.Body)
	}
	for _, test := range []struct {
		id, body string
		status   int
		says     string
	}{
		{dead.ID, `{"grace":"1h"}`, http.StatusConflict, "cannot be undone"},
		{sealed.ID, `{"grace":"1h"}`, http.StatusBadRequest, "upstream_key must be sent again"},
		{held.ID, `{"upstream_key":"sk-real-2"}`, http.StatusBadRequest, "change that one there"},
		{held.ID, `{"grace":"31d"}`, http.StatusBadRequest, "from 0 to 30 days"},
		{held.ID, `{"grace":"soon"}`, http.StatusBadRequest, "grace"},
		{held.ID, `{"gracie":"1h"}`, http.StatusBadRequest, "unknown field"},
		{"key_01M86CD5XPYDCWAP07D6V89DTK", `{}`, http.StatusNotFound, "no such key"},
	} {
		a := w.Do("POST", "/keys/"+test.id+"/rotate", test.body)
		if _, message := a.Fault(t); a.Status != test.status || !strings.Contains(message, test.says) {
			t.Errorf("%s: %d %s", test.body, a.Status, message)
		}
	}
	if v := w.Live(held).View(); v.Rotations != 0 {
		t.Error("a refused rotation was done")
	}
	w.Upstreams = w.Upstreams[:1] // openai is no longer configured
	a := w.Do("POST", "/keys/"+sealed.ID+"/rotate", `{"upstream_key":"sk-real-2"}`)
	if _, message := a.Fault(t); a.Status != http.StatusBadRequest || !strings.Contains(message, "not configured") {
		t.Errorf("%d %s", a.Status, message)
	}
}

func TestRotatingASealedKeyMakesANewBox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-old"}`)
	r := admintest.Get[wire.Rotated](t, w.Do("POST", "/keys/"+m.ID+"/rotate", `{"grace":"1h","upstream_key":"sk-real-new"}`))
	next := &wire.Minted{KeyObject: r.KeyObject, ScopedKey: r.ScopedKey}
	_, oldBox, _ := strings.Cut(m.ScopedKey, ".")
	_, newBox, _ := strings.Cut(r.ScopedKey, ".")
	for _, test := range []struct {
		what string
		key  *wire.Minted
		box  string
		want string
	}{{"the former string", m, oldBox, "sk-real-old"}, {"the new one", next, newBox, "sk-real-new"}} {
		if got, err := openBox(w, test.key, test.box); err != nil || got != test.want {
			t.Errorf("%s opens to %q, %v", test.what, got, err)
		}
	}
	if _, err := openBox(w, next, oldBox); err == nil {
		t.Error("the former box opens with the new string")
	}
	if _, err := openBox(w, m, newBox); err == nil {
		t.Error("the new box opens with the former string")
	}
}
