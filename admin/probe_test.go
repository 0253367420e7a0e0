package admin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
)

func TestAProberIsToldWhetherTheServerLivesApartFromWhetherItIsReady(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		method, path string
		ready        error
		status       int
		line         string
	}{
		{"GET", "/till/live", nil, http.StatusOK, "live"},
		{"GET", "/till/live", errors.New("the store is closed"), http.StatusOK, "live"},
		{"GET", "/till/ready", nil, http.StatusOK, "ready"},
		{"HEAD", "/till/ready", nil, http.StatusOK, "ready"},
		{"GET", "/till/ready", errors.New("the store is closed"), http.StatusServiceUnavailable, "not ready: the store is closed"},
		{"POST", "/till/ready", nil, http.StatusMethodNotAllowed, "ask with GET"},
	} {
		w := httptest.NewRecorder()
		if !Probe(w, httptest.NewRequest(test.method, test.path, nil), func() error { return test.ready }) {
			t.Errorf("%s %s is not answered", test.method, test.path)
		}
		if w.Code != test.status || w.Body.String() != test.line+"\n" {
			t.Errorf("%s %s with %v: %d %q", test.method, test.path, test.ready, w.Code, w.Body)
		}
		if again := w.Header().Get("Retry-After"); (again != "") != (w.Code == http.StatusServiceUnavailable) {
			t.Errorf("%s %s with %v: Retry-After is %q", test.method, test.path, test.ready, again)
		}
	}
	w := httptest.NewRecorder()
	if Probe(w, httptest.NewRequest("GET", "/till/stats", nil), func() error { return nil }) {
		t.Error("a path of the management API was answered as a probe")
	}
}

func TestAServerWhoseStoreIsClosedLivesAndIsNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if a := w.Do("GET", "/ready", ""); a.Status != http.StatusOK {
		t.Errorf("open: %d %s", a.Status, a.Body)
	}
	w.Shut()
	if a := w.Do("GET", "/ready", ""); a.Status != http.StatusServiceUnavailable || a.Body != "not ready: the store is closed\n" {
		t.Errorf("closed: %d %s", a.Status, a.Body)
	}
	if a := w.Do("GET", "/live", ""); a.Status != http.StatusOK {
		t.Errorf("closed, and alive: %d %s", a.Status, a.Body)
	}
}

func TestCommandsForTheStoreOfOneServerSayWhatToDoWithADatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Node = "till-1"
	if a := w.Do("GET", "/backup", ""); a.Status != http.StatusConflict || !strings.Contains(a.Body, "pg_dump") {
		t.Errorf("a backup: %d %s", a.Status, a.Body)
	}
	admintest.Equal(t, "what is found", strings.Join(checksOf(w.found()), " "), "")
}
