package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// TestTheRestOfABodyIsNoRequest: where an answer comes before the end of a long body, it
// is the last on its connection, which ends without a reset that could take it away.
func TestTheRestOfABodyIsNoRequest(t *testing.T) {
	t.Parallel()
	early := rogueTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			<-t.Context().Done() // it reads no more
		}
	})
	second := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	second.Config.Protocols = new(http.Protocols)
	second.Config.Protocols.SetUnencryptedHTTP2(true)
	second.Start()
	t.Cleanup(second.Close)
	site := "route /guarded/* {\n\ttill guard\n\treverse_proxy h2c://" + second.Listener.Addr().String() + "\n}\nroute /silent/* {\n\ttill guard\n\trespond ok\n}\n"
	for mode, global := range map[string]string{"as Caddy does": "", "full duplex": "servers {\n\tenable_full_duplex\n}"} {
		// Where an upstream answers early over HTTP/2, reverse_proxy's own wrapper of the body has a race.
		s := newServer(t, options{plain: true, vendor: upstreamtest.Any, to: "http://" + early, upstream: newConnections, site: site, global: global})
		_, key := s.mint(object{"max_activations": 100})
		for path, status := range map[string]int{"/x": 200, "/guarded/x": 200, "/silent/x": 200, "/till/self": 405, "/till/keys": 404, "/x/../y": 400} {
			for _, framing := range []string{"length", "chunks"} {
				name := mode + ", " + path + ", " + framing
				body := strings.Repeat("\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n", 200_000) // 6 MB
				head := "POST " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nContent-Type: text/plain\r\n"
				if framing == "length" {
					head += fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
				} else {
					head += "Transfer-Encoding: chunked\r\n\r\n"
					body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
				}
				conn := s.dial()
				go func() {
					if _, err := io.WriteString(conn, head+body); err != nil {
						return // the server has closed
					}
				}()
				r := bufio.NewReader(conn)
				res, err := http.ReadResponse(r, &http.Request{Method: "POST"})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				answer, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != status {
					t.Errorf("%s: %d %s (%v), want %d", name, res.StatusCode, answer, err, status)
				}
				if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
					t.Errorf("%s: after the answer %.200q (%v), want the end", name, rest, err)
				}
				if err := errors.Join(res.Body.Close(), conn.Close()); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
