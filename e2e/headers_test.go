package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// head is the status and header of the answer to a request, each on a line, without
// the values that differ each time or are looked at by other tests.
func (s *server) head(request string) string {
	s.t.Helper()
	conn := s.dial()
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err == nil && res.StatusCode == http.StatusContinue {
		_, body, _ := strings.Cut(request, "\r\n\r\n")
		if _, err = io.WriteString(conn, body+strings.Repeat("x", 5-len(body))); err == nil {
			res, err = http.ReadResponse(r, nil)
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	lines := []string{fmt.Sprint(res.StatusCode)}
	if res.Close {
		lines = append(lines, "closes")
	}
	for _, name := range slices.Sorted(maps.Keys(res.Header)) {
		switch name {
		case "Date", "Content-Length", "Connection", "Server", "Via":
		case "Request-Id", "Retry-After", "X-Request-Id", "Till-Key", "Till-Expires", "Access-Control-Expose-Headers":
			lines = append(lines, name)
		default:
			lines = append(lines, name+": "+strings.Join(res.Header[name], " | "))
		}
	}
	return strings.Join(lines, "\n")
}

// TestWhatStandsInTheHeadersOfAnswers, of till's own and of others, is compared with
// testdata/headers.txt as a whole: what is there once too often is seen, too.
func TestWhatStandsInTheHeadersOfAnswers(t *testing.T) {
	t.Parallel()
	other := upstreamtest.Start(t, upstreamtest.OpenAI, realKey)
	s := newServer(t, options{
		upstream: "cors https://app.example.com\nupgrades /v1/realtime",
		more:     "upstream other openai {\n\tto " + other.URL + "\n\tcredential {env.MOCK_KEY}\n}\nupstream gone http://" + freePort(t) + " {\n\tcredential {env.MOCK_KEY}\n\tcors https://app.example.com\n}",
		site: `
	route /guarded/* {
		till guard
		respond /guarded/ok "fine"
		header /guarded/missing X-Inside 1
		error /guarded/missing "no such thing" 404
		error /guarded/often "too often" 429
		header /guarded/silent X-Inside 1
	}`})
	keys := map[string]string{"NONE": "till_sk_" + strings.Repeat("x", 43)}
	for name, fields := range map[string]object{
		"KEY":   {"max_activations": 100, "expires_in": "24h"},
		"BARE":  {"max_tokens": 1_000_000},
		"SPEND": {"max_activations": 100, "max_tokens": 1000, "max_spend_usd": "1.00"},
		"OTHER": {"max_activations": 100, "upstream": "other"},
		"GONE":  {"max_activations": 100, "upstream": "gone"},
		"SPENT": {"max_activations": 1, "rate": "1/h"},
		"SLOW":  {"max_activations": 100, "rate": "1/h"},
		"SHORT": {"max_activations": 100, "paths": []string{"/v1/embeddings"}},
		"SMALL": {"max_activations": 100, "models": []string{"gpt-4o"}},
	} {
		_, keys[name] = s.mint(fields)
	}
	for _, name := range []string{"SPENT", "SLOW"} {
		if status := s.chat(keys[name]); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	const (
		chat    = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
		json    = "Content-Length: 38\r\n\r\n" + `{"model":"gpt-4o-mini","messages":[1]}`
		expect  = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
		ours    = "Origin: https://app.example.com\r\n"
		foreign = "Origin: https://evil.example.com\r\n"
		upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	)
	with := func(name string) string { return "Authorization: Bearer " + keys[name] + "\r\n" }
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n" }
	post := func(path string) string { return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" }
	var b strings.Builder
	for _, row := range []struct{ name, request string }{
		{"no key", chat + json},
		{"no key, from an origin of cors", chat + ours + json},
		{"no key, from another origin", chat + foreign + json},
		{"no key, from two origins", chat + ours + foreign + json},
		{"no key, by a page of another site", chat + "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\n" + json},
		{"no key, by a page of an origin of cors", chat + ours + "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\n" + json},
		{"no key, by a link", get("/v1/models") + "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n\r\n"},
		{"a remembered key, by a page of another site", chat + "Authorization: Basic eDp5\r\nSec-Fetch-Site: cross-site\r\n" + json},
		{"no key, before the body", chat + expect},
		{"no key, before the body, from an origin of cors", chat + ours + expect},
		{"an unknown key", chat + with("NONE") + json},
		{"a preflight", "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + ours + "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"},
		{"a preflight of another origin", "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + foreign + "Access-Control-Request-Method: POST\r\n\r\n"},
		{"answered", chat + with("KEY") + json},
		{"answered, to an origin of cors", chat + with("KEY") + ours + json},
		{"answered, to an origin that the key's upstream does not allow", chat + with("OTHER") + ours + json},
		{"answered, lowered", chat + with("SPEND") + json},
		{"answered, limited in tokens alone", chat + with("BARE") + json},
		{"answered after 100 Continue", post("/v1/embeddings") + with("KEY") + expect},
		{"a list of models", get("/v1/models") + with("KEY") + "\r\n"},
		{"failed by its upstream", chat + with("KEY") + "X-Test-Status: 500\r\n" + json},
		{"refused by its upstream", chat + with("KEY") + "X-Test-Status: 401\r\n" + json},
		{"broken off by its upstream", chat + with("KEY") + "X-Test-Fail: before\r\n" + json},
		{"not reached", chat + with("GONE") + json},
		{"not reached, from an origin of cors", chat + with("GONE") + ours + json},
		{"not reached, a body that is still coming", post("/x") + with("GONE") + "Content-Length: 5000\r\n\r\nbegins"},
		{"not reached, before the body", post("/x") + with("GONE") + expect},
		{"not allowed", chat + with("SHORT") + json},
		{"not allowed, before the body", chat + with("SHORT") + expect},
		{"not allowed by the upstream, from an origin of cors", get("/v1/organization/users") + with("KEY") + ours + "\r\n"},
		{"not allowed by another upstream, from an origin of cors", get("/v1/organization/users") + with("OTHER") + ours + "\r\n"},
		{"a model that is not allowed", chat + with("SMALL") + json},
		{"exhausted", chat + with("SPENT") + json},
		{"too often", chat + with("SLOW") + json},
		{"an upgrade that is not allowed", get("/v1/x") + with("KEY") + upgrade},
		{"an upgrade that is not taken", get("/v1/realtime") + with("KEY") + upgrade},
		{"about itself", get("/till/self") + with("KEY") + "\r\n"},
		{"about itself, to an origin of cors", get("/till/self") + with("KEY") + ours + "\r\n"},
		{"about itself, to an origin that the key's upstream does not allow", get("/till/self") + with("OTHER") + ours + "\r\n"},
		{"about itself, before a body", "PUT /till/self HTTP/1.1\r\nHost: x\r\n" + with("KEY") + expect},
		{"about itself, answered before a body", "GET /till/self HTTP/1.1\r\nHost: x\r\n" + with("KEY") + expect},
		{"about something that is not there", get("/till/nothing") + with("KEY") + "\r\n"},
		{"guarded", get("/guarded/ok") + with("KEY") + "\r\n"},
		{"guarded, to an origin of cors", get("/guarded/ok") + with("KEY") + ours + "\r\n"},
		{"guarded, before the body", post("/guarded/ok") + with("KEY") + expect},
		{"guarded, and not there", get("/guarded/missing") + with("KEY") + "\r\n"},
		{"guarded, and not there, before the body", post("/guarded/missing") + with("KEY") + expect},
		{"guarded, and too often", get("/guarded/often") + with("KEY") + "\r\n"},
		{"guarded, and no handler answers", get("/guarded/silent") + with("KEY") + "\r\n"},
		{"refused by the guard", get("/guarded/ok") + with("SHORT") + "\r\n"},
	} {
		fmt.Fprintf(&b, "# %s\n%s\n\n", row.name, s.head(row.request))
	}
	const golden = "testdata/headers.txt"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(b.String(), "\n\n")
	for i, row := range strings.Split(string(want), "\n\n") {
		if i >= len(rows) || rows[i] != row {
			t.Errorf("got:\n%s\nwant:\n%s\n", rows[min(i, len(rows)-1)], row)
		}
	}
}
