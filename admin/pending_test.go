package admin

import (
	"slices"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
)

func TestAnAnswerNamesTheNodesThatHaveNotFollowed(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(w *world, id, secret string) admintest.Answer{
		"revoke":  func(w *world, id, _ string) admintest.Answer { return w.Do("POST", "/keys/"+id+"/revoke", "") },
		"suspend": func(w *world, id, _ string) admintest.Answer { return w.Do("POST", "/keys/"+id+"/suspend", "") },
		"rotate":  func(w *world, id, _ string) admintest.Answer { return w.Do("POST", "/keys/"+id+"/rotate", "{}") },
		"revoke many": func(w *world, _, _ string) admintest.Answer {
			return w.Do("POST", "/keys/revoke", `{"all":true}`)
		},
		"revoke many, without waiting for it": func(w *world, _, _ string) admintest.Answer {
			return w.Do("POST", "/keys/revoke", `{"all":true,"wait":false}`)
		},
		"leak": func(w *world, _, secret string) admintest.Answer {
			return w.Do("POST", "/leaks", `{"text":"`+secret+`"}`)
		},
		"revoke a token": func(w *world, _, _ string) admintest.Answer {
			return w.Do("POST", "/tokens/"+w.NewToken("anna").ID+"/revoke", "")
		},
		"lock down": func(w *world, _, _ string) admintest.Answer { return w.Do("POST", "/lockdown", "") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serving(admintest.Lagging(t))
			m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
			answer := admintest.Get[struct{ Pending []string }](t, act(w, m.ID, m.ScopedKey))
			if !slices.Equal(answer.Pending, []string{"node-b"}) {
				t.Errorf("pending is %q", answer.Pending)
			}
		})
	}
}

func TestALockdownThatOthersDoNotKnowOfIsShownAsSuch(t *testing.T) {
	t.Parallel()
	w := serving(admintest.Lagging(t))
	w.Shut() // so that it cannot be written where they look
	for _, method := range []string{"POST", "GET"} {
		s := admintest.Get[wire.LockdownJSON](t, w.Do(method, "/lockdown", ""))
		if s.Durable == nil || *s.Durable || !slices.Equal(s.Pending, []string{"other nodes"}) {
			t.Errorf("%s: %+v", method, s)
		}
	}
}

func TestAnAnswerOfOneServerSaysNothingOfNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	answer := admintest.Get[map[string]any](t, w.Do("POST", "/keys/"+m.ID+"/revoke", ""))
	if pending, said := answer["pending"]; said {
		t.Errorf("pending is %v", pending)
	}
}
