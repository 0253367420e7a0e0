package till

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// answer returns a refusal in place of an upstream's answer. It goes to the client
// through the reverse proxy like any other answer.
func (x *exchange) answer(r *http.Request, refusal *record.Refusal) *http.Response {
	x.target.refusals.WithLabelValues(string(refusal.Code)).Inc()
	d := x.target.preset.Dialect
	answer := x.refusal(refusal)
	body := d.Body(answer)
	x.grant.Answered() // nothing more is asked of the upstream
	x.setRemainingHeaders(x.client.Header())
	header := make(http.Header, 10)
	refusalHeader(header, refusal.Code, answer.Status, refusal.RetryAfter, x.id())
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	return &http.Response{
		StatusCode: answer.Status, Status: statusLine(answer.Status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

// statusLine returns a status with its standard text.
func statusLine(status int) string { return strconv.Itoa(status) + " " + http.StatusText(status) }

// admitAnswer checks an upstream's answer before the client sees any of it, and
// wraps its body. cancel ends the round trip and is called when the body is closed.
func (t *Transport) admitAnswer(res *http.Response, out *http.Request, x *exchange, cancel context.CancelFunc) *http.Response {
	original := res
	if res.StatusCode >= 300 {
		// It may be read to its end before any of it is passed on, and in another
		// goroutine, where net/http writes the trailer. The client therefore gets a
		// copy.
		res = new(http.Response)
		*res = *original
		res.Trailer = maps.Clone(original.Trailer)
	}
	if refusal := t.checkAnswer(res, out, x); refusal != nil {
		_ = res.Body.Close() // nobody reads it
		cancel()
		return x.answer(out, refusal)
	}
	if x.models != nil && res.StatusCode < 300 {
		if refusal := filterModels(res, x); refusal != nil {
			_ = res.Body.Close() // it cannot be used
			cancel()
			return x.answer(out, refusal)
		}
	}
	x.setRemainingHeaders(x.client.Header())
	x.exposeHeaders(res.Header)
	t.cleanHeader(res.Header)
	t.target.translate(res.Header, out, x)
	for name := range res.Trailer { // the announced ones; cleanTrailer sees the rest
		if strings.HasPrefix(name, "Till-") {
			delete(res.Trailer, name)
		}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.trackTunnel(res)
		return res
	}
	kind := kindOf(res.Header)
	if x.usage != nil {
		if res.StatusCode < 300 && x.usage.estimate.HidesUsage() {
			t.target.answersUsage.Store(true)
		}
		x.usage.meterAnswer(res, x.target.preset, kind != opaque)
	}
	b := &answerBody{ReadCloser: res.Body, x: x, res: res, original: original, cancel: cancel}
	if res.ContentLength < 0 {
		b.kind = kind
	}
	b.watchEnd(out)
	res.Body = b
	return res
}

func kindOf(h http.Header) bodyKind {
	if len(encodings(h)) > 0 {
		return opaque
	}
	return streams(h.Get("Content-Type"))
}

// streams returns the form of a body with this content type.
func streams(contentType string) bodyKind {
	if contentType == "application/json" {
		return opaque
	}
	kind, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
	case kind == "text/event-stream":
		return eventStream
	case kind == "application/x-ndjson" || kind == "application/jsonl":
		return jsonLines
	}
	return opaque
}

// checkAnswer returns why an answer must not reach the client, or nil.
func (t *Transport) checkAnswer(res *http.Response, out *http.Request, x *exchange) *record.Refusal {
	key := x.grant.Key()
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		return t.target.credentialRefused(key)
	case res.StatusCode == http.StatusSwitchingProtocols && !x.upgrade:
		return key.Refuse(record.CodeUpstreamFailed, "got an upgrade from upstream %s that the request did not ask for", t.target.name)
	case x.credential.shownInHeader(res.Header), x.credential.shownInHeader(res.Trailer): // of the trailer only the names are known yet
		return key.Refuse(record.CodeUpstreamFailed, "got an answer from upstream %s that is not passed on because it shows the credential", t.target.name)
	}
	if refusal := t.target.relocate(res, out, x, key); refusal != nil {
		return refusal
	}
	if res.StatusCode >= 300 {
		return x.searchCredential(res)
	}
	return nil
}

// credentialRefused returns the refusal that replaces an upstream's answer about the
// server's bad credential: clients would take that answer to be about their own key.
func (t *target) credentialRefused(key *record.Key) *record.Refusal {
	return key.Refuse(record.CodeUpstreamAuthFailed,
		"is fine, but upstream %s refused the server's own credential; the operator of this server must fix it", t.name)
}

// trackTunnel registers an upgraded connection, so that it is closed when its key ends.
func (x *exchange) trackTunnel(res *http.Response) {
	tunnel := res.Body
	if both, ok := tunnel.(io.ReadWriteCloser); ok { // otherwise the reverse proxy refuses it
		res.Body = &upgradedBody{both, x}
	}
	x.mu.Lock()
	x.tunnel = tunnel
	x.mu.Unlock()
	if x.grant.Cut() != nil {
		_ = tunnel.Close() // it was cut while it was being set up
	}
}

// bodyKind is how an answer can be ended early.
type bodyKind uint8

const (
	opaque      bodyKind = iota // only by breaking it off
	eventStream                 // with an error event
	jsonLines                   // with an error line
)

// answerBody is the body of an upstream's answer. If the key is stopped while the
// body is read, it ends with an error in the dialect. A trailer that shows the
// credential is dropped.
type answerBody struct {
	io.ReadCloser
	x        *exchange
	res      *http.Response // as it is passed on
	original *http.Response // as it came: the same, or one with its own trailer
	cancel   context.CancelFunc
	kind     bodyKind
	ended    bool    // nothing more to read
	last     [2]byte // the last bytes passed on
	tail     io.Reader

	left  int64           // bytes to come; below 0 if unknown
	meter *upstream.Meter // finds the end of a stream; nil if nothing depends on it
}

var errCut = errors.New("the key was stopped while its answer ran")

func (b *answerBody) Read(p []byte) (int, error) {
	if b.tail != nil {
		return b.tail.Read(p)
	}
	if cut := b.x.grant.Cut(); cut != nil {
		return b.endEarly(cut, p)
	}
	n, err := b.ReadCloser.Read(p)
	b.noteEnd(err)
	if err != io.EOF && b.x.drain.clientGone() && b.x.grant.Cut() == nil {
		b.readOn(p)
		return 0, context.Canceled
	}
	b.passed(p[:n], err)
	switch {
	case n >= 2:
		b.last = [2]byte(p[n-2 : n])
	case n == 1:
		b.last = [2]byte{b.last[1], p[0]}
	}
	switch {
	case err == nil:
	case err == io.EOF:
		b.cleanTrailer()
	case n == 0:
		if cut := b.x.grant.Cut(); cut != nil {
			return b.endEarly(cut, p)
		}
	default:
		if b.x.grant.Cut() != nil {
			err = nil // the end follows with the next read
		}
	}
	if err != nil && err != io.EOF {
		err = b.x.credential.scrub(err)
	}
	return n, err
}

// endEarly replaces the rest of the body with an error that says why the request was
// cut.
func (b *answerBody) endEarly(cut *record.Refusal, p []byte) (int, error) {
	dialect := b.x.target.preset.Dialect
	answer := b.x.refusal(cut)
	switch b.kind {
	case eventStream:
		words := dialect.StreamError(b.x.path, answer)
		if b.last != [2]byte{} && b.last != [2]byte{'\n', '\n'} {
			words = append([]byte("\n\n"), words...)
		}
		// Each is read, and therefore sent, on its own.
		b.tail = io.MultiReader(bytes.NewReader(words), bytes.NewReader(dialect.StreamEnd(b.x.path, answer)))
	case jsonLines:
		words := dialect.LineError(answer)
		if b.last[1] != 0 && b.last[1] != '\n' {
			words = append([]byte("\n"), words...)
		}
		b.tail = bytes.NewReader(words)
	default:
		return 0, errCut
	}
	return b.tail.Read(p)
}

// cleanTrailer is called at the end of the answer, when its trailer has arrived.
func (b *answerBody) cleanTrailer() {
	for name, values := range b.original.Trailer {
		switch {
		case strings.HasPrefix(name, "Till-") || b.x.credential.shownInHeader(http.Header{name: values}):
			delete(b.res.Trailer, name)
		case b.res != b.original:
			if b.res.Trailer == nil {
				b.res.Trailer = make(http.Header)
			}
			b.res.Trailer[name] = values
		}
	}
}

func (b *answerBody) Close() error {
	if b.x.drain != nil && !b.ended {
		b.readOn(make([]byte, drainBuffer)) // the client is gone, or has stopped reading
	}
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// A client can know the end of its answer before the handler that wrote it returns:
// by its length, by the last event of a stream, by the end of an upgraded connection.
// The request stops counting against its key's max_concurrency just before the end goes
// out (see [limiter.Grant.Answered]), whatever it is charged afterwards. A request that
// its client breaks off counts until nothing more is asked of the upstream.

// bodiless reports whether an answer ends with its header.
func bodiless(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

// watchEnd prepares passed to find the end of the answer.
func (b *answerBody) watchEnd(out *http.Request) {
	if !b.x.grant.Counts() {
		return
	}
	if b.left = b.res.ContentLength; bodiless(out.Method, b.res.StatusCode) {
		b.left = 0
	}
	switch {
	case b.left == 0:
		b.x.grant.Answered()
	case b.x.usage != nil:
		b.meter = b.x.usage.meter
	case b.kind != opaque:
		b.meter = b.x.target.preset.Meter(true)
	}
}

// passed notes what is passed on to the client.
func (b *answerBody) passed(p []byte, err error) {
	if !b.x.grant.Counts() {
		return
	}
	if b.left > 0 {
		b.left = max(b.left-int64(len(p)), 0)
	}
	if b.meter != nil && b.x.usage == nil {
		b.meter.Write(p)
	}
	if err == io.EOF || b.left == 0 || b.meter != nil && b.meter.Over() {
		b.x.grant.Answered()
	}
}

// upgradedBody is the upstream's side of an upgraded connection.
type upgradedBody struct {
	io.ReadWriteCloser
	x *exchange
}

func (b *upgradedBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	if err != nil {
		b.x.grant.Answered()
	}
	return n, err
}

// CloseWrite closes one direction only.
func (b *upgradedBody) CloseWrite() error {
	if half, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
