package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	// longBody is how much a client announces, and longBegin where it stops, in
	// bytes.
	longBody, longBegin = 28 << 20, 8<<20 + 64<<10
	// bodyRoom is what till gives to all bodies that limits must read, in bytes.
	bodyRoom = 256 << 20
)

// announces begins a request with a body of so many bytes, and returns the body.
func (s *server) announces(c io.Writer, key string, size int, kind string) string {
	s.t.Helper()
	head, tail := `{"model":"m","max_completion_tokens":1,"messages":[{"role":"user","content":"`, `"}]}`
	if _, err := fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s: %s\r\n\r\n",
		s.addr, key, size, headerFlood, kind); err != nil {
		s.t.Fatal(err)
	}
	return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
}

func answerOn(c net.Conn) (*http.Response, string, error) {
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

// tooSlow reports whether a body was refused because its client paused for long,
// as it does where this machine is busy.
func tooSlow(answer string) bool { return strings.Contains(answer, "too slowly") }

// noRoom reports whether a body was refused because others left no room for it.
func noRoom(answer string) bool { return strings.Contains(answer, "large bodies") }

// TestBodiesThatStopInTheMiddleTakeBoundedMemory has clients announce large bodies
// that limits must read, and stop half way: some fit into the memory reserved for
// bodies, and the others are refused until later.
func TestBodiesThatStopInTheMiddleTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	s := newOverloaded(t, "")
	id, key := s.mint(object{"max_tokens": 10_000_000_000})
	type client struct {
		net.Conn
		rest     string
		begun    chan struct{} // the first part was sent, or could not be
		sent     bool          // once begun
		answered chan struct{}
		status   int // once answered; 0: no answer
		answer   string
	}
	var refused atomic.Int64
	begin := func() *client {
		c := &client{Conn: s.dials(), begun: make(chan struct{}), answered: make(chan struct{})}
		body := s.announces(c, key, longBody, "")
		c.rest = body[longBegin:]
		go func() {
			defer close(c.begun)
			_, err := io.WriteString(c, body[:longBegin])
			c.sent = err == nil // one that is refused meanwhile cannot send it all
		}()
		go func() {
			defer close(c.answered)
			res, answer, err := answerOn(c)
			if err != nil {
				return
			}
			if c.status, c.answer = res.StatusCode, answer; c.status == http.StatusServiceUnavailable {
				refused.Add(1)
				if res.Header.Get("Retry-After") == "" || res.Header.Get("Till-Refusal") != "till_store_unavailable" || !noRoom(answer) {
					t.Errorf("refused with %v %s", res.Header, answer)
				}
			}
		}()
		return c
	}
	// As many as it takes until one is refused. On a busy machine some that wait may
	// be refused meanwhile because they pause for too long, which makes room for
	// others.
	const most = 64
	var all []*client
	for refused.Load() == 0 && len(all) < most {
		c := begin()
		all = append(all, c)
		if <-c.begun; !c.sent {
			<-c.answered
		}
	}
	grown := s.live() - s.idle
	n := int64(len(all)) - refused.Load()
	t.Logf("%d bodies of which %.1f MB came wait, or did; %d were refused: %.1f MB of memory", n, longBegin/1e6, refused.Load(), float64(grown)/1e6)
	if refused.Load() == 0 || n < 4 || grown > bodyRoom+int64(len(all))*slowMemory {
		t.Errorf("%d of %d were refused, and the others take %d bytes", refused.Load(), len(all), grown)
	}
	s.hindersNobody()
	if k := s.show(id); k["held_tokens"] != 0.0 || k["used_tokens"] != 0.0 {
		t.Errorf("something was taken: %v", k)
	}
	// One goes on, and the others go; what they took is there for another.
	var last *client
	for _, c := range all {
		select {
		case <-c.answered:
			continue
		default:
		}
		if last == nil {
			last = c
			continue
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		<-c.answered
	}
	if grown > bodyRoom/2 { // a busy server has not seen yet that they went
		s.eventually("what the others took is given back", func() bool { return s.live()-s.idle < grown/2 })
	}
	tokens := 0.0
	for _, c := range []*client{last, begin()} {
		if c == nil {
			continue // all were refused because they paused for too long
		}
		<-c.begun
		_, _ = io.WriteString(c, c.rest) // the answer says whether it came
		switch <-c.answered; {
		case c.status == http.StatusOK:
			tokens += 7
		case c == last && (tooSlow(c.answer) || noRoom(c.answer)):
			// It may have waited for room almost as long as the one that was refused.
		default:
			t.Errorf("a body that went on (begun before the others: %t) was answered with %d %s", c == last, c.status, c.answer)
		}
	}
	s.used(id) // nothing is held any more
	if k := s.show(id); k["used_tokens"] != tokens || k["held_tokens"] != 0.0 {
		t.Errorf("answers of %v tokens together: %v", tokens, k)
	}
}

// TestBodiesThatComeByteByByteCostLittleAndEndWithTheirKey has clients send a
// byte now and then.
func TestBodiesThatComeByteByByteCostLittleAndEndWithTheirKey(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	s := newOverloaded(t, "")
	freeID, free := s.mint(object{"max_activations": 1000})
	meteredID, metered := s.mint(object{"max_activations": 1000, "max_tokens": 100_000_000})
	type client struct {
		conn net.Conn
		body string
	}
	var flowing, read []client
	const size, turns = 100_000, 40
	for range slowClients {
		for _, length := range []int{200, size} {
			c := s.dials()
			read = append(read, client{c, s.announces(c, metered, length, "")})
		}
		for range 2 {
			c := s.dials() // its body goes on to the upstream as it comes
			flowing = append(flowing, client{c, s.announces(c, free, size, floodNever)})
		}
	}
	for i := range turns {
		for n, c := range append(flowing, read...) {
			// On a busy machine one that is read may be refused meanwhile, and says so below.
			if _, err := io.WriteString(c.conn, c.body[i:i+1]); err != nil && n < len(flowing) {
				t.Fatal(err)
			}
		}
	}
	s.eventually("bodies flow", func() bool { return s.flood.running.Load() == int64(len(flowing)) })
	s.grown("bodies that come byte by byte", len(flowing)+len(read), slowMemory)
	s.hindersNobody()
	if k := s.show(meteredID); k["held_activations"] != 0.0 {
		t.Errorf("something is held before it is known how much: %v", k)
	}
	s.endsWith(len(flowing), freeID)
	for _, c := range flowing {
		// What else it sends must not be taken for another request.
		res, answer, err := answerOn(c.conn)
		if err != nil || !res.Close || !strings.Contains(answer, "till_key_revoked") {
			t.Fatalf("%v %+v %s", err, res, answer)
		}
	}
	s.allGoneBut(len(read))
	if status, answer := s.api("POST", "/keys/"+meteredID+"/revoke", object{}); status != http.StatusOK {
		t.Errorf("%d %v", status, answer)
	}
	for _, c := range read {
		_, _ = io.WriteString(c.conn, c.body[turns:]) // the answer says whether it came
		if _, answer, err := answerOn(c.conn); err != nil || !strings.Contains(answer, `"till_key_revoked"`) && !tooSlow(answer) {
			t.Fatalf("a body of a key that was revoked meanwhile: %v %s", err, answer)
		}
	}
	if n := s.used(meteredID); n != 0 {
		t.Errorf("%d were admitted", n)
	}
}

// TestABodyLeavesMemoryWhenItWasSent has an upstream take large bodies that
// limits had to read, more than there is room for at a time, and answer none.
func TestABodyLeavesMemoryWhenItWasSent(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	s := newOverloaded(t, "")
	id, key := s.mint(object{"max_tokens": 10_000_000_000})
	const bodies = bodyRoom/longBody + 1
	for i := range int64(bodies) {
		c := s.dials()
		if _, err := io.WriteString(c, s.announces(c, key, longBody, floodNever)); err != nil {
			t.Fatal(err)
		}
		s.eventually("the upstream has it all", func() bool { return s.flood.waiting.Load() == i+1 })
	}
	s.grown("bodies that were sent", bodies, longBody)
	s.endsWith(bodies, id)
}
