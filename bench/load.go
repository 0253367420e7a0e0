package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// measure makes one round: load, then one connection alone, then a stream.
func (s *side) measure() error {
	if err := s.measureLoad(); err != nil {
		return err
	}
	took, err := s.load(1, *length/4, body)
	if err != nil {
		return err
	}
	s.alone = append(s.alone, took[len(took)/2])
	if *metered {
		for i, b := range sized {
			cpu, _, err := s.loadCPU(*length/2, b.text)
			if err != nil {
				return err
			}
			s.sized[i] = append(s.sized[i], cpu)
		}
	}
	event, err := streamDelay(s.addr, s.key)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.event = append(s.event, event)
	return s.measureStreams()
}

// measureLoad makes one round of load alone.
func (s *side) measureLoad() error {
	began := time.Now()
	cpu, took, err := s.loadCPU(*length, body)
	if err != nil {
		return err
	}
	n := len(took)
	s.requests = append(s.requests, n)
	s.rate = append(s.rate, time.Since(began)/time.Duration(n))
	s.cpu = append(s.cpu, cpu)
	s.p50 = append(s.p50, took[n/2])
	s.p99 = append(s.p99, took[n*99/100])
	return nil
}

// loadCPU loads the side, and returns the CPU time of one request as well.
func (s *side) loadCPU(length time.Duration, body string) (cpu time.Duration, took []time.Duration, err error) {
	cpu, err = s.spends(func() error {
		took, err = s.load(*parallel, length, body)
		return err
	})
	return cpu / time.Duration(max(len(took), 1)), took, err
}

// spends returns the CPU time that the side takes while fn runs.
func (s *side) spends(fn func() error) (time.Duration, error) {
	before, err := s.cpuTime()
	if err != nil {
		return 0, err
	}
	if err := fn(); err != nil {
		return 0, err
	}
	after, err := s.cpuTime()
	return after - before, err
}

// onEach runs fn on that many connections at a time.
func (s *side) onEach(connections int, fn func(i int, c *connection) error) error {
	errs := make([]error, connections)
	var wg sync.WaitGroup
	for i := range connections {
		wg.Go(func() {
			c, err := dial(s.addr)
			if err == nil {
				err = errors.Join(fn(i, c), c.Close())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// fastEvents is the number of events in each stream under load.
const fastEvents = 2000

// measureStreams runs one stream per connection, as fast as they go.
func (s *side) measureStreams() error {
	var streams atomic.Int64
	deadline := time.Now().Add(*length / 2)
	cpu, err := s.spends(func() error {
		return s.onEach(*parallel, func(_ int, c *connection) error {
			for time.Now().Before(deadline) {
				if err := c.drain(s.key); err != nil {
					return err
				}
				streams.Add(1)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("%s, streams: %w", s.name, err)
	}
	s.eventCPU = append(s.eventCPU, cpu/time.Duration(streams.Load()*fastEvents))
	return nil
}

// drain reads one fast stream to its end.
func (c *connection) drain(key string) error {
	res, err := c.post(key, fmt.Sprintf("%s: %d\r\n", fastHeader, fastEvents), streamBody)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// warmUp opens connections and fills caches; none of it is measured.
func (s *side) warmUp() error {
	for _, b := range sized {
		if _, err := s.load(1, *length/8, b.text); err != nil {
			return err
		}
	}
	_, err := s.load(*parallel, *length/2, body)
	return err
}

// load makes as many requests as fit in the time on that many connections, and
// returns their sorted durations.
func (s *side) load(connections int, length time.Duration, body string) ([]time.Duration, error) {
	deadline := time.Now().Add(length)
	all := make([][]time.Duration, connections)
	err := s.onEach(connections, func(i int, c *connection) error {
		for time.Now().Before(deadline) {
			began := time.Now()
			if err := c.ask(s.key, body); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			all[i] = append(all[i], time.Since(began))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	took := slices.Concat(all...)
	if len(took) == 0 {
		return nil, fmt.Errorf("%s answered no request in %s", s.name, length)
	}
	slices.Sort(took)
	return took, nil
}

// sized are larger bodies, of the size of a question and of an agent's turn.
var sized = [...]struct {
	name string
	goal float64 // CPU time, relative to stock Caddy
	text string
}{
	{"2 kB", 1.15, conversation(2_000)},
	{"100 kB", 1.25, conversation(100_000)},
}

// conversation returns a request of about that many bytes, in realistic messages:
// text with line ends, quotation marks and letters beyond ASCII.
func conversation(size int) string {
	const system = `{"role":"system","content":"Answer in one sentence."}`
	const question = `,{"role":"user","content":"What does this line do?\n\n\tif err := s.load(\"größe\", 16); err != nil {\n\t\treturn err\n\t}\n\nIt stands in a loop that ends when its time is up."}`
	const reply = `,{"role":"assistant","content":"It loads what is left, and ends the loop – with the error – as soon as that fails."}`
	var b strings.Builder
	b.WriteString(`{"model":"m","max_completion_tokens":100,"messages":[` + system)
	for b.Len() < size {
		b.WriteString(question)
		if b.Len() < size {
			b.WriteString(reply + question)
		}
	}
	b.WriteString("]}")
	return b.String()
}

// connection is a client's connection. It writes requests by hand, because net/http's
// client would cost about as much as what is measured.
type connection struct {
	net.Conn
	r *bufio.Reader
}

func dial(addr string) (*connection, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

const (
	body       = `{"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":100}`
	streamBody = `{"stream":true,"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":4000}`
)

// post sends a request, and returns the answer if it is a good one.
func (c *connection) post(key, header, body string) (*http.Response, error) {
	_, err := fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\n"+
		"Accept: application/json\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", key, header, len(body), body)
	if err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(res.Body, 1024))
		return nil, errors.Join(fmt.Errorf("answered %s: %s", res.Status, text), err)
	}
	return res, nil
}

func (c *connection) ask(key, body string) error {
	res, err := c.post(key, "", body)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && n != int64(len(answer(0))) {
		err = fmt.Errorf("answered %d bytes, want %d", n, len(answer(0)))
	}
	return err
}

// streamDelay returns the median delay of a stream's events.
func streamDelay(addr, key string) (time.Duration, error) {
	c, err := dial(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	res, err := c.post(key, fmt.Sprintf("%s: %d\r\n", eventsHeader, *events), body)
	if err != nil {
		return 0, err
	}
	var delays []time.Duration
	for lines := bufio.NewScanner(res.Body); ; {
		if !lines.Scan() {
			if lines.Err() != nil || len(delays) != *events {
				return 0, errors.Join(fmt.Errorf("%d of %d events came", len(delays), *events), lines.Err())
			}
			slices.Sort(delays)
			return delays[len(delays)/2], nil
		}
		if sent, ok := sentAt(lines.Text()); ok {
			delays = append(delays, time.Since(sent))
		}
	}
}
