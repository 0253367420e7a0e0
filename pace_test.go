package till

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

// TestABodyMustComeAtAPace sends bodies over real connections, and looks at how
// reading them ends.
func TestABodyMustComeAtAPace(t *testing.T) {
	t.Parallel()
	const pause = 300 * time.Millisecond
	for name, test := range map[string]struct {
		announced int
		send      func(net.Conn)
		rate      int64
		whole     bool
	}{
		"all at once":      {10, func(c net.Conn) { _, _ = io.WriteString(c, "0123456789") }, 1, true},
		"nothing":          {10, func(net.Conn) {}, 1, false},
		"a part, and then": {10, func(c net.Conn) { _, _ = io.WriteString(c, "01234") }, 1, false},
		"byte by byte, quicker than the longest pause, and for ever": {1 << 20, func(c net.Conn) {
			tick := time.NewTicker(pause / 8)
			defer tick.Stop()
			for {
				if _, err := io.WriteString(c, "x"); err != nil {
					return // as soon as the server has closed it
				}
				<-tick.C
			}
		}, 1 << 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read := make(chan error, 1)
			kept := make(chan error, 1)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				p := newPace(w, r)
				p.pause, p.rate = pause, test.rate
				b, _, err := hold(r, 2<<20, p)
				read <- err
				if err != nil {
					return
				}
				_ = b.Close()
				// No deadline is left that would end the answer.
				ctx, cancel := context.WithTimeout(r.Context(), 2*pause)
				defer cancel()
				<-ctx.Done()
				kept <- r.Context().Err()
			}))
			defer s.Close()
			c, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", test.announced); err != nil {
				t.Fatal(err)
			}
			test.send(c)
			err = <-read
			if test.whole {
				if err == nil {
					err = <-kept
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%v, want a deadline that was exceeded", err)
			}
			refusal := (&Handler{app: &App{}}).unread(&limiter.Key{}, err)
			if refusal.Code != limiter.CodeBadRequest || !strings.Contains(refusal.Message, "too slowly") {
				t.Errorf("refused with %v", refusal)
			}
		})
	}
}

// TestTheServersOwnDeadlineStays holds that an operator's limit is not made longer.
func TestTheServersOwnDeadlineStays(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest("POST", "/", nil)
	r = r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, &http.Server{ReadTimeout: time.Second}))
	if newPace(httptest.NewRecorder(), r) != nil {
		t.Error("the deadline of the server is replaced")
	}
}
