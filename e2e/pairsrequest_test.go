package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stranger is an address that no rule of a life's key allows.
const stranger = "127.0.0.2"

// asking is how one request differs from the life's own.
type asking struct {
	what     string // for people
	key      string // instead of the life's
	model    string // instead of ownModel
	bound    int64  // of the output; 0: shortAnswer
	method   string
	path     string
	upstream string // named in the path
	status   int    // the upstream answers with an error
	from     string // the client's address
	hold     string // the value of holdHeader
	self     bool   // GET /till/self whatever the life's kind is
}

// reply is the answer, or why there was none.
type reply struct {
	status int
	code   string // Till-Refusal
	header http.Header
	body   string
	err    error // where the answer, or its body, broke off
}

func (r reply) String() string {
	if r.status == 0 {
		return fmt.Sprintf("no answer: %v", r.err)
	}
	text := fmt.Sprintf("%d %s", r.status, r.code)
	if r.err != nil {
		text += fmt.Sprintf(", broken off: %v", r.err)
	}
	return text + " " + strconv.Quote(r.body[:min(len(r.body), 300)])
}

// paths of the kinds.
func (l life) path(model string) string {
	switch l.of("kind") {
	case "chat":
		return "/v1/chat/completions"
	case "gemini":
		if l.is("answer", "stream") {
			return "/v1beta/models/" + model + ":streamGenerateContent"
		}
		return "/v1beta/models/" + model + ":generateContent"
	case "multipart":
		return "/v1/audio/transcriptions"
	case "websocket":
		return "/ws/room"
	case "self":
		return "/till/self"
	case "get", "post":
		return "/api/" + l.of("kind")
	}
	return "/v1/" + l.of("kind")
}

func (l life) method() string {
	if l.is("kind", "models", "websocket", "self", "get") {
		return http.MethodGet
	}
	return http.MethodPost
}

// upstream is the one that the life's key is for.
func (l life) upstream() string {
	switch l.of("kind") {
	case "messages":
		return "ant"
	case "gemini":
		return "gem"
	case "websocket", "get", "post":
		return "any"
	}
	return "mock"
}

// body is what a request says.
func (l life) body(a *asking) (text []byte, contentType string) {
	prompt := "hi"
	if a.bound == 0 {
		a.bound = shortAnswer
	}
	if l.is("wire", "large") {
		prompt = strings.Repeat("a ", 50_000)
	}
	o := object{"model": a.model}
	bound := ""
	switch l.of("kind") {
	case "chat":
		o["messages"], bound = []object{{"role": "user", "content": prompt}}, "max_completion_tokens"
	case "responses":
		o["input"], bound = prompt, "max_output_tokens"
	case "messages":
		o["messages"], bound = []object{{"role": "user", "content": prompt}}, "max_tokens"
	case "gemini":
		o = object{"contents": []object{{"role": "user", "parts": []object{{"text": prompt}}}}, "generationConfig": object{"maxOutputTokens": a.bound}}
	case "embeddings":
		o["input"] = prompt
	case "multipart":
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		_ = w.WriteField("model", a.model) // into memory
		part, err := w.CreateFormFile("file", "a.wav")
		if err == nil {
			_, _ = io.WriteString(part, prompt)
			_ = w.Close()
		}
		return form.Bytes(), w.FormDataContentType()
	case "post":
		o["text"] = prompt
	default:
		return nil, ""
	}
	if bound != "" {
		o[bound] = a.bound
	}
	if l.is("answer", "stream") && !l.is("kind", "gemini") {
		o["stream"] = true
	}
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return text, "application/json"
}

// request makes one, and says over which client it goes.
func (d *driver) request(ctx context.Context, a *asking) (*http.Request, error) {
	l := d.life
	if a.model == "" {
		a.model = ownModel
	}
	method, path := l.method(), l.path(a.model)
	body, contentType := l.body(a)
	if a.self {
		method, path, body = http.MethodGet, "/till/self", nil
	}
	if a.method != "" {
		method = a.method
	}
	if a.path != "" {
		path = a.path
	}
	if a.upstream != "" {
		path = "/proxy/" + a.upstream + path
	}
	if l.is("kind", "gemini") && l.is("answer", "stream") && !a.self {
		path += "?alt=sse"
	}
	var from io.Reader
	if body != nil {
		from = bytes.NewReader(body)
	}
	if l.is("wire", "chunked") && body != nil {
		from = struct{ io.Reader }{from} // of which no length is known
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+d.p.address(l)+path, from)
	if err != nil {
		return nil, err
	}
	if body != nil {
		// A connection that the server has just closed makes Go send it once more.
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.Header.Set("Content-Type", contentType)
		if l.is("wire", "expect") {
			r.Header.Set("Expect", "100-continue")
		}
	}
	if l.is("kind", "get") && l.is("answer", "stream") {
		r.Header.Set("Accept", "text/event-stream")
	}
	r.Header.Set(lifeHeader, d.name)
	if a.status != 0 {
		r.Header.Set(statusHeader, strconv.Itoa(a.status))
	}
	if a.hold != "" {
		r.Header.Set(holdHeader, a.hold)
	}
	key := d.key
	if a.key != "" {
		key = a.key
	}
	d.show(r, key)
	return r, nil
}

// show puts a key where the life's clients put it.
func (d *driver) show(r *http.Request, key string) {
	switch d.life.of("slot") {
	case "basic user":
		r.SetBasicAuth(key, "")
	case "basic password":
		r.SetBasicAuth("someone", key)
	case "x-api-key", "api-key", "x-goog-api-key":
		r.Header.Set(d.life.of("slot"), key)
	case "query":
		q := r.URL.RawQuery
		if q != "" {
			q += "&"
		}
		r.URL.RawQuery = q + "key=" + key
	case "subprotocol":
		r.Header.Set("Sec-Websocket-Protocol", "chat, openai-insecure-api-key."+key)
	case "sk-":
		r.Header.Set("Authorization", "Bearer sk-"+key)
	default:
		r.Header.Set("Authorization", "Bearer "+key)
	}
}

// send makes a request and reads its answer to the end. What meets a socket that the
// server closes after a reload is sent again: it was never read, and the upstream's
// books would show it if it had been.
func (d *driver) send(a asking) (r reply) {
	d.patiently(func() bool {
		r = d.try(a)
		return !r.unread()
	})
	return r
}

// unread reports whether the socket was closed before the request, or amid its body.
// Of a server that closes it behind the end of a stream the client may see only that
// nothing comes any more.
func (r reply) unread() bool {
	return r.status == 0 && r.err != nil && (errors.Is(r.err, io.EOF) || errors.Is(r.err, syscall.EPIPE) || errors.Is(r.err, syscall.ECONNRESET) ||
		strings.Contains(r.err.Error(), "server closed idle connection"))
}

func (d *driver) try(a asking) reply {
	d.p.sent.Add(1)
	r, err := d.request(context.Background(), &a)
	if err != nil {
		return reply{err: err}
	}
	if d.life.is("kind", "websocket") && !a.self && a.method == "" {
		conn, answer := d.dial(r, a.from)
		if conn != nil {
			if answer.status == http.StatusSwitchingProtocols {
				if answer.err = conn.echo(); answer.err == nil {
					answer.err = conn.finish()
				}
			}
			conn.Close()
		}
		return answer
	}
	res, err := d.p.client(d.life, a.from).Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header.Get("Till-Refusal"), res.Header, string(b), err}
}

// upgradedConn is a connection that became something else.
type upgradedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *upgradedConn) echo() error {
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return err
	}
	line, err := c.r.ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("the echo is %q", line)
	}
	return err
}

// finish ends the connection from our side, and waits until the other has ended, too.
func (c *upgradedConn) finish() error {
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c.r)
	return err
}

// dial asks for an upgrade, and returns the connection where there is an answer.
func (d *driver) dial(r *http.Request, from string) (*upgradedConn, reply) {
	dialer := dialerFrom(from)
	conn, err := dialer.Dial("tcp", r.URL.Host)
	if err != nil {
		return nil, reply{err: err}
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, reply{err: err}
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	c := &upgradedConn{conn, bufio.NewReader(conn)}
	if err := r.Write(conn); err != nil {
		return c, reply{err: err}
	}
	res, err := http.ReadResponse(c.r, r)
	if err != nil {
		return c, reply{err: err}
	}
	answer := reply{status: res.StatusCode, code: res.Header.Get("Till-Refusal"), header: res.Header}
	if res.StatusCode != http.StatusSwitchingProtocols {
		b, err := io.ReadAll(res.Body)
		answer.body, answer.err = string(b), err
	}
	return c, answer
}

func dialerFrom(address string) *net.Dialer {
	d := new(net.Dialer)
	if address != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(address)}
	}
	return d
}
