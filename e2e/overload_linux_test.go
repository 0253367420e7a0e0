package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	// floodSize is the length of an answer that would not fit anywhere, in bytes.
	floodSize = 32 << 20
	// slowClients is how many clients of each kind are slow at a time.
	slowClients = 50
	// slowMemory bounds what till may hold for one of them, in bytes: two
	// connections with their buffers, the proxy's, an event or two of 32 kB, and
	// some stacks. Whoever kept answers would take floodSize.
	slowMemory = 512 << 10
	// smallSocket is the room of a socket in this process, in bytes, so that little
	// of what is on its way is in the kernel.
	smallSocket = 16 << 10
)

// headerFlood asks flood for what its constants say; without it, for an answer of
// a few bytes.
const (
	headerFlood = "X-Test-Flood"
	floodPlain  = "plain"   // one JSON text of floodSize
	floodStream = "stream"  // events, of floodSize together
	floodNever  = "never"   // no answer
	floodDrops  = "trickle" // an event, and then a byte a second
)

// flood is an upstream that sends more than anybody reads, or hardly anything.
type flood struct {
	*httptest.Server
	running atomic.Int64 // answers that have begun and not ended
	begun   atomic.Int64
	waiting atomic.Int64 // requests that get no answer
	written atomic.Int64 // bytes that a socket took
	wrong   atomic.Int64
}

func newFlood(t *testing.T) *flood {
	u := new(flood)
	u.Server = httptest.NewUnstartedServer(u)
	u.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if tcp, ok := c.(*net.TCPConn); ok && state == http.StateNew && tcp.SetWriteBuffer(smallSocket) != nil {
			u.wrong.Add(1)
		}
	}
	u.Start()
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
		if n := u.wrong.Load(); n != 0 {
			t.Errorf("%d requests came to the upstream that should not, or as they should not", n)
		}
	})
	return u
}

func (u *flood) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := r.Header.Get(headerFlood)
	if kind != "" {
		u.begun.Add(1)
		u.running.Add(1)
		defer u.running.Add(-1)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	send := func(b []byte) bool {
		n, err := w.Write(b)
		u.written.Add(int64(n))
		return err == nil
	}
	stuffing := strings.Repeat("x", 32<<10)
	switch kind {
	case floodPlain:
		head, tail := `{"id":"x","choices":[{"message":{"role":"assistant","content":"`, `"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}`
		n := floodSize / len(stuffing)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(head)+n*len(stuffing)+len(tail)))
		for ok := send([]byte(head)); ok && n > 0; n-- {
			ok = send([]byte(stuffing))
		}
		send([]byte(tail))
	case floodStream:
		w.Header().Set("Content-Type", "text/event-stream")
		event := []byte("data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" + stuffing + "\"}}]}\n\n")
		for n := floodSize / len(event); n > 0 && send(event); n-- {
		}
	case floodNever:
		u.waiting.Add(1)
		<-r.Context().Done()
	case floodDrops:
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for send([]byte("data: {}\n\n")) && http.NewResponseController(w).Flush() == nil {
			for range 10 {
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				}
				if !send([]byte(":")) || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		}
	case "":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}`)
	default:
		u.wrong.Add(1)
	}
}

// overloaded is a till before such an upstream.
type overloaded struct {
	*server
	flood *flood
	idle  int64 // memory before anything was slow
	files int
}

func newOverloaded(t *testing.T, more string) *overloaded {
	t.Helper()
	u := newFlood(t)
	s := &overloaded{server: newServer(t, options{plain: true, to: u.URL, more: "price openai/m 1.00 2.00\n" + more}), flood: u}
	// What the first requests make for good does not count.
	_, key := s.mint(object{"max_activations": 400, "max_tokens": 1_000_000})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if res, answer := s.must(s.post(key, "/v1/chat/completions", spendBody)); res.StatusCode != http.StatusOK {
					t.Errorf("%s %s", res.Status, answer)
				}
			}
		})
	}
	wg.Wait()
	s.client.CloseIdleConnections()
	s.idle, s.files = s.live(), s.openFiles()
	return s
}

func (s *server) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

// live is what the server's heap and stacks hold, in bytes, when its garbage was
// collected: how much of that there is depends on how busy the machine is.
func (s *server) live() int64 {
	s.t.Helper()
	var heap, stack int64
	for range 3 { // what is kept to be used again goes with the second collection
		_, stats, _ := strings.Cut(s.adminPage("/debug/pprof/heap?gc=1&debug=1"), "# runtime.MemStats\n")
		for _, figure := range []struct {
			name string
			to   *int64
		}{{"# HeapAlloc = ", &heap}, {"# Stack = ", &stack}} {
			_, after, _ := strings.Cut(stats, "\n"+figure.name)
			if _, err := fmt.Sscan(after, figure.to); err != nil {
				s.t.Fatalf("%s: %v in %.2000s", figure.name, err, stats)
			}
		}
	}
	return heap + stack
}

// openFiles is how many files and sockets the server has open.
func (s *server) openFiles() int {
	s.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid()))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(list)
}

// dials opens a connection of little room to the server.
func (s *server) dials() net.Conn {
	s.t.Helper()
	small := func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, smallSocket)
		}); e != nil {
			return e
		}
		return err
	}
	c, err := (&net.Dialer{Timeout: patience, Control: small}).Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() }) // which the server may have done
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// asks sends a request that the upstream answers in such a way, whose answer
// nobody reads until the test does.
func (s *server) asks(key, kind, body string) net.Conn {
	s.t.Helper()
	c := s.dials()
	if err := s.post(key, "/v1/chat/completions", body, headerFlood, kind).Write(c); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// atRest waits until a figure has not changed for a while: that nothing happens
// any more can be seen in no other way.
func (s *server) atRest(what string, figure func() int64) {
	s.t.Helper()
	last, since := figure(), time.Now()
	s.eventually(what, func() bool {
		if now := figure(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 250*time.Millisecond
	})
}

// hindersNobody shows that all else goes on as if nothing were slow: while that
// stays as it is, the answers come.
func (s *overloaded) hindersNobody() {
	s.t.Helper()
	began := time.Now()
	id, key := s.mint(object{"max_activations": 10, "max_tokens": 10_000})
	for range 5 {
		if res, answer := s.must(s.post(key, "/v1/chat/completions", spendBody)); res.StatusCode != http.StatusOK {
			s.t.Errorf("a request beside slow ones: %s %s", res.Status, answer)
		}
	}
	if status, answer := s.api("GET", "/stats", nil); status != http.StatusOK {
		s.t.Errorf("stats: %d %v", status, answer)
	}
	if n := s.used(id); n != 5 {
		s.t.Errorf("%d activations used, want 5", n)
	}
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != http.StatusOK {
		s.t.Errorf("revoke: %d %v", status, answer)
	}
	if status := s.chat(key); status != http.StatusForbidden {
		s.t.Errorf("a revoked key gets %d", status)
	}
	s.t.Logf("meanwhile: a mint, 6 requests, 3 calls, a revocation in %s", time.Since(began).Round(time.Millisecond))
}

// grown is what the server holds for each of n since it was idle. It must be at
// most so many bytes.
func (s *overloaded) grown(what string, n int, most int64) {
	s.t.Helper()
	each := (s.live() - s.idle) / int64(n)
	s.t.Logf("%s: %d, %.1f kB of memory each", what, n, float64(each)/1e3)
	if each > most {
		s.t.Errorf("%s: %d bytes of memory each, want at most %d", what, each, most)
	}
}

// endsWith revokes keys with so many requests in flight each, and waits until
// nothing is left of them, although no client does anything.
func (s *overloaded) endsWith(inflight int, ids ...string) {
	s.t.Helper()
	began := time.Now()
	before := make([]object, len(ids))
	for i, id := range ids {
		before[i] = s.show(id)
		status, answer := s.api("POST", "/keys/"+id+"/revoke", object{})
		if status != http.StatusOK || answer["streams_cut"].(float64) != float64(inflight) {
			s.t.Errorf("revoke: %d %v, want %d cut", status, answer, inflight)
		}
	}
	for i, id := range ids {
		if n := s.used(id); n != int64(inflight) {
			s.t.Errorf("%d activations used, want %d", n, inflight)
		}
		after := s.show(id)
		// Nobody knows what they would have used: it is what was held.
		for _, kind := range []string{"tokens", "activations"} {
			if before[i]["held_"+kind] != after["used_"+kind] || after["held_"+kind] != nil && after["held_"+kind].(float64) != 0 {
				s.t.Errorf("%s: %v held before, %v used and %v held after", kind, before[i]["held_"+kind], after["used_"+kind], after["held_"+kind])
			}
		}
	}
	s.t.Logf("%d × %d requests had ended %s after the call to revoke began", len(ids), inflight, time.Since(began).Round(time.Millisecond))
}

// allGone waits until the server has nothing left of them.
func (s *overloaded) allGone() {
	s.t.Helper()
	s.allGoneBut(0)
}

// nothingRuns waits until the server asks nothing of the upstream any more.
func (s *overloaded) nothingRuns() {
	s.t.Helper()
	s.eventually("the upstream has nothing to do", func() bool { return s.flood.running.Load() == 0 })
}

// allGoneBut does the same as allGone while so many connections stay.
func (s *overloaded) allGoneBut(stay int) {
	s.t.Helper()
	s.nothingRuns()
	s.client.CloseIdleConnections()
	s.eventually("their connections are closed", func() bool { return s.openFiles() <= s.files+stay+8 })
	_, stats := s.api("GET", "/stats", nil)
	if n := stats["holds"]; n != 0.0 {
		s.t.Errorf("%v are in flight by the stats, want none: %v", n, stats)
	}
}

// TestClientsThatDoNotReadCostLittleAndEndWithTheirKey has many clients ask for
// large answers and read nothing of them.
func TestClientsThatDoNotReadCostLittleAndEndWithTheirKey(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	s := newOverloaded(t, "")
	type slow struct {
		id    string
		conns []net.Conn
	}
	var all []*slow
	n := 0
	for _, limits := range []object{{"max_activations": 1000}, {"max_activations": 1000, "max_tokens": 1_000_000}} {
		id, key := s.mint(limits)
		one := &slow{id: id}
		for range slowClients {
			one.conns = append(one.conns, s.asks(key, floodPlain, spendBody), s.asks(key, floodStream, strings.Replace(spendBody, `{`, `{"stream":true,`, 1)))
		}
		n += len(one.conns)
		all = append(all, one)
	}
	s.eventually("all answers have begun", func() bool { return s.flood.begun.Load() == int64(n) })
	// The kernel lets a client that does not read have a byte now and then.
	s.atRest("the upstream is held back", func() int64 { return s.flood.written.Load() / int64(n) >> 16 })
	each := s.flood.written.Load() / int64(n)
	t.Logf("the upstream could send %.2f MB of %.2f MB to each", float64(each)/1e6, floodSize/1e6)
	if running := s.flood.running.Load(); each > floodSize/2 || running != int64(n) {
		t.Errorf("the upstream sent %d bytes of %d to each, and %d of %d answers run", each, floodSize, running, n)
	}
	s.grown("clients that do not read", n, slowMemory)
	s.hindersNobody()
	s.endsWith(2*slowClients, all[0].id, all[1].id)
	s.nothingRuns()
	for _, one := range all {
		for _, c := range one.conns {
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			// Where there was room for it, a stream ends with the reason, and its
			// connection can be used for another request.
			b, err := io.ReadAll(res.Body)
			told := bytes.Contains(b[max(0, len(b)-1000):], []byte("till_key_revoked"))
			if err == nil && !told || len(b) == 0 {
				t.Errorf("an answer that was cut reads like a whole one: %d bytes, at the end %q", len(b), b[max(0, len(b)-200):])
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	s.allGone()
}

// TestUpstreamsThatDoNotAnswerCostLittleAndEndWithTheirKey has many requests
// wait for an upstream that says nothing, or a byte a second.
func TestUpstreamsThatDoNotAnswerCostLittleAndEndWithTheirKey(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	s := newOverloaded(t, "")
	var ids []string
	var conns []net.Conn
	for _, limits := range []object{{"max_activations": 1000}, {"max_activations": 1000, "max_tokens": 1_000_000}} {
		id, key := s.mint(limits)
		ids = append(ids, id)
		for range slowClients {
			conns = append(conns, s.asks(key, floodNever, spendBody), s.asks(key, floodDrops, strings.Replace(spendBody, `{`, `{"stream":true,`, 1)))
		}
	}
	n := len(conns)
	s.eventually("all wait", func() bool { return s.flood.running.Load() == int64(n) })
	s.grown("requests to an upstream that is slow", n, slowMemory)
	s.hindersNobody()
	if running := s.flood.running.Load(); running != int64(n) {
		t.Errorf("%d of %d requests run", running, n)
	}
	s.endsWith(2*slowClients, ids...)
	for _, c := range conns {
		// Each gets a refusal, and its connection can be used for another request.
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(b), "till_key_revoked") {
			t.Errorf("%s %v: %.200s", res.Status, err, b)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	s.allGone()
}
