package e2e

import (
	"bufio"
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

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// TestAnUpgradeIsOneActivationAndEndsWithItsKey speaks through an upgraded
// connection, and revokes the key meanwhile.
func TestAnUpgradeIsOneActivationAndEndsWithItsKey(t *testing.T) {
	t.Parallel()
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+realKey || r.Header.Get("Sec-Websocket-Protocol") != "chat" {
			t.Errorf("the upstream got %v", r.Header)
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		if rw.Flush() != nil {
			return
		}
		_, _ = io.Copy(conn, rw) // until the other side goes
	}))
	t.Cleanup(echo.Close)
	s := newServer(t, options{vendor: upstreamtest.Any, to: echo.URL, upstream: "upgrades /ws/*"})
	id, key := s.mint(object{"max_activations": 5})
	dial := func(path string) (net.Conn, *bufio.Reader, *http.Response) {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\nSec-WebSocket-Protocol: chat, openai-insecure-api-key.%s\r\n\r\n", path, key)
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, r, res
	}
	if _, _, res := dial("/elsewhere"); res.StatusCode != 403 || res.Header.Get("Till-Refusal") != "till_upgrade_not_allowed" {
		t.Errorf("an upgrade that is not allowed: %d %v", res.StatusCode, res.Header)
	}
	conn, r, res := dial("/ws/room")
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	for _, line := range []string{"hello\n", "again\n"} {
		if _, err := conn.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ReadString('\n'); err != nil || got != line {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 || answer["streams_cut"] != 1.0 {
		t.Errorf("revoke: %d %v", status, answer)
	}
	if _, err := r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection lives on: %v", err)
	}
	if n := s.used(id); n != 1 {
		t.Errorf("used %d, want 1", n)
	}
	if strings.Contains(s.output(), key) {
		t.Error("the log holds the key")
	}
}
