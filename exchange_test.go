package till

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// TestAnAnswerMayBeSilentBeforeItsEnd: what ends it over HTTP/1.1 is written after its
// handler, when the deadline that Caddy has given the last write may be over.
func TestAnAnswerMayBeSilentBeforeItsEnd(t *testing.T) {
	t.Parallel()
	const (
		event     = "data: hi\n\n"
		writeIdle = time.Minute // Caddy's default
		silence   = 5 * writeIdle
	)
	for name, test := range map[string]struct {
		limit time.Duration // of the server for the whole answer; 0: none
		pause time.Duration // of the client, before it reads the end
		want  error
	}{
		"as long as it likes":            {},
		"within the server's limit":      {limit: silence + writeIdle},
		"past the server's limit":        {limit: silence - writeIdle, want: io.ErrUnexpectedEOF},
		"to a client that takes long":    {pause: silence + writeIdle/2},
		"to a client that reads no more": {pause: silence + 2*writeIdle, want: io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // time passes only while all wait
				s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					idle := &caddyhttp.IdleTimeoutWriter{
						ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, Ctrl: http.NewResponseController(w),
						Deadline: caddyhttp.IdleDeadline{Timeout: writeIdle}, Logger: zap.NewNop(),
					}
					if test.limit > 0 {
						idle.Deadline.HardDeadline = time.Now().Add(test.limit)
					}
					x := &exchange{client: idle, request: r, clientCtx: caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle)}
					defer x.handlerDone()
					if _, err := io.WriteString(idle, event); err != nil {
						t.Error(err)
					}
					if err := http.NewResponseController(idle).Flush(); err != nil {
						t.Error(err)
					}
					time.Sleep(silence)
				})}
				l := &pipe{make(chan net.Conn), make(chan struct{})}
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				c, there := net.Pipe()
				l.accept <- there
				defer func() {
					if err := errors.Join(c.Close(), s.Close()); err != nil {
						t.Error(err)
					}
					<-served
				}()
				if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(res.Body, make([]byte, len(event))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(test.pause)
				if rest, err := io.ReadAll(res.Body); len(rest) > 0 || !errors.Is(err, test.want) {
					t.Errorf("it ended with %q, %v; want %v", rest, err, test.want)
				}
			})
		})
	}
}
