package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
	"golang.org/x/net/http2"
)

// echoes is an upstream that takes upgrades to a protocol, and echoes what it
// receives until the other side closes.
func echoes(t *testing.T, protocol string, look func(*http.Request)) (to string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if look != nil {
			look(r)
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
		if rw.Flush() == nil {
			_, _ = io.Copy(conn, rw)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// upgrade asks for a connection that becomes another protocol.
func (s *server) upgrade(t *testing.T, path, protocol, header string) (*upgradedConn, *http.Response) {
	t.Helper()
	plain := s.dial()
	fmt.Fprintf(plain, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s\r\n\r\n", path, protocol, header)
	conn := &upgradedConn{plain, bufio.NewReader(plain)}
	res, err := http.ReadResponse(conn.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn, res
}

// ends waits until the other side has ended the connection, and says nothing more.
func (c *upgradedConn) ends(t *testing.T) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c.r); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection lives on: %d bytes, %v", n, err)
	}
}

// TestAnUpgradeIsOneActivationAndEndsWithItsKey speaks through an upgraded
// connection, and revokes the key meanwhile.
func TestAnUpgradeIsOneActivationAndEndsWithItsKey(t *testing.T) {
	t.Parallel()
	echo := echoes(t, "echo", func(r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+realKey || r.Header.Get("Sec-Websocket-Protocol") != "chat" {
			t.Errorf("the upstream got %v", r.Header)
		}
	})
	s := newServer(t, options{vendor: upstreamtest.Any, to: echo, upstream: "upgrades /ws/*"})
	id, key := s.mint(object{"max_activations": 5})
	header := "Sec-WebSocket-Protocol: chat, openai-insecure-api-key." + key
	if _, res := s.upgrade(t, "/elsewhere", "echo", header); res.StatusCode != 403 || res.Header.Get("Till-Refusal") != "till_upgrade_not_allowed" {
		t.Errorf("an upgrade that is not allowed: %d %v", res.StatusCode, res.Header)
	}
	conn, res := s.upgrade(t, "/ws/room", "echo", header)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	for range 2 {
		if err := conn.echo(); err != nil {
			t.Fatal(err)
		}
	}
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 || answer["streams_cut"] != 1.0 {
		t.Errorf("revoke: %d %v", status, answer)
	}
	conn.ends(t)
	if n := s.used(id); n != 1 {
		t.Errorf("used %d, want 1", n)
	}
	if strings.Contains(s.output(), key) {
		t.Error("the log holds the key")
	}
}

func TestAnUpgradeEndsWhenItsKeyExpires(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Any, to: echoes(t, "x", nil), upstream: "upgrades /ws"})
	id, key := s.mint(object{"unlimited": true})
	conn, res := s.upgrade(t, "/ws", "x", "Authorization: Bearer "+key)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	if status, answer := s.endsSoon(id, "expires_at"); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	conn.ends(t)
	if status := s.show(id)["status"]; status != "expired" {
		t.Errorf("it ended while its key was %v", status)
	}
}

// TestAReloadLetsUpgradesGoOnForTheStreamCloseDelay also checks that they end with
// their key meanwhile; without a delay the reload ends them.
func TestAReloadLetsUpgradesGoOnForTheStreamCloseDelay(t *testing.T) {
	t.Parallel()
	to := echoes(t, "x", nil)
	for name, delay := range map[string]string{"none": "", "an hour": "\nstream_close_delay 1h"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: upstreamtest.Any, to: to, upstream: "upgrades /ws" + delay})
			id, key := s.mint(object{"unlimited": true})
			conn, res := s.upgrade(t, "/ws", "x", "Authorization: Bearer "+key)
			if res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(res.Status)
			}
			if err := conn.echo(); err != nil {
				t.Fatal(err)
			}
			s.reload()
			if delay != "" {
				if err := conn.echo(); err != nil {
					t.Fatalf("after a reload: %v", err)
				}
				if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != http.StatusOK || answer["streams_cut"] != 1.0 {
					t.Errorf("revoke: %d %v", status, answer)
				}
			}
			conn.ends(t)
		})
	}
}

func TestWebSocketsOverHTTP2AreUpgrades(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Any, to: echoes(t, "websocket", nil), upstream: "upgrades /ws/*", env: "GODEBUG=http2xconnect=1"})
	base, trust := s.secure("")
	//lint:ignore SA1019 net/http's own client does not send the pseudo-header :protocol
	client := &http.Client{Transport: &http2.Transport{TLSClientConfig: trust}, Timeout: patience}
	t.Cleanup(client.CloseIdleConnections)
	id, key := s.mint(object{"max_activations": 1, "methods": []string{"GET"}})
	connect := func(path string) (*http.Response, *io.PipeWriter) {
		body, say := io.Pipe()
		r, err := http.NewRequest("CONNECT", base+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header[":protocol"] = []string{"websocket"}
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Sec-Websocket-Version", "13")
		res, err := client.Do(r)
		if err != nil {
			t.Fatalf("%v\n%s", err, s.output())
		}
		t.Cleanup(func() { res.Body.Close() })
		return res, say
	}
	if res, _ := connect("/elsewhere"); res.StatusCode != http.StatusForbidden || res.Header.Get("Till-Refusal") != "till_upgrade_not_allowed" {
		t.Errorf("where it is not allowed: %d %v", res.StatusCode, res.Header)
	}
	res, say := connect("/ws/room")
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	got := make([]byte, 5)
	for range 3 {
		fmt.Fprint(say, "hello")
		if _, err := io.ReadFull(res.Body, got); err != nil || !bytes.Equal(got, []byte("hello")) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 || answer["streams_cut"] != 1.0 {
		t.Errorf("revoke: %d %v", status, answer)
	}
	if _, err := io.ReadFull(res.Body, got); err == nil {
		t.Error("the connection lives on")
	}
	if n := s.used(id); n != 1 {
		t.Errorf("used %d, want 1", n)
	}
}
