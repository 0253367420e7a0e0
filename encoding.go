package till

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxEncodings is how many encodings may be applied to an answer.
	maxEncodings = 3
	// maxBetween bounds what may come out of each but the last decoder, in bytes.
	maxBetween = 64 << 20
	// maxWindow is the most memory that an answer in zstd may ask for, in bytes: RFC
	// 9659, section 3.
	maxWindow = 8 << 20
)

var errTooLong = errors.New("the decoded answer is too long")

// representation are the headers that describe the exact bytes of an answer, and are
// wrong once those change.
var representation = []string{"Etag", "Last-Modified", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest"}

// encodings lists the encodings of an answer in the order in which they were applied
// (RFC 9110, section 8.4), without those that change nothing.
func encodings(h http.Header) []string {
	var all []string
	for _, line := range h["Content-Encoding"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.ToLower(strings.Trim(name, " \t")); name != "" && name != "identity" {
				all = append(all, name)
			}
		}
	}
	return all
}

// decode removes the encodings of an answer's body. The body is decoded while it is
// read and never held as a whole. most is how many bytes may come out. decode returns
// false and changes nothing if an encoding is unknown.
func decode(res *http.Response, most int64) bool {
	names := encodings(res.Header)
	if len(names) > maxEncodings {
		return false
	}
	body := io.Reader(res.Body)
	for i := len(names) - 1; i >= 0; i-- {
		d := &decoder{from: body, left: maxBetween}
		switch names[i] {
		case "gzip", "x-gzip":
			d.open = func(r *bufio.Reader) (io.Reader, error) { return gzip.NewReader(r) }
		case "deflate":
			d.open = openDeflate
		case "zstd":
			d.open = openZstandard
		default:
			return false
		}
		if i == 0 {
			d.left = most
		}
		body = d
	}
	if len(names) == 0 {
		return true
	}
	res.Body = bodyFrom{body, res.Body}
	delete(res.Header, "Content-Encoding")
	delete(res.Header, "Content-Length")
	for _, name := range representation {
		delete(res.Header, name)
	}
	res.ContentLength = -1
	return true
}

// bodyFrom is the body of an answer that is read from elsewhere, but closed like the
// original.
type bodyFrom struct {
	io.Reader
	io.Closer
}

// unlimited is the bound of answers that may have any length.
const unlimited = math.MaxInt64

type decoder struct {
	from io.Reader
	open func(*bufio.Reader) (io.Reader, error)
	left int64     // bytes that may still come out
	out  io.Reader // nil until the first read
}

func (d *decoder) Read(p []byte) (int, error) {
	if d.out == nil {
		in := bufio.NewReader(d.from)
		if _, err := in.Peek(1); err != nil {
			return 0, err // io.EOF: an empty body, which is valid in every encoding
		}
		out, err := d.open(in)
		if err != nil {
			return 0, err
		}
		d.out = out
	}
	if d.left <= 0 {
		return 0, errTooLong
	}
	n, err := d.out.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	return n, err
}

// openDeflate reads the zlib format, which "deflate" means by RFC 9110, section
// 8.4.1.2, or bare compressed data, which some servers send.
func openDeflate(r *bufio.Reader) (io.Reader, error) {
	if head, err := r.Peek(2); err == nil && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(r)
	}
	return flate.NewReader(r), nil
}

// openZstandard returns a decoder that has no goroutine and therefore needs no closing.
func openZstandard(r *bufio.Reader) (io.Reader, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
}

// acceptEncoding returns the Accept-Encoding that is sent to an upstream: gzip if the
// client accepts it, so that errors can be searched for the credential, or identity.
func acceptEncoding(accepted []string) string {
	gzip, other, plain := -1, -1, -1 // weights; -1 if not named
	for _, line := range accepted {
		for item := range strings.SplitSeq(line, ",") {
			name, weight := weighted(item)
			switch name {
			case "gzip", "x-gzip":
				gzip = max(gzip, weight)
			case "*":
				other = max(other, weight)
			case "identity":
				plain = max(plain, weight)
			}
		}
	}
	if gzip < 0 {
		gzip = other
	}
	if gzip > 0 && gzip >= plain {
		return "gzip"
	}
	return "identity"
}

// weighted parses one item of Accept-Encoding: RFC 9110, section 12.4.2. The weight
// is in thousandths; 0 stands for one that is invalid.
func weighted(item string) (name string, weight int) {
	name, parameter, has := strings.Cut(item, ";")
	name = strings.ToLower(strings.Trim(name, " \t"))
	if !has {
		return name, 1000
	}
	parameter = strings.Trim(parameter, " \t")
	if len(parameter) < 3 || parameter[0]|0x20 != 'q' || parameter[1] != '=' {
		return name, 0
	}
	whole, fraction, _ := strings.Cut(parameter[2:], ".")
	if whole != "0" && whole != "1" || len(fraction) > 3 || strings.Trim(fraction, "0123456789") != "" {
		return name, 0
	}
	for _, digit := range (fraction + "000")[:3] {
		weight = weight*10 + int(digit-'0')
	}
	if whole == "1" {
		weight = 1000 // the maximum, whatever follows
	}
	return name, weight
}
