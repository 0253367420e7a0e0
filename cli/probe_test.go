package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAServerWhoseStoreIsClosedIsWorthKeeping(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	for _, question := range []string{"live", "ready"} {
		if got := till(t, question, "--address", at); got.code != 0 || got.out != question+"\n" || got.err != "" {
			t.Errorf("%s: %+v", question, got)
		}
	}
	w.Shut()
	if got := till(t, "live", "--address", at); got.code != 0 || got.out != "live\n" {
		t.Errorf("live, closed: %+v", got)
	}
	if got := till(t, "ready", "--address", at); got.code != 1 || got.out != "" || got.err != "Error: not ready: the store is closed\n" {
		t.Errorf("ready, closed: %+v", got)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>live")) }))
	defer other.Close()
	if got := till(t, "live", "--address", other.URL); got.code != 1 || !strings.Contains(got.err, "is a Caddy with till running there?") {
		t.Errorf("another server: %+v", got)
	}
}
