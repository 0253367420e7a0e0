package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// conversation is what a real agent sent on one errand, to be sent again, as
// often as one likes, and to be continued in the same shape.
type conversation struct {
	run    string // its name, which stands in every body
	path   string
	header http.Header
	bodies [][]byte // as they came

	head, tail []byte   // of the last body, around its messages
	elements   [][]byte // its messages
	turn       [][]byte // what the last turn added
	last       int      // that turn's number
}

// callNumber is the number that the stand-in gave to a call, and turnName that
// of the file that it had read.
var (
	callNumber = regexp.MustCompile(`(toolu|call)_0*(\d{7})\b`)
	turnName   = regexp.MustCompile(`turn(\d{7})`)
)

// learn makes a conversation of what was taped.
func learn(t *testing.T, run string, requests []taped) *conversation {
	t.Helper()
	if len(requests) < 3 {
		t.Fatalf("the agent made %d requests", len(requests))
	}
	c := &conversation{run: run, path: requests[0].path, header: requests[0].header.Clone()}
	for _, name := range []string{"Authorization", "X-Api-Key", "Accept-Encoding", "Content-Length", "Connection"} {
		c.header.Del(name)
	}
	for i, r := range requests {
		if r.status != http.StatusOK {
			t.Fatalf("request %d of the agent was answered %d %s", i+1, r.status, r.code)
		}
		c.bodies = append(c.bodies, r.body)
	}
	n := len(c.bodies)
	before := elementsOf(t, c.bodies[n-2])
	c.elements = elementsOf(t, c.bodies[n-1])
	raw := messagesOf(t, c.bodies[n-1])
	at := bytes.Index(c.bodies[n-1], raw)
	c.head, c.tail = c.bodies[n-1][:at], c.bodies[n-1][at+len(raw):]
	if len(c.elements) <= len(before) {
		t.Fatalf("the last of %d requests added nothing", n)
	}
	c.turn = c.elements[len(before):]
	m := callNumber.FindSubmatch(bytes.Join(c.turn, nil))
	if m == nil || !turnName.Match(bytes.Join(c.turn, nil)) {
		t.Fatalf("there is no call in what the last turn added: %.300s", bytes.Join(c.turn, nil))
	}
	var err error
	if c.last, err = strconv.Atoi(string(m[2])); err != nil {
		t.Fatal(err)
	}
	return c
}

func messagesOf(t *testing.T, body []byte) json.RawMessage {
	t.Helper()
	var r struct{ Messages, Input json.RawMessage }
	if err := json.Unmarshal(body, &r); err != nil {
		t.Fatal(err)
	}
	if r.Messages != nil {
		return r.Messages
	}
	return r.Input
}

func elementsOf(t *testing.T, body []byte) (all [][]byte) {
	t.Helper()
	var list []json.RawMessage
	if err := json.Unmarshal(messagesOf(t, body), &list); err != nil {
		t.Fatal(err)
	}
	for _, raw := range list {
		all = append(all, raw)
	}
	return all
}

// session is one run of the conversation.
type session struct {
	*conversation
	name  string
	made  int      // turns
	grown [][]byte // what was added to the last body
}

func (c *conversation) session(number int) *session {
	return &session{conversation: c, name: runName(number)}
}

// body is that of the session's next request. Only next goes on from it: a turn
// that was left is sent again.
func (s *session) body() []byte {
	if s.made < len(s.bodies) {
		return bytes.ReplaceAll(s.bodies[s.made], []byte(s.run), []byte(s.name))
	}
	var b bytes.Buffer
	b.Write(s.head)
	b.WriteByte('[')
	for i, e := range s.elements {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(unmarked(e))
	}
	for i, e := range s.grown {
		b.WriteByte(',')
		if i < len(s.grown)-1 {
			e = unmarked(e)
		}
		b.Write(e)
	}
	b.WriteByte(']')
	b.Write(s.tail)
	return bytes.ReplaceAll(b.Bytes(), []byte(s.run), []byte(s.name))
}

func (s *session) next() {
	if s.made++; s.made < len(s.bodies) {
		return
	}
	number := s.last + s.made - len(s.bodies) + 1
	for _, e := range s.turn {
		e = callNumber.ReplaceAllFunc(e, func(m []byte) []byte {
			return []byte(string(m[:len(m)-7]) + fmt.Sprintf("%07d", number))
		})
		s.grown = append(s.grown, turnName.ReplaceAll(e, fmt.Appendf(nil, "turn%07d", number)))
	}
}

// traffic spends one key by sessions of a conversation.
type traffic struct {
	s      *server
	b      *biller
	c      *conversation
	key    string
	turns  int // of a session
	aborts int // every so many-th request is left; 0: none

	number   atomic.Int64 // of sessions
	requests atomic.Int64
	busy     atomic.Int64 // 429
	left     atomic.Int64 // by the client
	dead     atomic.Bool

	mu      sync.Mutex
	refused []byte // the body that was
	why     string
	said    string
}

const (
	longAnswer  = 40 // paragraphs of an answer that is left
	firstRetry  = 200 * time.Millisecond
	retries     = 8
	forgetEvery = 3 // sessions: the vendor drops its cache in the middle of one
)

// spend runs lanes of sessions until the key is refused for good.
func (f *traffic) spend(ctx context.Context, lanes int) error {
	errs := make([]error, lanes)
	var wg sync.WaitGroup
	for i := range lanes {
		wg.Go(func() {
			for !f.dead.Load() && errs[i] == nil {
				errs[i] = f.session(ctx)
			}
			if errs[i] != nil {
				f.dead.Store(true) // the others have nothing to wait for
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *traffic) session(ctx context.Context) error {
	number := int(f.number.Add(1))
	s := f.c.session(number)
	for s.made < f.turns {
		if number%forgetEvery == 0 && s.made == f.turns/2 {
			f.b.forget()
		}
		body := s.body()
		if f.aborts > 0 && (s.made+number)%f.aborts == f.aborts-1 {
			if err := f.leave(ctx, body); err != nil {
				return err
			}
		}
		if f.dead.Load() {
			return nil
		}
		if err := f.ask(ctx, body, ""); err != nil {
			return err
		}
		if f.dead.Load() {
			return nil
		}
		s.next()
	}
	return nil
}

// leave asks for a long answer and goes when it has begun.
func (f *traffic) leave(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.left.Add(1)
	return f.ask(ctx, body, strconv.Itoa(longAnswer))
}

// ask makes one request, as patiently as an agent's client. With long it goes
// after the first words.
func (f *traffic) ask(ctx context.Context, body []byte, long string) error {
	wait := firstRetry
	for try := 0; ; try++ {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+f.s.addr+f.c.path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header = f.c.header.Clone()
		r.Header.Set("Authorization", "Bearer "+f.key)
		if long != "" {
			r.Header.Set(longHeader, long)
		}
		f.requests.Add(1)
		res, err := f.s.client.Do(r)
		if err != nil {
			return err
		}
		err = f.take(res, body, long != "")
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusTooManyRequests || f.dead.Load() {
			return err
		}
		if try == retries {
			return fmt.Errorf("answered 429 %d times in a row", retries+1)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait *= 2
	}
}

// take reads an answer.
func (f *traffic) take(res *http.Response, body []byte, leave bool) error {
	code := res.Header.Get("Till-Refusal")
	switch res.StatusCode {
	case http.StatusOK:
		if leave {
			lines := bufio.NewReader(res.Body)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return fmt.Errorf("the answer ended before it was left: %w", err)
				}
				if strings.HasPrefix(line, "data:") && strings.Contains(line, "So far the order") {
					return nil
				}
			}
		}
		text, err := io.ReadAll(res.Body)
		if err == nil && !bytes.Contains(text, []byte(`message_stop`)) && !bytes.Contains(text, []byte(`"response.`)) {
			err = fmt.Errorf("an answer without an end: %.300s", text)
		}
		return err
	case http.StatusTooManyRequests:
		f.busy.Add(1)
		if code != "till_budget_held" {
			return fmt.Errorf("answered 429 %s", code)
		}
		return nil
	case http.StatusPaymentRequired:
		said, err := io.ReadAll(io.LimitReader(res.Body, 1024))
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.refused == nil {
			f.refused, f.why, f.said = body, code, string(said)
		}
		f.dead.Store(true)
		return err
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 1024))
	return errors.Join(fmt.Errorf("answered %d %s: %s", res.StatusCode, code, text), err)
}
