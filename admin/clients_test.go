package admin

import (
	"strings"
	"testing"
)

func TestClientsOfAnUnknownUpstreamAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.Do("GET", "/upstreams/nothing/clients", "")
	if _, message := a.Fault(t); a.Status != 404 || !strings.Contains(message, "nothing is not configured") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	a = w.Do("GET", "/upstreams/openai/clients", "")
	if a.Status != 200 || !strings.Contains(a.Body, "OPENAI_API_KEY=till_sk_...") || !strings.Contains(a.Body, w.Base) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}
