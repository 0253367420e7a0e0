package e2e

import (
	"net/http"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestAStreamOfAnotherTypeIsMeasured: servers send events as text, as bytes, or
// without a Content-Type (claude-code-router-next#45). They cost what they report,
// and the event that only till asked for does not reach the client.
func TestAStreamOfAnotherTypeIsMeasured(t *testing.T) {
	t.Parallel()
	u := newScripted(t)
	s := leftServer(t, u)
	for _, kind := range []string{"text/event-stream", "text/plain; charset=utf-8", "application/octet-stream", "application/json", ""} {
		u.kind = kind
		u.script(chatWord, chatEnd)
		id, key := s.mint(object{"upstream": "codex", "max_spend_usd": "50"})
		u.goOn <- struct{}{}
		res, got := s.must(s.post(key, chatTurn.path, chatTurn.body))
		<-u.came
		<-u.ended
		if want := chatWord + "data: [DONE]\n\n"; res.StatusCode != http.StatusOK || got != want {
			t.Errorf("%q: %d, and the client gets %q", kind, res.StatusCode, got)
		}
		if spent, want := s.spent(id), record.FormatUSD(1000*2_000+14_000*200+300*10_000); spent != want {
			t.Errorf("%q: charged $%s, want $%s", kind, spent, want)
		}
	}
}
