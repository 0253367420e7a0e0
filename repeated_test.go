package till

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http2"
)

// breaker is an upstream that takes requests over HTTP/2 and breaks each off. From the third
// one it does so in a way that ends repetitions.
type breaker struct {
	*httptest.Server
	code  http2.ErrCode
	taken atomic.Int64
}

func newBreaker(t *testing.T, code http2.ErrCode) *breaker {
	b := &breaker{code: code, Server: httptest.NewUnstartedServer(nil)}
	b.EnableHTTP2 = true
	b.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		"h2": func(_ *http.Server, c *tls.Conn, _ http.Handler) { _ = b.serve(c) }, // the client has ended it
	}
	b.StartTLS()
	t.Cleanup(func() {
		b.CloseClientConnections()
		b.Close()
	})
	return b
}

func (b *breaker) serve(c *tls.Conn) error {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return err
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		case *http2.HeadersFrame:
			code := b.code
			if b.taken.Add(1) > 2 {
				code = http2.ErrCodeInternal
			}
			err = f.WriteRSTStream(frame.StreamID, code)
		}
		if err != nil {
			return err
		}
	}
}

// TestARequestThatIsBrokenOffIsNotSentAgain: net/http repeats one without a body over
// HTTP/2 even where the upstream does not say that it has done nothing.
func TestARequestThatIsBrokenOffIsNotSentAgain(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "DELETE", "POST", "PUT"} {
		for _, code := range []http2.ErrCode{http2.ErrCodeProtocol, http2.ErrCodeRefusedStream, http2.ErrCodeInternal} {
			for _, body := range []string{"", "x"} {
				t.Run(method+" "+body+" "+code.String(), func(t *testing.T) {
					t.Parallel()
					b := newBreaker(t, code)
					_, _, x := oneAtATime(t, "")
					o, _, err := parseOrigin(b.URL)
					if err != nil {
						t.Fatal(err)
					}
					x.target.origins = []origin{o}
					way := &Transport{target: x.target}
					way.TLS, way.Transport = new(reverseproxy.TLSConfig), b.Client().Transport.(*http.Transport)
					ctx := httptrace.WithClientTrace(t.Context(), new(httptrace.ClientTrace)) // as the reverse proxy does
					ctx = context.WithValue(ctx, caddy.CtxKey("reverse_proxy.dial_info"), reverseproxy.DialInfo{Network: "tcp", Address: o.address})
					r := httptest.NewRequestWithContext(context.WithValue(ctx, exchangeKey{}, x), method, b.URL, nil)
					if body != "" {
						r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
					}
					x.client, x.clientCtx = httptest.NewRecorder(), ctx
					res, err := way.RoundTrip(r)
					if err == nil {
						t.Fatalf("answered %d", res.StatusCode)
					}
					if errors.Is(err, context.Canceled) {
						t.Errorf("%v, which means that the client has left", err)
					}
					if n := b.taken.Load(); n != 1 || !x.dispatched.Load() {
						t.Errorf("sent %d times, dispatched %v", n, x.dispatched.Load())
					}
				})
			}
		}
	}
}
