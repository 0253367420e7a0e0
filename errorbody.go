package till

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

const (
	// maxErrorBody is how much of an error is read before any of it is passed on, in
	// bytes.
	maxErrorBody = 64 << 10
	// errorTime and streamTime are how long that may take, for a plain body and for
	// a stream. A slower body is passed on as it arrives.
	errorTime  = 5 * time.Second
	streamTime = 100 * time.Millisecond
	// maxDecoded is the longest error that is decoded, in bytes.
	maxDecoded = 16 << 20
)

var errShown = errors.New("the upstream's answer shows the credential, so no more of it is passed on")

// searchCredential searches the body of an unsuccessful answer for the credential,
// and returns why it must not reach the client, or nil. A body that is long or slow is
// searched while it is passed on, and broken off where the credential would begin.
// Since the text that was searched is the text that is passed on, encodings are
// removed.
func (x *exchange) searchCredential(res *http.Response) *record.Refusal {
	key := x.grant.Key()
	refused := func(why string) *record.Refusal {
		return key.Refuse(record.CodeUpstreamFailed, "got an error from upstream %s %s", x.target.name, why)
	}
	if res.Body == http.NoBody || res.ContentLength == 0 {
		return nil
	}
	wait := errorTime
	kind := res.Header.Get("Content-Type")
	if res.ContentLength < 0 && streams(kind) != opaque {
		wait = streamTime
	}
	encoded := len(encodings(res.Header)) > 0
	if !decode(res, maxDecoded) && x.credential.searchable() {
		return refused("that is not passed on: it is compressed in a way in which it cannot be searched for the credential")
	}
	if !allSpellASCII(res.Header["Content-Type"]) && x.credential.searchable() {
		return refused("that is not passed on: it is written in a character set in which it cannot be searched for the credential")
	}
	body := res.Body
	text, rest, err := readHead(body, maxErrorBody, wait)
	if x.target.preset.RefusesCredential(res.StatusCode, text) {
		return x.target.credentialRefused(key)
	}
	if x.usage != nil && res.StatusCode >= 400 {
		x.usage.ownError = upstream.SpeaksError(text)
		x.learnFromError(res, text)
	}
	s := newSearch(x.credential)
	switch {
	case s.finds(text) || err == io.EOF && s.ends():
		return refused("that is not passed on: it shows the credential")
	case err == nil:
		res.Body = &searched{rest: rest, Closer: body, search: s, free: s.harmless()}
		return nil
	case err != io.EOF && x.grant.Cut() == nil:
		return refused("whose text broke off or cannot be decoded")
	}
	res.Body = bodyFrom{bytes.NewReader(text), body}
	if encoded && err == io.EOF {
		res.ContentLength = int64(len(text))
		res.Header["Content-Length"] = []string{strconv.Itoa(len(text))}
	}
	return nil
}

// spellsASCII reports whether a content type's character set writes ASCII characters
// as ASCII, perhaps with zeros in between. All that are in use on the web do (see
// https://encoding.spec.whatwg.org/#names-and-labels); UTF-7 and EBCDIC do not.
func spellsASCII(contentType string) bool {
	if !strings.Contains(strings.ToLower(contentType), "charset") {
		return true
	}
	_, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	name := strings.ToLower(strings.TrimSpace(parameters["charset"]))
	for _, family := range []string{
		"utf-8", "utf8", "utf-16", "utf16", "utf-32", "us-ascii", "ascii", "iso-8859-", "iso8859-", "latin", "windows-", "cp125", "macintosh", "koi8-",
		"big5", "gb2312", "gbk", "gb18030", "euc-", "shift_jis", "shift-jis", "iso-2022-",
	} {
		if strings.HasPrefix(name, family) {
			return true
		}
	}
	return name == ""
}

// allSpellASCII reports whether spellsASCII is true of every content type that an
// answer states: clients differ in which of several they use.
func allSpellASCII(contentTypes []string) bool {
	return !slices.ContainsFunc(contentTypes, func(text string) bool { return !spellsASCII(text) })
}

type piece struct {
	b        []byte
	err      error
	panicked any
}

// readPiece reads from a body in a goroutine whose starter may not wait for it. If a
// decoder panics on what an upstream sent, the panic is kept for the receiver of the
// piece, in whose goroutine a server recovers; otherwise it would end the process.
func readPiece(body io.Reader, b []byte) (p piece) {
	defer func() { p.panicked = recover() }()
	n, err := body.Read(b)
	return piece{b: b[:n], err: err}
}

// orPanic returns the piece, or panics as its read did.
func (p piece) orPanic() piece {
	if p.panicked != nil {
		panic(p.panicked)
	}
	return p
}

// readHead reads the beginning of a body: at most so many bytes, for at most so
// long. rest is what follows; it may be read until the body is closed. err is nil if
// there is more, and io.EOF if head is everything.
func readHead(body io.Reader, most int, wait time.Duration) (head []byte, rest io.Reader, err error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for len(head) < most {
		next := make(chan piece, 1) // buffered, so that the reader ends with the body even if nobody receives
		b := make([]byte, min(most-len(head), 8<<10))
		go func() { next <- readPiece(body, b) }()
		select {
		case p := <-next:
			head = append(head, p.orPanic().b...)
			if p.err != nil {
				return head, nil, p.err
			}
		case <-timer.C:
			return head, &pendingBody{body: body, next: next}, nil
		}
	}
	return head, body, nil
}

// pendingBody is a body with a read in progress.
type pendingBody struct {
	body io.Reader
	next chan piece // nil once it was received
	left piece      // the unread rest of it
}

func (l *pendingBody) Read(p []byte) (int, error) {
	if l.next != nil {
		l.left = (<-l.next).orPanic()
		l.next = nil
	}
	if len(l.left.b) > 0 {
		n := copy(p, l.left.b)
		l.left.b = l.left.b[n:]
		return n, nil
	}
	if l.left.err != nil {
		return 0, l.left.err
	}
	return l.body.Read(p)
}
