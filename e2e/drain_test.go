package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// scripted answers every request in two pieces, and gives the second when the
// test says so.
type scripted struct {
	*httptest.Server
	kind        string // of its answers
	first, rest atomic.Pointer[string]
	came, ended chan struct{} // one value for each request
	goOn        chan struct{} // one value lets one of them go on
}

func newScripted(t *testing.T) *scripted {
	u := &scripted{kind: "text/event-stream", came: make(chan struct{}, 64), ended: make(chan struct{}, 64), goOn: make(chan struct{}, 64)}
	u.Server = httptest.NewServer(u)
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

func (u *scripted) script(first, rest string) {
	u.first.Store(&first)
	u.rest.Store(&rest)
}

func (u *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() { u.ended <- struct{}{} }()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	u.came <- struct{}{}
	w.Header().Set("Content-Type", u.kind)
	if first := *u.first.Load(); first != "" {
		if _, err := io.WriteString(w, first); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
	}
	select {
	case <-u.goOn:
	case <-r.Context().Done():
		return
	}
	_, _ = io.WriteString(w, *u.rest.Load()) // to the client, if it is still there
}

// claudeStart is what a Messages stream begins with, its events padded as the
// vendor pads them, and claudeEnd what it ends with.
const (
	claudeStart = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[]," +
		"\"stop_reason\":null,\"usage\":{\"input_tokens\":2,\"cache_creation_input_tokens\":500,\"cache_read_input_tokens\":100000,\"output_tokens\":1}}       }\n\n"
	claudeWord = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Let me look.\"}      }\n\n"
	claudeEnd  = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":700}    }\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

	codexStart = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"gpt-6-sol\",\"status\":\"in_progress\",\"usage\":null}}\n\n"
	codexCall  = "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"function_call\",\"name\":\"shell\",\"arguments\":\"{}\",\"call_id\":\"c\"}}\n\n"
	codexEnd   = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"model\":\"gpt-6-sol\",\"status\":\"completed\"," +
		"\"usage\":{\"input_tokens\":15000,\"input_tokens_details\":{\"cached_tokens\":14000},\"output_tokens\":300,\"total_tokens\":15300}}}\n\n"

	chatWord = "data: {\"id\":\"c\",\"model\":\"gpt-6-sol\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Let me look.\"},\"finish_reason\":\"stop\"}]}\n\n"
	chatEnd  = "data: {\"id\":\"c\",\"model\":\"gpt-6-sol\",\"choices\":[],\"usage\":{\"prompt_tokens\":15000,\"prompt_tokens_details\":{\"cached_tokens\":14000},\"completion_tokens\":300,\"total_tokens\":15300}}\n\ndata: [DONE]\n\n"

	geminiStart = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Let me\"}]}}],\"usageMetadata\":{\"promptTokenCount\":15000,\"cachedContentTokenCount\":14000,\"totalTokenCount\":15000},\"modelVersion\":\"gemini-2.5-flash\"}\n\n"
	geminiEnd   = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" look.\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":15000,\"cachedContentTokenCount\":14000,\"candidatesTokenCount\":300,\"totalTokenCount\":15300},\"modelVersion\":\"gemini-2.5-flash\"}\n\n"
)

// leftServer is a till before one scripted upstream under several names: those
// that end in 0 do not drain, those in 1 for a moment, the others for a minute.
func leftServer(t *testing.T, u *scripted) *server {
	t.Helper()
	more := ""
	for name, preset := range map[string]string{"codex": "openai", "claude": "anthropic", "gem": "gemini"} {
		for suffix, drain := range map[string]string{"": "1m", "0": "0", "1": "50ms"} {
			more += fmt.Sprintf("upstream %s%s %s {\nto %s\ncredential {env.MOCK_KEY}\ndrain %s\n}\n", name, suffix, preset, u.URL, drain)
		}
	}
	return newServer(t, options{to: u.URL, more: more})
}

// draining is how many answers are read to their end without their client.
func (s *server) draining() string { return s.gauge("draining") }

// gauge is one of till's metrics.
func (s *server) gauge(name string) string {
	s.t.Helper()
	for line := range strings.Lines(s.adminPage("/metrics")) {
		if n, ok := strings.CutPrefix(line, "caddy_till_"+name+" "); ok {
			return strings.TrimSpace(n)
		}
	}
	return ""
}

// turn is one request of an agent.
type turn struct{ path, body string }

var (
	codexTurn  = turn{"/v1/responses", `{"model":"gpt-6-sol","stream":true,"instructions":"` + strings.Repeat("Mind the gap. ", 4000) + `","input":"go on"}`}
	chatTurn   = turn{"/v1/chat/completions", `{"model":"gpt-6-sol","stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("Mind the gap. ", 4000) + `"}]}`}
	claudeTurn = turn{"/v1/messages", `{"model":"claude-sonnet-5-5","max_tokens":32000,"stream":true,"system":[{"type":"text","text":"` +
		strings.Repeat("Mind the gap. ", 28000) + `","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"go on"}]}`}
	geminiTurn = turn{"/v1beta/models/gemini-2.5-flash:streamGenerateContent", `{"contents":[{"role":"user","parts":[{"text":"` +
		strings.Repeat("Mind the gap. ", 4000) + `"}]}],"generationConfig":{"maxOutputTokens":8000}}`}
)

// leave makes a request and goes away when so many bytes of its answer came.
func (u *scripted) leave(s *server, client *http.Client, base, key string, ask turn, after int) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", base+ask.path, strings.NewReader(ask.body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	if after == 0 {
		gone := make(chan error)
		go func() {
			res, err := client.Do(r)
			if err == nil {
				err = fmt.Errorf("answered %s", res.Status)
				res.Body.Close()
			}
			gone <- err
		}()
		<-u.came
		cancel()
		if err := <-gone; !strings.Contains(err.Error(), "canceled") {
			s.t.Error(err)
		}
		return
	}
	res, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	<-u.came
	if n, err := io.ReadFull(res.Body, make([]byte, after)); err != nil || res.StatusCode != 200 {
		s.t.Fatalf("%d: %d bytes of %d, %v", res.StatusCode, n, after, err)
	}
	cancel()
	res.Body.Close()
}

// spent is what a key was charged, when nothing of it is in flight any more.
func (s *server) spent(id string) string {
	s.t.Helper()
	s.used(id)
	return s.show(id)["used_spend_usd"].(string)
}

// TestWhoLeavesInMidAnswerPaysWhatTheVendorBills. Agents leave as a habit: Codex
// Desktop after its function call (one-switch#3), people with Esc.
func TestWhoLeavesInMidAnswerPaysWhatTheVendorBills(t *testing.T) {
	t.Parallel()
	u := newScripted(t)
	s := leftServer(t, u)
	base, trust := s.secure("")
	clients := map[string]*http.Client{"HTTP/1.1": s.client, "HTTP/2": http2Client(t, trust), "HTTP/3": http3Client(t, trust)}
	const (
		codex  = 1000*2_000 + 14_000*200 + 300*10_000
		claude = 2*2_000 + 500*2_500 + 100_000*100 + 700*10_000
		esc    = claude - 700*10_000 + 32_000*10_000
		gem    = 1000*300 + 14_000*30 + 300*2_500
		gemEsc = gem - 300*2_500 + 8000*2_500
	)
	for _, test := range []struct {
		name, upstream string
		ask            turn
		first, rest    string
		goesOn         bool
		want           int64 // nano-dollars; 0: the bound
	}{
		{"Codex after its call", "codex", codexTurn, codexStart + codexCall, codexEnd, true, codex},
		{"Codex before the answer", "codex", codexTurn, "", codexStart + codexCall + codexEnd, true, codex},
		{"a chat after its last word, whose usage nobody asked for but till", "codex", chatTurn, chatWord, chatEnd, true, codex},
		{"Codex, and no drain", "codex0", codexTurn, codexStart + codexCall, codexEnd, false, 0},
		{"Codex, and the answer takes too long", "codex1", codexTurn, codexStart + codexCall, codexEnd, false, 0},
		{"Claude after the first words", "claude", claudeTurn, claudeStart + claudeWord, claudeWord + claudeEnd, true, claude},
		{"Claude before the answer", "claude", claudeTurn, "", claudeStart + claudeWord + claudeEnd, true, claude},
		{"Claude after the last word", "claude", claudeTurn, claudeStart + claudeWord, claudeEnd, true, claude},
		{"Claude, and no drain", "claude0", claudeTurn, claudeStart + claudeWord, claudeEnd, false, esc},
		{"Claude, and the answer takes too long", "claude1", claudeTurn, claudeStart + claudeWord, claudeEnd, false, esc},
		{"Claude before the answer, which takes too long", "claude1", claudeTurn, "", claudeEnd, false, 0},
		{"Gemini after the first words", "gem", geminiTurn, geminiStart, geminiEnd, true, gem},
		{"Gemini, and the answer takes too long", "gem1", geminiTurn, geminiStart, geminiEnd, false, gemEsc},
	} {
		for protocol, client := range clients {
			address := base
			if client == s.client {
				address = "http://" + s.addr
			}
			u.script(test.first, test.rest)
			id, key := s.mint(object{"upstream": test.upstream, "max_spend_usd": "50"})
			u.leave(s, client, address, key, test.ask, len(test.first))
			held := "what it will"
			if test.goesOn {
				s.eventually("the answer is read on", func() bool { return s.draining() == "1" })
				held = "$" + s.show(id)["held_spend_usd"].(string)
				u.goOn <- struct{}{}
			}
			<-u.ended
			spent := s.spent(id)
			t.Logf("%s, %s: held %s, charged $%s", test.name, protocol, held, spent)
			if want := record.FormatUSD(test.want); test.want > 0 && spent != want {
				t.Errorf("%s, %s: charged $%s, want $%s", test.name, protocol, spent, want)
			} else if test.want == 0 && !strings.HasPrefix(spent, "1.") {
				t.Errorf("%s, %s: charged $%s, want the bound", test.name, protocol, spent)
			}
		}
	}
	s.eventually("nothing is read on", func() bool { return s.draining() == "0" })
	s.noneReads()
}

// noneReads fails where an answer's body is still being read.
func (s *server) noneReads() {
	s.t.Helper()
	s.eventually("no goroutine reads an answer", func() bool {
		stacks := s.adminPage("/debug/pprof/goroutine?debug=2")
		return !strings.Contains(stacks, "answerBody") && !strings.Contains(stacks, "till.(*Transport)")
	})
}

// TestADrainHoldsItsPlaceAndEndsWithItsKey: until it is settled, a request counts as
// running, across a reload, but not beyond the end of its key.
func TestADrainHoldsItsPlaceAndEndsWithItsKey(t *testing.T) {
	t.Parallel()
	u := newScripted(t)
	s := leftServer(t, u)
	u.script(codexStart+codexCall, codexEnd)
	id, key := s.mint(object{"upstream": "codex", "max_spend_usd": "50", "max_concurrency": 1})
	u.leave(s, s.client, "http://"+s.addr, key, codexTurn, len(codexStart+codexCall))
	s.eventually("the answer is read on", func() bool { return s.draining() == "1" })
	if res, body := s.must(s.post(key, codexTurn.path, codexTurn.body)); res.Header.Get("Till-Refusal") != "till_concurrency" {
		t.Errorf("a second request: %d %s", res.StatusCode, body)
	}
	s.reloadByAPI() // soon: a drain may take a minute
	if n := s.draining(); n != "1" {
		t.Errorf("after a reload %s are read on", n)
	}
	u.goOn <- struct{}{}
	<-u.ended
	if spent := s.spent(id); spent != record.FormatUSD(1000*2_000+14_000*200+300*10_000) {
		t.Errorf("over a reload: charged $%s", spent)
	}

	u.leave(s, s.client, "http://"+s.addr, key, codexTurn, len(codexStart+codexCall))
	s.eventually("the next answer is read on", func() bool { return s.draining() == "1" })
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 || answer["streams_cut"].(float64) != 1 {
		t.Errorf("revoke: %d %v", status, answer)
	}
	<-u.ended // within the patience of all tests, and much less than the drain
	s.eventually("nothing is read on", func() bool { return s.draining() == "0" })
	s.used(id)
	s.noneReads()

	// The process does not wait for one either.
	_, key = s.mint(object{"upstream": "codex", "max_spend_usd": "50"})
	u.leave(s, s.client, "http://"+s.addr, key, codexTurn, len(codexStart+codexCall))
	s.eventually("a third answer is read on", func() bool { return s.draining() == "1" })
	s.stop()
	<-u.ended
}

// TestWheneverAClientLeavesItIsChargedWhatTheVendorBills leaves at every kind of
// place in a stream, and compares with the vendor's own books. The charge is exact
// while answers are drained, and is never too low.
func TestWheneverAClientLeavesItIsChargedWhatTheVendorBills(t *testing.T) {
	t.Parallel()
	const words = 60
	var billed atomic.Int64
	ended := make(chan struct{}, 1)
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		flush := http.NewResponseController(w).Flush
		billed.Add(100_502)
		if _, err := io.WriteString(w, claudeStart); err != nil || flush() != nil {
			return
		}
		for range words { // what is made is billed, whether it arrives or not
			billed.Add(5)
			if _, err := io.WriteString(w, claudeWord); err != nil || flush() != nil {
				return
			}
		}
		fmt.Fprintf(w, strings.Replace(claudeEnd, "700", "%d", 1), 5*words)
	}))
	t.Cleanup(vendor.Close)
	// The default of a drain is five seconds, in which a busy machine may not read on.
	s := newServer(t, options{vendor: "anthropic", to: vendor.URL, upstream: "drain 1m", more: fmt.Sprintf(
		"upstream short anthropic {\nto %s\ncredential {env.MOCK_KEY}\ndrain 0\n}\n", vendor.URL)})
	random := rand.New(rand.NewPCG(13, 6))
	whole := len(claudeStart) + words*len(claudeWord) + len(claudeEnd)
	for _, name := range []string{"mock", "short"} {
		id, key := s.mint(object{"upstream": name, "max_tokens": int64(1e9)})
		bound := int64(len(claudeTurn.body))*2 + 32_000
		for i := range 40 {
			ctx, cancel := context.WithCancel(context.Background())
			before, books := s.tokens(id), billed.Load()
			r := s.post(key, claudeTurn.path, claudeTurn.body).WithContext(ctx)
			after := random.IntN(whole)
			if res, err := s.client.Do(r); err != nil {
				t.Fatal(err)
			} else if i%8 > 0 {
				if _, err := io.ReadFull(res.Body, make([]byte, after)); err != nil {
					t.Fatal(err)
				}
				cancel()
				res.Body.Close()
			} else {
				cancel() // as soon as it begins
				res.Body.Close()
			}
			<-ended
			s.used(id)
			charged, books := s.tokens(id)-before, billed.Load()-books
			if charged < books || charged > bound || name == "mock" && charged != books {
				t.Errorf("%s, left after %d of %d bytes: charged %d tokens, billed %d, bound %d", name, after, whole, charged, books, bound)
			}
		}
	}
	s.noneReads()
}

// tokens is what a key was charged, when nothing of it is in flight.
func (s *server) tokens(id string) int64 {
	s.t.Helper()
	s.used(id)
	return int64(s.show(id)["used_tokens"].(float64))
}
