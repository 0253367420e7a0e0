package admin

import (
	"strings"
	"testing"
)

func TestClientsOfAnUnknownUpstreamAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.do("GET", "/upstreams/nothing/clients", "")
	if _, message := a.fault(t); a.status != 404 || !strings.Contains(message, "nothing is not configured") {
		t.Errorf("%d %s", a.status, a.body)
	}
	a = w.do("GET", "/upstreams/openai/clients", "")
	if a.status != 200 || !strings.Contains(a.body, "OPENAI_API_KEY=till_sk_...") || !strings.Contains(a.body, w.base) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
