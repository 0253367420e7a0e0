package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// refused are ways in which a request is refused, in the order of the table in
// docs/clients.md, with the status at most endpoints.
var refused = []struct {
	why    string
	status int
	says   string // part of the message
}{
	{"spent", http.StatusPaymentRequired, "has no activations"},
	{"revoked", http.StatusForbidden, "was revoked"},
	{"does not fit", http.StatusForbidden, "may not use model"},
	{"unknown", http.StatusUnauthorized, "this key is not known here"},
}

// refusedKeys are keys that are refused so.
func refusedKeys(s *server) []string {
	s.t.Helper()
	_, spent := s.mint(object{"max_activations": 0})
	id, revoked := s.mint(object{"max_activations": 1})
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{"reason": "enough"}); status != http.StatusOK {
		s.t.Fatalf("revoke: %d %v", status, answer)
	}
	_, other := s.mint(object{"max_activations": 1, "models": []string{"another-model"}})
	unknown, _, err := token.MintKey() // as any other server does
	if err != nil {
		s.t.Fatal(err)
	}
	return []string{spent, revoked, other, unknown.Reveal()}
}

// TestSDKsAskOnceWhateverTheRefusal also checks that SDKs show the refusal's message.
func TestSDKsAskOnceWhateverTheRefusal(t *testing.T) {
	t.Parallel()
	for client, vendor := range clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: vendor})
			front := tapeOf(t, s)
			keys := refusedKeys(s)
			before := s.upstream.Count()
			outcomes := sdk(t, client, "plain,plain,plain,plain", front.URL, strings.Join(keys, ","), nil)
			front.mu.Lock()
			defer front.mu.Unlock()
			if len(front.requests) != len(refused) {
				t.Fatalf("%d refusals were asked for %d times", len(refused), len(front.requests))
			}
			for i, r := range refused {
				want := r.status
				if path := front.requests[i].path; want == http.StatusForbidden && r.why == "does not fit" && isTurn(path) {
					want = http.StatusBadRequest
				}
				says := r.says
				if client == "vercel-google" && r.why == "unknown" {
					says = "Unauthorized" // the agent reads only Google's form, and a missing key has no vendor
				}
				failed := outcomes[i].Error
				if failed == nil || !strings.Contains(failed.Message, says) || front.requests[i].status != want {
					t.Errorf("%s: answered %d, want %d; it shows %v", r.why, front.requests[i].status, want, failed)
				}
			}
			if n := s.upstream.Count(); n != before {
				t.Errorf("the upstream was asked %d times", n-before)
			}
		})
	}
}

// agentVersion is an agent with its version, as the table calls it.
func agentVersion(t *testing.T, vendor upstreamtest.Vendor) string {
	t.Helper()
	b, err := os.ReadFile("agents/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var installed struct{ Dependencies map[string]string }
	if err := json.Unmarshal(b, &installed); err != nil {
		t.Fatal(err)
	}
	name := map[upstreamtest.Vendor]string{upstreamtest.Anthropic: "@anthropic-ai/claude-code", upstreamtest.OpenAI: "@openai/codex"}[vendor]
	return agentNames[vendor] + " " + installed.Dependencies[name]
}

// TestAgentsStopAndShowWhyTheyAreRefused checks the table in docs/clients.md: how
// often an agent asks, and what it shows.
func TestAgentsStopAndShowWhyTheyAreRefused(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	for vendor, want := range map[upstreamtest.Vendor][]struct {
		requests int
		status   int
		shows    string
	}{
		upstreamtest.Anthropic: {
			{1, 402, "API Error: 402 key"},
			{1, 403, "Failed to authenticate. API Error: 403 key"},
			// Without its beta features, and again without searching for tools.
			{4, 400, "API Error: 400 key"},
			{1, 401, "Failed to authenticate. API Error: 401"},
		},
		upstreamtest.OpenAI: {
			{6, 402, "unexpected status 402 Payment Required: key"},
			{6, 403, "unexpected status 403 Forbidden: key"},
			{1, 400, `{"error":{"message":"key`},
			{6, 401, "unexpected status 401 Unauthorized: "},
		},
	} {
		t.Run(agentNames[vendor], func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			s := newServer(t, options{vendor: vendor})
			row := "| " + agentVersion(t, vendor)
			for i, key := range refusedKeys(s) {
				front := tapeOf(t, s)
				cmd := errand{dir: t.TempDir()}.command(t, vendor, front.URL, key)
				var said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &said, &said
				if err := cmd.Run(); err == nil {
					t.Errorf("%s: it succeeded: %s", refused[i].why, said.String())
				}
				turns := front.turns()
				if len(turns) != want[i].requests || !strings.Contains(said.String(), want[i].shows) || !strings.Contains(said.String(), refused[i].says) {
					t.Errorf("%s: it asked %d times, want %d, and said %q", refused[i].why, len(turns), want[i].requests, said.String())
				}
				for _, turn := range turns {
					if turn.status != want[i].status || turn.code == "" {
						t.Errorf("%s: answered %d %s, want %d", refused[i].why, turn.status, turn.code, want[i].status)
					}
				}
				row += fmt.Sprintf(" | %d: %d", want[i].status, len(turns))
			}
			if row += " |"; !strings.Contains(string(page), row) {
				t.Errorf("docs/clients.md lacks the row %q", row)
			}
			s.clean()
		})
	}
}

// TestAgentsWhoseKeyIsRevokedWhileTheyAreAnswered checks that agents ask again, in
// vain, and show why they stop.
func TestAgentsWhoseKeyIsRevokedWhileTheyAreAnswered(t *testing.T) {
	t.Parallel()
	for vendor, most := range map[upstreamtest.Vendor]int{upstreamtest.Anthropic: 2, upstreamtest.OpenAI: 6} {
		t.Run(agentNames[vendor], func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			s := newServer(t, options{vendor: vendor, upstream: "header_up X-Test-Events 100000\nheader_up X-Test-Pause 5ms"})
			front := tapeOf(t, s)
			id, key := s.mint(object{"max_activations": 100})
			cmd := errand{dir: t.TempDir()}.command(t, vendor, front.URL, key)
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-front.started:
			case <-time.After(patience):
				t.Fatal("it asked for nothing")
			}
			if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{"reason": "enough"}); status != http.StatusOK {
				t.Errorf("revoke: %d %v", status, answer)
			}
			if err := cmd.Wait(); err == nil {
				t.Errorf("it succeeded: %s", said.String())
			}
			turns := front.turns()
			if len(turns) != most || !strings.Contains(said.String(), "was revoked") {
				t.Errorf("it asked %d times, want %d, and said %q", len(turns), most, said.String())
			}
			for _, turn := range turns[1:] {
				if turn.code != "till_key_revoked" {
					t.Errorf("after that it was answered %d %s", turn.status, turn.code)
				}
			}
		})
	}
}

// TestAGuardedStreamEndsInTheWordsOfItsRefusal, not in those of the status with which
// it began.
func TestAGuardedStreamEndsInTheWordsOfItsRefusal(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "event: ping\ndata: {\"type\":\"ping\"}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(service.Close)
	s := newServer(t, options{vendor: upstreamtest.Anthropic,
		site: "route /guarded/* {\n\ttill guard\n\treverse_proxy " + service.URL + " {\n\t\tflush_interval -1\n\t}\n}"})
	id, key := s.mint(object{"max_activations": 1})
	res, err := s.client.Do(s.post(key, "/guarded/v1/messages", `{}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() || lines.Text() != "event: ping" {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != http.StatusOK || answer["streams_cut"].(float64) != 1 {
		t.Fatalf("revoke: %d %v", status, answer)
	}
	said := ""
	for lines.Scan() {
		said += lines.Text() + "\n"
	}
	if want := `{"type":"error","error":{"type":"permission_error",`; !strings.Contains(said, want) || !strings.Contains(said, "till_key_revoked") {
		t.Errorf("it ended with %q, want %s", said, want)
	}
}
