package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The upstream speaks just enough HTTP/1.1 by hand that it takes little processor
// time from the two sides.

// answer is about as long as a short chat answer. All answers have the same length.
func answer(prompt int64) string {
	return fmt.Sprintf(`{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":%7d,"completion_tokens":2,"total_tokens":%7d}}`, prompt, prompt+2)
}

// bytesAToken is about how many bytes of text a token has.
const bytesAToken = 4

// eventsHeader requests a stream of that many events.
const eventsHeader = "X-Bench-Events"

// fastHeader requests a stream without pauses.
const fastHeader = "X-Bench-Fast"

// startUpstream runs the upstream as a process of its own.
func startUpstream() (string, *exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	addr, err := freePort()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(self, "-serve", addr)
	cmd.Stderr = os.Stderr
	// The upstream ends when its standard input does, and so also when this process
	// dies.
	if _, err := cmd.StdinPipe(); err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return addr, cmd, conn.Close()
		}
		if time.Now().After(deadline) {
			end(cmd)
			return "", nil, fmt.Errorf("the upstream did not start: %w", err)
		}
		time.Sleep(5 * time.Millisecond) // between two tries
	}
}

func serveUpstream(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // returns when the parent is gone, for whatever reason
		os.Exit(0)
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := serveConn(conn); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
				fmt.Fprintln(os.Stderr, "bench upstream:", err)
			}
		}()
	}
}

// plain is the answer to a request of that many bytes.
func plain(length int64) []byte {
	text := answer(length/bytesAToken + 1)
	return []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(text)) + "\r\n\r\n" + text)
}

func serveConn(conn net.Conn) error {
	r := bufio.NewReader(conn)
	var last int64 // length of a request, and the answer to it
	var text []byte
	for {
		if _, err := r.ReadSlice('\n'); err != nil { // the request line
			return err
		}
		var length, events, fast, held int64
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return err
			}
			line = bytes.TrimRight(line, "\r\n")
			if len(line) == 0 {
				break
			}
			name, value, _ := bytes.Cut(line, []byte(":"))
			switch {
			case bytes.EqualFold(name, []byte("Content-Length")):
				length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			case bytes.EqualFold(name, []byte("Transfer-Encoding")):
				err = errors.New("the upstream takes no chunked bodies")
			case bytes.EqualFold(name, []byte(eventsHeader)):
				events, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			case bytes.EqualFold(name, []byte(fastHeader)):
				fast, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			case bytes.EqualFold(name, []byte(holdHeader)):
				held, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			}
			if err != nil {
				return err
			}
		}
		if _, err := io.CopyN(io.Discard, r, length); err != nil {
			return err
		}
		var err error
		switch {
		case held > 0:
			return hold(conn, r)
		case fast > 0:
			err = fastStream(conn, int(fast))
		case events > 0:
			err = stream(conn, int(events))
		default:
			if text == nil || length != last {
				last, text = length, plain(length)
			}
			_, err = conn.Write(text)
		}
		if err != nil {
			return err
		}
	}
}

// stream sends events that contain the time at which they were sent.
func stream(conn net.Conn, n int) error {
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		return err
	}
	tick := time.NewTicker(eventPause)
	defer tick.Stop()
	for range n {
		<-tick.C
		event := fmt.Sprintf("data: %d\n\n", time.Now().UnixNano())
		if _, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(event), event); err != nil {
			return err
		}
	}
	_, err := io.WriteString(conn, "0\r\n\r\n")
	return err
}

// fastStream sends events without a pause, each by itself, as a model does.
func fastStream(conn net.Conn, n int) error {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	const event = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" words"},"finish_reason":null}],"usage":null}` + "\n\n"
	const last = `data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2000,"total_tokens":2009}}` + "\n\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(event), event)
	if _, err := io.WriteString(conn, head); err != nil {
		return err
	}
	for range n {
		if _, err := io.WriteString(conn, chunk); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(conn, "%x\r\n%s\r\n0\r\n\r\n", len(last), last)
	return err
}

// sentAt returns when an event was sent, if the line is one.
func sentAt(line string) (time.Time, bool) {
	text, ok := strings.CutPrefix(line, "data: ")
	if !ok {
		return time.Time{}, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(0, n), err == nil
}
