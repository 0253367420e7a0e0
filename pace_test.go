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
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// pipe is a listener with one connection that needs no network: a test in a bubble of
// its own controls time.
type pipe struct {
	accept chan net.Conn
	closed chan struct{}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
func (p *pipe) Close() error   { close(p.closed); return nil }

// TestABodyMustComeAtAPace sends bodies, and observes how reading them ends.
func TestABodyMustComeAtAPace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		announced int
		send      func(net.Conn)
		whole     bool
	}{
		"all at once":      {10, func(c net.Conn) { _, _ = io.WriteString(c, "0123456789") }, true},
		"nothing":          {10, func(net.Conn) {}, false},
		"a part, and then": {10, func(c net.Conn) { _, _ = io.WriteString(c, "01234") }, false},
		"with pauses, and soon enough": {10, func(c net.Conn) {
			for _, b := range []byte("01") {
				time.Sleep(bodyPause / 3)
				_, _ = c.Write([]byte{b})
			}
			_, _ = io.WriteString(c, "23456789")
		}, true},
		"byte by byte, quicker than the longest pause, and for ever": {1 << 20, func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "x"); err != nil {
					return // as soon as the server has closed it
				}
				time.Sleep(bodyPause / 8)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // time passes only while all wait
				read := make(chan error, 1)
				kept := make(chan error, 1)
				l := &pipe{make(chan net.Conn), make(chan struct{})}
				s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					b, _, err := readBody(r, 2<<20, newPace(w, r))
					read <- err
					if err != nil {
						return
					}
					_ = b.Close()
					// No deadline remains that would end the answer.
					time.Sleep(2 * bodyPause)
					kept <- r.Context().Err()
				})}
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				c, there := net.Pipe()
				l.accept <- there
				defer func() {
					if err := errors.Join(c.Close(), s.Close()); err != nil {
						t.Error(err)
					}
					<-served
					time.Sleep(2 * bodyPause) // a client that pauses finds the connection closed
				}()
				if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", test.announced); err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = io.Copy(io.Discard, c) }()
				go test.send(c)
				err := <-read
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
				refusal := (&Handler{app: &App{}}).bodyRefusal(&record.Key{}, err)
				if refusal.Code != record.CodeBadRequest || !strings.Contains(refusal.Message, "too slowly") {
					t.Errorf("refused with %v", refusal)
				}
			})
		})
	}
}

// TestTheServersOwnDeadlineStays: an operator's limit is not extended.
func TestTheServersOwnDeadlineStays(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest("POST", "/", nil)
	r = r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, &http.Server{ReadTimeout: time.Second}))
	if newPace(httptest.NewRecorder(), r) != nil {
		t.Error("the deadline of the server is replaced")
	}
}
