package till

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

const (
	// defaultMaxBody is the longest body that is read, in bytes, unless max_body
	// says otherwise.
	defaultMaxBody = 32_000_000
	// maxBuffered bounds all such bodies of this process together, in bytes.
	maxBuffered = 256 << 20
	// firstRoom is the part of maxBuffered that is reserved for the beginnings of
	// bodies, so that many large bodies do not keep out new ones.
	firstRoom = 64 << 20
	// maxWaiting bounds the bodies of requests that wait for others of their key, in
	// bytes: a quarter of the rest. Their beginnings are bounded by how many may wait.
	maxWaiting = (maxBuffered - firstRoom) / 4
	// bufferedWait is how long a request waits for room.
	bufferedWait = 5 * time.Second
	// firstBuffer is what a body is given at first, in bytes: a client that
	// announces much and sends nothing must not take the room of others.
	firstBuffer = 64 << 10
)

// spareBuffers hold the beginnings of bodies that are longer, or of unknown length.
// They are copied from as soon as more has arrived, so that only readBody ever sees
// one.
var spareBuffers = sync.Pool{New: func() any { return new([firstBuffer]byte) }}

// The bytes of all bodies in memory, over all configurations of this process: those
// of their beginnings, and all others.
var (
	beginnings = semaphore.NewWeighted(firstRoom)
	buffered   = semaphore.NewWeighted(maxBuffered - firstRoom)
)

// bufferedBody is a request's body in memory.
type bufferedBody struct {
	bytes.Reader
	content     []byte       // what Read gives; nil once it was sent
	first, more atomic.Int64 // reserved in beginnings and in buffered
}

// Close releases the body's memory. It may be called more than once.
func (b *bufferedBody) Close() error {
	beginnings.Release(b.first.Swap(0))
	buffered.Release(b.more.Swap(0))
	return nil
}

// keeps is how many bytes the body has reserved in buffered.
func (b *bufferedBody) keeps() int64 {
	if b == nil {
		return 0
	}
	return b.more.Load()
}

// takesRoom reports whether the body has reserved any memory.
func (b *bufferedBody) takesRoom() bool { return b != nil && b.first.Load() > 0 }

var (
	errBodyTooLarge = errors.New("the body is too large")
	errNoRoom       = errors.New("too many bodies are in memory")
)

// reserveMemory reserves n bytes of room, and waits a little for them.
func reserveMemory(ctx context.Context, room *semaphore.Weighted, n int64, taken *atomic.Int64) error {
	if !room.TryAcquire(n) {
		ctx, cancel := context.WithTimeout(ctx, bufferedWait)
		defer cancel()
		if err := room.Acquire(ctx, n); err != nil {
			return errNoRoom
		}
	}
	taken.Add(n)
	return nil
}

// readBody reads a body of at most limit bytes into memory, where it can be examined
// and then sent as it is. The body must arrive at the pace p.
func readBody(r *http.Request, limit int64, p *pace) (*bufferedBody, []byte, error) {
	if r.ContentLength > limit {
		return nil, nil, errBodyTooLarge
	}
	b := new(bufferedBody)
	size := int64(firstBuffer)
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength+1) // one more byte, to see the end
	}
	if err := reserveMemory(r.Context(), beginnings, size, &b.first); err != nil {
		return nil, nil, err
	}
	var buf []byte
	if size < firstBuffer {
		buf = make([]byte, 0, size)
	} else {
		spare := spareBuffers.Get().(*[firstBuffer]byte)
		defer spareBuffers.Put(spare)
		buf = spare[:0]
	}
	for {
		p.next(len(buf))
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return nil, nil, errors.Join(errBodyTooLarge, b.Close())
		case err == io.EOF:
			p.end()
			if cap(buf) == firstBuffer {
				buf = bytes.Clone(buf)
			}
			b.Reset(buf)
			return b, buf, nil
		case err != nil:
			return nil, nil, errors.Join(err, b.Close())
		case len(buf) < cap(buf):
			continue
		}
		more := min(int64(cap(buf)), limit+1-int64(cap(buf)))
		if r.ContentLength >= 0 {
			more = min(more, r.ContentLength+1-int64(cap(buf)))
		}
		if err := reserveMemory(r.Context(), buffered, max(more, 1), &b.more); err != nil {
			return nil, nil, errors.Join(err, b.Close())
		}
		grown := make([]byte, cap(buf)+int(max(more, 1)))
		copy(grown, buf) // written like this, the compiler does not clear what is copied over
		buf = grown[:len(buf)]
	}
}

// readAsk reads from a request what the key's limits depend on: the models that it
// names and what it can use at most. It also takes out the tools that the upstream
// strips. It does not read requests for which none of this matters. A body that was
// read stays in memory.
func (h *Handler) readAsk(w http.ResponseWriter, x *exchange, ask *limiter.Ask) *record.Refusal {
	r := x.request
	models := ask.Terms.Models
	spends := (ask.Terms.Tokens || ask.Terms.Dollars) && !ask.Free
	if ask.Free && (r.Method == http.MethodGet || r.Method == http.MethodHead) && x.target.preset.IsFree(r.Method, x.path) {
		if models {
			ask.Listing, x.models = true, x.live.AllowsModel
		}
		return nil
	}
	strips := !h.Guard && x.target.preset.Strips(r.Method, x.path)
	if !models && !spends && !strips {
		return nil
	}
	if refusal := x.live.Precheck(r.Context(), ask); refusal != nil {
		return refusal
	}
	call, refusal := h.readCall(w, x)
	if refusal == nil && strips {
		refusal = x.strip(call)
	}
	if refusal == nil && models {
		if refusal = checkModels(x, call, ask); refusal == nil {
			refusal = x.live.AdmitsModels(ask)
		}
	}
	if refusal == nil && spends {
		refusal = h.boundUsage(x, call, ask)
	}
	if refusal != nil {
		return x.live.Refuse(r.Context(), ask, refusal)
	}
	return nil
}

// readCall reads a request as its upstream will read it.
func (h *Handler) readCall(w http.ResponseWriter, x *exchange) (*upstream.Call, *record.Refusal) {
	r := x.request
	call := &upstream.Call{
		Method: r.Method, Path: x.path, Query: r.URL.RawQuery,
		ContentType: r.Header.Get("Content-Type"), Encoding: r.Header.Get("Content-Encoding"),
		Features: x.target.addresses + upstream.Features(r.Header),
	}
	if len(r.Header["Content-Type"]) > 1 || len(r.Header["Content-Encoding"]) > 1 {
		return nil, x.key.Refuse(record.CodeBadRequest, "sent two headers that describe its body")
	}
	if r.Method == http.MethodConnect || r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 { // a tunnel is no body
		return call, nil
	}
	if x.body != nil && r.ContentLength <= h.app.maxBody { // already read
		call.Body = x.body.content
		return call, nil
	}
	body, read, err := readBody(r, h.app.maxBody, newPace(w, r))
	if err != nil {
		return nil, h.bodyRefusal(x.key, err)
	}
	x.body, call.Body = body, read
	x.send(read)
	return call, nil
}

// strip takes out of a request the tools that its upstream must not run. What is
// left is examined and sent.
func (x *exchange) strip(call *upstream.Call) *record.Refusal {
	changed, err := x.target.preset.Strip(call)
	if err != nil {
		return x.key.Refuse(record.CodeBadRequest, "is for upstream %s, which takes some tools out of requests: %s", x.target.name, err)
	}
	if changed {
		x.send(call.Body)
	}
	return nil
}

func (h *Handler) bodyRefusal(key *record.Key, err error) *record.Refusal {
	switch {
	case errors.Is(err, errNoRoom):
		refusal := storeClosed()
		refusal.Message = "too many requests with large bodies are in memory; try again"
		return refusal
	case errors.Is(err, os.ErrDeadlineExceeded):
		return key.Refuse(record.CodeBadRequest, "sent its body too slowly: one that limits must read may pause for %s, and must come with %d bytes a second", bodyPause, bodyPace)
	case errors.Is(err, errBodyTooLarge):
		return key.Refuse(record.CodeBodyTooLarge, "has limits for which bodies are read, and those may be %d bytes long", h.app.maxBody)
	}
	return brokenBody(key, err)
}

// brokenBody is the refusal of a request whose client has not sent all of its body, or
// has sent too much.
func brokenBody(key *record.Key, err error) *record.Refusal {
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return key.Refuse(record.CodeBodyTooLarge, "sent more than the %d bytes allowed here", tooLong.Limit)
	}
	return key.Refuse(record.CodeBadRequest, "sent a body that broke off")
}

// smallBody is the longest body, in bytes, that is read although no limit asks for
// it: as much as usually arrives in one piece with the header.
const smallBody = 4 << 10

// readSmall reads a small body into memory. net/http writes a body that it knows to
// be in memory in one piece with the header, and any other body separately: this halves
// the number of writes to the upstream.
func (h *Handler) readSmall(x *exchange, ask *limiter.Ask) *record.Refusal {
	r := x.request
	if x.body != nil || x.upgrade || h.Guard || r.ContentLength <= 0 || r.ContentLength > smallBody {
		return nil
	}
	if refusal := x.live.Precheck(r.Context(), ask); refusal != nil {
		return refusal // not worth waiting for its body
	}
	b := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, b); err != nil {
		return x.live.Refuse(r.Context(), ask, h.bodyRefusal(x.key, err))
	}
	x.body = new(bufferedBody)
	x.send(b)
	return nil
}

// whole returns the body in a form that net/http knows to be in memory, or nil if it
// is not in memory or has been read from.
func (b *bufferedBody) whole(length int64) io.ReadCloser {
	if b == nil || length <= 0 || int64(b.Len()) != length {
		return nil
	}
	return io.NopCloser(&b.Reader)
}

// send makes b the body that goes out. The reserved memory stays that of the
// original body.
func (x *exchange) send(b []byte) {
	r := x.request
	x.body.Reset(b)
	x.body.content = b
	r.Body, r.ContentLength, r.TransferEncoding = x.body, int64(len(b)), nil
	if len(b) == 0 {
		r.Body = http.NoBody
	}
}

// splice makes pieces the body that goes out, without copying a large one together.
func (x *exchange) splice(pieces [][]byte) {
	size := 0
	for _, b := range pieces {
		size += len(b)
	}
	if size < minSpliced {
		x.send(slices.Concat(pieces...))
		return
	}
	x.send(nil)
	x.request.Body, x.request.ContentLength = &splicedBody{pieces, x.body}, int64(size)
}

// minSpliced is the shortest body that is sent in pieces, in bytes. Over HTTP/1 that
// costs one more write, because net/http does not know that the body is in memory.
const minSpliced = 64 << 10

// splicedBody is a body in pieces. Only its Read sees them, so that nobody can take
// one piece for the whole.
type splicedBody struct {
	left [][]byte
	io.Closer
}

func (b *splicedBody) Read(p []byte) (n int, err error) {
	for len(b.left) > 0 {
		m := copy(p[n:], b.left[0])
		n += m
		if b.left[0] = b.left[0][m:]; len(b.left[0]) > 0 {
			return n, nil
		}
		b.left[0], b.left = nil, b.left[1:] // sent, and no longer needed
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// bodySent drops a body that has been sent: the answer may take much longer, and
// nothing is ever sent twice.
func (x *exchange) bodySent(how httptrace.WroteRequestInfo) {
	if how.Err == nil {
		x.body.Reset(nil)
		x.body.content = nil
		_ = x.body.Close() // it has nothing to report
	}
}

// releaseBody releases the body's memory, however its request ended.
func (x *exchange) releaseBody() {
	if x.body != nil {
		_ = x.body.Close() // it has nothing to report
	}
}

// passingBody notes when a body that is passed on unbuffered has been read completely,
// and why its client broke it off.
type passingBody struct {
	io.ReadCloser
	x      *exchange
	left   int64       // below 0 if unknown
	closed atomic.Bool // errors of reads from then on are not the client's fault
}

func (b *passingBody) Read(p []byte) (int, error) {
	if b.x.unbuffered && b.x.bodyRead.Load() {
		// net/http's transport reads on after the last byte, and breaks off the answer if that
		// fails. By then its server may have closed the body, because the answer has begun
		// (https://golang.org/issue/40747).
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err == io.EOF || b.left == 0 {
		b.x.bodyRead.Store(true)
	}
	if err != nil && err != io.EOF && !b.closed.Load() {
		b.x.bodyFailed.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (b *passingBody) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

func checkModels(x *exchange, call *upstream.Call, ask *limiter.Ask) *record.Refusal {
	if x.upgrade {
		return x.key.Refuse(record.CodeModelNotAllowed, "is limited to some models, which cannot be checked on an upgraded connection")
	}
	models, named, err := x.target.preset.Models(call)
	if err != nil {
		return x.key.Refuse(record.CodeBadRequest, "is limited to some models: %s", err)
	}
	ask.Models, ask.Named = models, named
	ask.Listing = len(models) == 0 && x.target.preset.IsUnbilled(call.Method, call.Path)
	return nil
}
