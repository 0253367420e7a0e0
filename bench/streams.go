package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// holdHeader requests a stream that sends one event and then nothing, for as long as
// the client stays.
const holdHeader = "X-Bench-Hold"

// opening is how many streams are opened at a time.
const opening = 64

// restTime is how long open streams are left idle, to see that memory stays constant.
const restTime = 5 * time.Second

func hold(conn net.Conn, r *bufio.Reader) error {
	const event = "data: {}\n\n"
	_, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event)
	if err != nil {
		return err
	}
	if _, err = io.Copy(io.Discard, r); err == nil { // until the client goes
		err = io.EOF
	}
	return err
}

// heldStreams is what n open streams cost one of the two sides.
type heldStreams struct {
	idle, open, later int64 // resident memory, in bytes
	streams           []*heldStream
}

type heldStream struct {
	*connection
	body io.ReadCloser
}

func (h *heldStreams) close() {
	for _, c := range h.streams {
		if c != nil {
			_ = c.Close() // the server may have closed it already
		}
	}
}

// resident returns the process's memory after a garbage collection.
func (s *side) resident() (int64, error) {
	res, err := http.Get("http://" + s.admin + "/debug/pprof/heap?gc=1")
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory is read from /proc, which only Linux has: %w", err)
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm says %q", s.cmd.Process.Pid, b)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// hold opens n streams and keeps them open.
func (s *side) hold(n int) (h *heldStreams, err error) {
	h = &heldStreams{streams: make([]*heldStream, n)}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.idle, err = s.resident(); err != nil {
		return h, err
	}
	errs := make([]error, opening)
	var wg sync.WaitGroup
	for first := range opening {
		wg.Go(func() {
			for i := first; i < n && errs[first] == nil; i += opening {
				h.streams[i], errs[first] = s.holdOne()
			}
		})
	}
	wg.Wait()
	if err = errors.Join(errs...); err != nil {
		return h, fmt.Errorf("%s: opening %d streams (may each process have %d files open? see ulimit -n): %w", s.name, n, 2*n+100, err)
	}
	if h.open, err = s.resident(); err != nil {
		return h, err
	}
	time.Sleep(restTime) // the idle time itself is measured
	h.later, err = s.resident()
	return h, err
}

func (s *side) holdOne() (*heldStream, error) {
	c, err := dial(s.addr)
	if err != nil {
		return nil, err
	}
	res, err := c.post(s.key, holdHeader+": 1\r\n", streamBody)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &heldStream{c, res.Body}, nil
}

// revoke revokes the key and returns how many streams that cut, how long the call
// took, and how long it took until all of them had ended.
func (s *side) revoke(h *heldStreams) (cut int, answered, ended time.Duration, err error) {
	list, err := http.Get("http://" + s.admin + "/till/keys?limit=1")
	if err != nil {
		return 0, 0, 0, err
	}
	defer list.Body.Close()
	var page struct{ Keys []struct{ ID string } }
	if err := json.NewDecoder(list.Body).Decode(&page); err != nil || len(page.Keys) != 1 {
		return 0, 0, 0, fmt.Errorf("looking for the key: %s, %w", list.Status, err)
	}
	var wg sync.WaitGroup
	for _, c := range h.streams {
		wg.Go(func() { _, _ = io.Copy(io.Discard, c.body) }) // how the stream ends does not matter
	}
	began := time.Now()
	res, err := http.Post("http://"+s.admin+"/till/keys/"+page.Keys[0].ID+"/revoke", "application/json", strings.NewReader(`{}`))
	if err != nil {
		return 0, 0, 0, err
	}
	defer res.Body.Close()
	var answer struct {
		StreamsCut int `json:"streams_cut"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != http.StatusOK {
		return 0, 0, 0, fmt.Errorf("revoking: %s, %w", res.Status, err)
	}
	answered = time.Since(began)
	half := time.AfterFunc(30*time.Second, h.close) // a stream that does not end must not hang the run
	wg.Wait()
	ended = time.Since(began)
	if !half.Stop() {
		return answer.StreamsCut, answered, ended, errors.New("after 30 s there were streams that had not ended")
	}
	return answer.StreamsCut, answered, ended, nil
}

// reportStreams measures n open streams on both sides, and how they end.
func reportStreams(out io.Writer, n int, stock, till *side) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "%d streams open at a time.\n\n", n)
	fmt.Fprintln(t, "\tidle\topen\t5 s later\ta stream\t")
	for _, s := range []*side{stock, till} {
		h, err := s.hold(n)
		if err != nil {
			return err
		}
		mb := func(b int64) string { return fmt.Sprintf("%.1f MB", float64(b)/1e6) }
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.1f kB\t\n", s.name, mb(h.idle), mb(h.open), mb(h.later), float64(h.later-h.idle)/1e3/float64(n))
		if s == stock {
			h.close()
			continue
		}
		cut, answered, ended, err := s.revoke(h)
		h.close()
		if err := errors.Join(t.Flush(), err); err != nil {
			return err
		}
		fmt.Fprintf(out, "\nRevoking the key cut %d of them. The call took %s; the last had ended after %s.\n", cut,
			answered.Round(time.Millisecond), ended.Round(time.Millisecond))
	}
	return nil
}
