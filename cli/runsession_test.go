package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestAKeyWhoseMinterMayNotEndItIsEndedByItsHolder: the role may mint only, or the token
// has expired or was revoked while the command ran.
func TestAKeyWhoseMinterMayNotEndItIsEndedByItsHolder(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]string{http.StatusForbidden: "forbidden", http.StatusUnauthorized: "unauthorized"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.HandleFunc("POST /till/api/keys/key_x/revoke", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = fmt.Fprintf(w, `{"error":{"code":%q,"message":"no"}}`, code)
			})
			ended := false
			mux.HandleFunc("DELETE /till/self", func(w http.ResponseWriter, r *http.Request) {
				ended = r.Header.Get("Authorization") == "Bearer till_sk_x"
				_, _ = fmt.Fprint(w, `{"id":"key_x","upstream":"openai"}`)
			})
			s := httptest.NewServer(mux)
			defer s.Close()
			c, err := newClient(s.URL + "/till/api")
			if err != nil {
				t.Fatal(err)
			}
			k, err := c.endRun(t.Context(), s.URL, ending{"key_x", "till_sk_x"}, "its command has ended")
			if err != nil || k.ID != "key_x" || !ended {
				t.Errorf("%v, %+v, ended: %v", err, k, ended)
			}
		})
	}
}
