package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// secure adds a site with TLS to the server, for HTTP/2 and HTTP/3, and
// returns its address and what clients trust.
func (s *server) secure(directives string) (base string, trust *tls.Config) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{"cert.pem": certificate, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(freePort(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(string(b) + fmt.Sprintf("https://localhost:%s {\n\ttls %s/cert.pem %s/key.pem\n\t%s\n\ttill\n}\n", port, s.dir, s.dir, directives))
	s.reload()
	trust = &tls.Config{RootCAs: x509.NewCertPool()}
	trust.RootCAs.AppendCertsFromPEM(certificate)
	return "https://localhost:" + port, trust
}

func http2Client(t *testing.T, trust *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func http3Client(t *testing.T, trust *tls.Config) *http.Client {
	transport := &http3.Transport{TLSClientConfig: trust, QUICConfig: &quic.Config{HandshakeIdleTimeout: patience, MaxIdleTimeout: patience}}
	t.Cleanup(func() {
		if err := transport.Close(); err != nil {
			t.Error(err)
		}
	})
	return &http.Client{Transport: transport, Timeout: patience}
}

// TestEarlyDataIsRefused comes back to the server, with a request in the first packet of
// the handshake (RFC 8470), and asks again when that is complete.
func TestEarlyDataIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	base, trust := s.secure("")
	trust.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	id, key := s.mint(object{"max_activations": 1_000_000})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := func(client *http.Client, method string) *http.Response {
		r, err := http.NewRequestWithContext(ctx, method, base+"/v1/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		res, err := client.Do(r)
		if err != nil {
			t.Fatalf("%v\n%s", err, s.output())
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	if res := ask(http3Client(t, trust), "GET"); res.Header.Get("Till-Refusal") != "" {
		t.Fatal(res.Status, res.Header)
	}
	// The server may not have sent a ticket yet, or may read the request only after the end
	// of the handshake: then it is an ordinary one, and the next connection may be faster.
	passed, again := int64(1), http3Client(t, trust)
	res := ask(again, http3.MethodGet0RTT)
	for ; res.Header.Get("Till-Refusal") == ""; passed++ {
		again = http3Client(t, trust)
		res = ask(again, http3.MethodGet0RTT)
	}
	if res.StatusCode != http.StatusTooEarly || res.Header.Get("Till-Refusal") != "till_too_early" || res.Header.Get("Till-Key") != "" {
		t.Errorf("early data: %d %v", res.StatusCode, res.Header)
	}
	if res := ask(again, "GET"); res.Header.Get("Till-Refusal") != "" {
		t.Errorf("after the handshake: %d %v", res.StatusCode, res.Header)
	}
	if n := s.used(id); n != passed+1 {
		t.Errorf("used %d, want %d", n, passed+1)
	}
}

func TestClientsMaySpeakHTTP2AndHTTP3(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	base, trust := s.secure("")
	for version, client := range map[int]*http.Client{2: http2Client(t, trust), 3: http3Client(t, trust)} {
		id, key := s.mint(object{"max_activations": 2})
		ask := func(key string, header ...string) *http.Response {
			r, err := http.NewRequest("POST", base+"/v1/chat/completions", strings.NewReader(`{"model":"m","stream":true}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+key)
			for i := 0; i+1 < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			res, err := client.Do(r)
			if err != nil {
				t.Fatalf("HTTP/%d: %v\n%s", version, err, s.output())
			}
			t.Cleanup(func() { res.Body.Close() })
			if res.ProtoMajor != version {
				t.Errorf("HTTP/%d was wanted, got %s", version, res.Proto)
			}
			return res
		}
		whole, err := io.ReadAll(ask(key).Body)
		if err != nil || !strings.HasSuffix(string(whole), "data: [DONE]\n\n") {
			t.Errorf("HTTP/%d: %v: %s", version, err, whole)
		}
		// A stream that would last for a minute, cut by a revocation.
		res := ask(key, upstreamtest.HeaderEvents, "6000", upstreamtest.HeaderPause, "10ms")
		lines := bufio.NewReader(res.Body)
		if first, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(first, "data: ") {
			t.Errorf("HTTP/%d: the first line of a stream: %q, %v", version, first, err)
		}
		if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{"reason": "enough"}); status != 200 || answer["streams_cut"] != 1.0 {
			t.Errorf("HTTP/%d: revoke: %d %v", version, status, answer)
		}
		rest, err := io.ReadAll(lines)
		if err != nil || !strings.Contains(string(rest), `"code":"till_key_revoked"`) {
			t.Errorf("HTTP/%d: the end of a cut stream: %v: %s", version, err, rest[max(0, len(rest)-300):])
		}
		if res := ask(key); res.StatusCode != http.StatusForbidden || res.Header.Get("Till-Refusal") != "till_key_revoked" {
			t.Errorf("HTTP/%d: a revoked key: %d %v", version, res.StatusCode, res.Header)
		}
		if n := s.used(id); n != 2 {
			t.Errorf("HTTP/%d: used %d, want 2", version, n)
		}
	}
	s.clean()
}

// cleartext runs a handler on HTTP/2 without TLS.
func cleartext(t *testing.T, handler http.HandlerFunc) string {
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

func TestUpstreamsMaySpeakHTTP2AndSendTrailers(t *testing.T) {
	t.Parallel()
	to := cleartext(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Authorization") != "Bearer "+realKey {
			t.Errorf("the upstream got %s with %v", r.Proto, r.Header)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil || len(r.Trailer) != 0 {
			t.Errorf("the upstream got trailers %v (%v)", r.Trailer, err)
		}
		w.Header().Set("Trailer", "Grpc-Status, X-Echo")
		fmt.Fprint(w, "body")
		// So that its length is not announced, which HTTP/1.1 clients could
		// get no trailers with.
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set("X-Echo", realKey)
	})
	s := newServer(t, options{vendor: upstreamtest.Any, to: "http://" + to, upstream: "transport http {\n\tversions h2c\n}"})
	id, key := s.mint(object{"max_activations": 2})
	r := s.bare("POST", "/x", "")
	r.Header.Set("Authorization", "Bearer "+key)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("hello")), -1
	r.Trailer = http.Header{"X-Api-Key": {"a client's trailer"}}
	res, body := s.must(r)
	if res.StatusCode != http.StatusOK || body != "body" || res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("X-Echo") != "" {
		t.Errorf("%d %q, trailers %v", res.StatusCode, body, res.Trailer)
	}
	if n := s.used(id); n != 1 {
		t.Errorf("used %d, want 1", n)
	}
}

func TestAClientThatExpectsContinueIsRefusedBeforeItSends(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Any})
	for _, rules := range []object{{}, {"models": []string{"m"}}} {
		rules["max_activations"] = 1
		id, key := s.mint(rules)
		const body = `{"model":"m"}`
		ask := func() (*bufio.Reader, net.Conn, string) {
			conn := s.dial()
			fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", key, len(body))
			r := bufio.NewReader(conn)
			first, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%v %v\n%s", rules, err, s.output())
			}
			return r, conn, strings.TrimSpace(first)
		}
		r, conn, first := ask()
		if first != "HTTP/1.1 100 Continue" {
			t.Fatalf("admitted: %s", first)
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, body)
		if final, err := r.ReadString('\n'); err != nil || strings.TrimSpace(final) != "HTTP/1.1 200 OK" {
			t.Errorf("then: %s, %v", final, err)
		}
		if _, _, first := ask(); first != "HTTP/1.1 402 Payment Required" {
			t.Errorf("refused: %s", first)
		}
		if n := s.used(id); n != 1 {
			t.Errorf("used %d, want 1", n)
		}
	}
}

// TestAGuardedHandlerMayLeaveABodyThatWasNotSent is about a client that waits for 100
// Continue and gets an answer instead. It keeps its body, so whatever it sent next on
// this connection would be mistaken for the body.
func TestAGuardedHandlerMayLeaveABodyThatWasNotSent(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{site: "route /guarded {\n\ttill guard\n\trespond ok\n}"})
	_, key := s.mint(object{"max_activations": 1})
	conn := s.dial()
	fmt.Fprintf(conn, "POST /guarded HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", key)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || string(body) != "ok" || !res.Close {
		t.Errorf("%s %q, %v; closes the connection: %t", res.Status, body, err, res.Close)
	}
}

// TestGuardLetsBothSidesSpeakAtOnce sends and reads by turns on one request,
// as gRPC does.
func TestGuardLetsBothSidesSpeakAtOnce(t *testing.T) {
	t.Parallel()
	to := cleartext(t, func(w http.ResponseWriter, r *http.Request) {
		if all := fmt.Sprint(r.Header); strings.Contains(all, "till_sk_") {
			t.Errorf("the guarded service got the key: %s", all)
		}
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(http.StatusOK)
		lines := bufio.NewReader(r.Body)
		for {
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			line, err := lines.ReadString('\n')
			if err != nil {
				w.Header().Set("Grpc-Status", "0")
				return
			}
			fmt.Fprint(w, "you said "+line)
		}
	})
	s := newServer(t, options{})
	base, trust := s.secure("route /rpc/* {\n\t\ttill guard\n\t\treverse_proxy h2c://" + to + "\n\t}")
	id, key := s.mint(object{"max_activations": 1})
	client := http2Client(t, trust)
	body, say := io.Pipe()
	r, err := http.NewRequest("POST", base+"/rpc/talk", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/grpc")
	res, err := client.Do(r)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.output())
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	lines := bufio.NewReader(res.Body)
	for i := range 5 {
		fmt.Fprintf(say, "%d\n", i)
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("you said %d\n", i) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if err := say.Close(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("at the end: %q, %v, trailers %v", rest, err, res.Trailer)
	}
	if n := s.used(id); n != 1 {
		t.Errorf("used %d, want 1", n)
	}
}

// TestWebSocketsOverHTTP2AreUpgrades is about extended CONNECT (RFC 8441),
// which Go's servers offer only when GODEBUG says so.
