package till

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestAnUpgradeIsJudgedAsWhatIsSent asks with every combination of a method, an
// Upgrade, a Connection and a version of HTTP. What Caddy's reverse proxy sends on as an
// ordinary request needs the key's methods and the upstream's allow for its own method,
// and an upgrade needs the key's methods, too; only the GET of a WebSocket that offers
// nothing else, which it is by extended CONNECT as well, is allowed by upgrades alone.
func TestAnUpgradeIsJudgedAsWhatIsSent(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	upgrades := []string{"/ws/*"}
	s.addUpstream("open", Upstream{To: []string{"http://open.example.com"}, Upgrades: upgrades})
	s.addUpstream("reads", Upstream{To: []string{"http://reads.example.com"}, Upgrades: upgrades, Allow: []string{"GET /repos/*"}})
	s.addUpstream("execs", Upstream{To: []string{"http://execs.example.com"}, Upgrades: upgrades, Allow: []string{"POST /ws/*"}})
	type version struct {
		proto        string
		major, minor int
		connect      string // the :protocol of an extended CONNECT
	}
	versions := []version{{"HTTP/1.0", 1, 0, ""}, {"HTTP/1.1", 1, 1, ""}, {"HTTP/2.0", 2, 0, ""}, {"HTTP/2.0", 2, 0, "websocket"}, {"HTTP/2.0", 2, 0, "connect-udp"}, {"HTTP/3.0", 3, 0, ""}, {"websocket", 3, 0, ""}, {"connect-udp", 3, 0, ""}}
	allows := map[string]func(method string) bool{
		"open":  func(string) bool { return true },
		"reads": func(string) bool { return false },
		"execs": func(method string) bool { return method == "POST" },
	}
	n := 0
	for name, allow := range allows {
		keys := map[string]minted{}
		for _, methods := range []string{"", "GET", "POST"} {
			keys[methods] = s.mint(func(k *record.Key) {
				k.Upstream = name
				if methods != "" {
					k.Scope.Methods = []string{methods}
				}
			})
		}
		for _, method := range []string{"GET", "POST", "DELETE", "PATCH", "CONNECT", "connect", "get"} {
			for _, upgrade := range []string{"", "websocket", "WebSocket", "SPDY/3.1", "tcp, x", "websocket, x"} {
				for _, connection := range []string{"", "keep-alive", "Upgrade", "keep-alive, upgrade"} {
					for _, v := range versions {
						if v.major == 3 && v.proto != "HTTP/3.0" && method != "CONNECT" {
							continue // only CONNECT has a :protocol
						}
						token := strings.HasSuffix(strings.ToLower(connection), "upgrade")
						upgraded, sent := strings.EqualFold(upgrade, "websocket") && token, method
						never := strings.EqualFold(method, "CONNECT")
						if method == "CONNECT" && (v.connect == "websocket" || v.proto == "websocket") {
							upgraded, sent, never = true, "GET", false
						}
						for methods, key := range keys {
							want := record.Code("")
							switch {
							case never:
								want = record.CodeMethodNotAllowed
							case !allow(sent) && !(upgraded && sent == "GET"):
								want = record.CodePathNotAllowed
							case methods != "" && methods != sent:
								want = record.CodeMethodNotAllowed
							}
							h := http.Header{}
							for field, value := range map[string]string{"Upgrade": upgrade, "Connection": connection, ":protocol": v.connect} {
								if value != "" {
									h[field] = []string{value}
								}
							}
							_, code, message := s.serve(key, asks{method: method, path: "/ws/x", header: h, as: func(r *http.Request) {
								r.URL.Path = "/ws/x" // which httptest reads otherwise for CONNECT
								r.Proto, r.ProtoMajor, r.ProtoMinor = v.proto, v.major, v.minor
							}})
							if n++; code != want {
								t.Errorf("%s, key for %q: %s with %v over %s (%d): %q, want %q: %s", name, methods, method, h, v.proto, v.major, code, want, message)
							}
						}
					}
				}
			}
		}
	}
	t.Log(n, "combinations")
}

// TestAnUpgradeWithABodyIsRead, because a server that ignores the Upgrade answers the
// request as it stands.
func TestAnUpgradeWithABodyIsRead(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.addUpstream("strips", Upstream{Preset: "openai", Upgrades: []string{"/v1/*"}, StripTools: []string{"web_search"}})
	k := s.mint(func(k *record.Key) { k.Upstream = "strips" })
	body := `{"model":"m","input":"hi","tools":[{"type":"web_search"}]}`
	for name, h := range map[string]http.Header{
		"no upgrade":     {},
		"a bare Upgrade": {"Upgrade": {"websocket"}},
		"an upgrade":     {"Upgrade": {"websocket"}, "Connection": {"Upgrade"}},
		"no protocol":    {"Connection": {"Upgrade"}},
	} {
		got := ""
		s.read = func(body string) { got = body }
		if status, _, message := s.serve(k, asks{method: "POST", path: "/v1/responses", body: body, header: h}); status != 200 || got == "" || strings.Contains(got, "web_search") {
			t.Errorf("%s: %d %s, the upstream got %q", name, status, message, got)
		}
	}
	for method, offers := range map[string][]string{"POST": {"websocket"}, "GET": {"x", "websocket"}} {
		if _, code, _ := s.serve(k, asks{method: method, path: "/v1/batches", header: http.Header{"Upgrade": offers, "Connection": {"Upgrade"}}}); code != record.CodePathNotAllowed {
			t.Errorf("background work behind an Upgrade of %s to %q: %q", method, offers, code)
		}
	}
}

// TestAnUpgradeIsNeverFree, wherever upgrades lets it through.
func TestAnUpgradeIsNeverFree(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.addUpstream("free", Upstream{Preset: "openai", Upgrades: []string{"/v1/*"}, Free: []string{"GET /v1/mine"}})
	for i, path := range []string{"/v1/models", "/v1/mine"} {
		k := s.mint(func(k *record.Key) { k.Upstream = "free" })
		for _, h := range []http.Header{{}, {"Upgrade": {"websocket"}}, {"Upgrade": {"websocket"}, "Connection": {"upgrade"}}} {
			if status, _, message := s.serve(k, asks{method: "GET", path: path, header: h}); status != 200 {
				t.Fatal(i, status, message)
			}
		}
		if used := s.view(k).Used[record.Activations]; used != 1 {
			t.Errorf("%s: used %d, want the upgrade alone", path, used)
		}
	}
}

// TestTheBodyOfAnUpgradeIsNotTakenForARequest: if it was not read when the answer comes,
// the connection is closed, as after any other request.
func TestTheBodyOfAnUpgradeIsNotTakenForARequest(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.addUpstream("raws", Upstream{To: []string{"http://raws.example.com"}, Upgrades: []string{"/exec"}})
	k := s.mint(func(k *record.Key) { k.Upstream = "raws" })
	closes := false
	s.inside = func(r *http.Request) {
		x := exchangeOf(r.Context())
		x.closeUnlessRead()
		closes = x.client.Header().Get("Connection") == "close"
	}
	for body, want := range map[string]bool{"": false, "GET /v1/x HTTP/1.1": true} {
		if status, _, message := s.serve(k, asks{method: "POST", path: "/exec", body: body, header: http.Header{"Upgrade": {"SPDY/3.1"}, "Connection": {"Upgrade"}}}); status != 200 || closes != want {
			t.Errorf("with %q: %d %s, closes %t, want %t", body, status, message, closes, want)
		}
	}
}
