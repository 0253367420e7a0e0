package till

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestWhatAGuardedHandlerSaysAfterTheCutIsTheRefusal, whatever it writes when its
// context has ended; and an answer that had begun goes on as the handler's.
func TestWhatAGuardedHandlerSaysAfterTheCutIsTheRefusal(t *testing.T) {
	t.Parallel()
	type next = func(w http.ResponseWriter, cut func()) error
	for name, test := range map[string]struct {
		next   next
		status int // 0 for the refusal's
		panics bool
	}{
		"writes a status of its own": {next: func(w http.ResponseWriter, cut func()) error { cut(); w.WriteHeader(499); return nil }},
		"answers as if nothing were": {next: func(w http.ResponseWriter, cut func()) error {
			w.Header().Set("Set-Cookie", "a=b")
			cut()
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(200)
			_, err := w.Write([]byte("hello"))
			return err
		}},
		"writes without a status": {next: func(w http.ResponseWriter, cut func()) error { cut(); _, _ = w.Write([]byte("hello")); return nil }},
		"copies": {next: func(w http.ResponseWriter, cut func()) error {
			cut()
			_, _ = io.Copy(w, strings.NewReader("hello"))
			return nil
		}},
		"flushes": {next: func(w http.ResponseWriter, cut func()) error {
			cut()
			_ = http.NewResponseController(w).Flush()
			return nil
		}},
		"hints and answers": {next: func(w http.ResponseWriter, cut func()) error {
			cut()
			w.WriteHeader(103)
			w.WriteHeader(200)
			return nil
		}},
		"says nothing":        {next: func(_ http.ResponseWriter, cut func()) error { cut(); return nil }},
		"fails":               {next: func(_ http.ResponseWriter, cut func()) error { cut(); return context.Canceled }},
		"fails with a status": {next: func(_ http.ResponseWriter, cut func()) error { cut(); return caddyhttp.Error(502, errors.New("gone")) }},
		"aborts":              {next: func(_ http.ResponseWriter, cut func()) error { cut(); panic(http.ErrAbortHandler) }},
		"writes and aborts":   {next: func(w http.ResponseWriter, cut func()) error { cut(); w.WriteHeader(200); panic(http.ErrAbortHandler) }},
		"panics":              {next: func(_ http.ResponseWriter, cut func()) error { cut(); panic("below") }, panics: true},
		"had begun": {next: func(w http.ResponseWriter, cut func()) error {
			w.WriteHeader(202)
			cut()
			_, err := w.Write([]byte("hello"))
			return err
		}, status: 202},
		"had flushed": {next: func(w http.ResponseWriter, cut func()) error {
			_ = http.NewResponseController(w).Flush()
			cut()
			w.WriteHeader(502)
			return nil
		}, status: 200},
		"had begun and aborts": {next: func(w http.ResponseWriter, cut func()) error { w.WriteHeader(202); cut(); panic(http.ErrAbortHandler) }, status: 202, panics: true},
		"is not cut and fails": {next: func(w http.ResponseWriter, _ func()) error {
			w.Header().Set("Retry-After", "9")
			return caddyhttp.Error(429, errors.New("often"))
		}, status: 429},
		"is not cut and has a reply": {next: func(w http.ResponseWriter, _ func()) error { w.WriteHeader(499); return nil }, status: 499},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil)
			k := s.mint(func(k *record.Key) { k.Upstream = "raw" })
			w := httptest.NewRecorder()
			x := &exchange{target: s.h.app.targets["raw"], client: w, clientCtx: t.Context(), request: httptest.NewRequest("GET", "/", nil)}
			ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "GET", Path: "/", OnCut: x.stop}
			if refusal := s.live(k).Reserve(t.Context(), &ask, &x.grant); refusal != nil {
				t.Fatal(refusal)
			}
			w.Header().Set("Till-Key", k.id)
			cut := func() {
				if _, _, err := s.Revoke(t.Context(), limiter.Operator, k.id, ""); err != nil {
					t.Error(err)
				}
			}
			h := &Handler{Guard: true, metrics: s.h.metrics, logger: zap.NewNop()}
			func() {
				defer func() {
					if v := recover(); (v != nil) != test.panics {
						t.Errorf("panic %v", v)
					}
				}()
				err := h.forward(w, x, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					return test.next(w, func() { cut(); <-r.Context().Done() })
				}))
				if err != nil {
					t.Errorf("an error left the handler: %v", err)
				}
			}()
			got := w.Result()
			switch {
			case test.panics && test.status == 0:
			case test.status != 0 && (got.StatusCode != test.status || got.Header.Get("Till-Refusal") == "till_key_revoked"):
				t.Errorf("%d %v, want %d", got.StatusCode, got.Header, test.status)
			case test.status == 0 && (got.StatusCode != 403 || got.Header.Get("Till-Refusal") != "till_key_revoked" || !strings.Contains(w.Body.String(), "till_key_revoked") ||
				got.Header.Get("Till-Key") != k.id || got.Header.Get("Till-Activations-Remaining") != "999" || got.Header.Get("Set-Cookie")+got.Header.Get("Content-Encoding")+got.Header.Get("Location") != ""):
				t.Errorf("%d %v %q, want the refusal", got.StatusCode, got.Header, w.Body)
			case test.status == 429 && got.Header.Get("Retry-After") == "":
				t.Errorf("what the handler said of itself is lost: %v", got.Header)
			}
		})
	}
}
