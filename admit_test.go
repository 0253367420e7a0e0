package till

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
)

// TestARefusedRequestGivesBackTheRoomOfItsBody: bodies are in memory while they are
// judged, and those that are refused, too, make room for others.
func TestARefusedRequestGivesBackTheRoomOfItsBody(t *testing.T) {
	s := newSite(t, nil)
	k := s.mint(func(k *limiter.Key) { k.Scope.Models = []string{"gpt-5-mini"} })
	for _, body := range []string{chat("gpt-5").body, "{", `{"model":"gpt-5-mini","messages":"` + strings.Repeat("x", 2*firstBuffer) + `","model":"a"}`} {
		if status, code, _ := s.serve(k, asks{method: "POST", path: "/v1/chat/completions", body: body}); status < 400 || code == "" {
			t.Fatalf("%.20s: %d %s", body, status, code)
		}
	}
	if !beginnings.TryAcquire(firstRoom) {
		t.Error("room for the beginnings of bodies was not given back")
	} else {
		beginnings.Release(firstRoom)
	}
	if !buffered.TryAcquire(maxBuffered - firstRoom) {
		t.Error("room for bodies was not given back")
	} else {
		buffered.Release(maxBuffered - firstRoom)
	}
}
