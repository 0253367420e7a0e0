package till

import (
	"compress/gzip"
	"io"
	"net/http"
	"strings"
)

// unpacked is an answer that came packed with gzip though it was asked for as it
// is, so that what it used can be read, and what the client did not ask for taken
// out. It is unpacked as it passes and never held as a whole. Other encodings are
// not read, and what such an answer used is not known.
type unpacked struct {
	io.ReadCloser
	z *gzip.Reader // nil until the first byte is wanted
}

// unpack puts it in the place of an answer's body.
func unpack(res *http.Response) {
	switch strings.ToLower(res.Header.Get("Content-Encoding")) {
	case "gzip", "x-gzip":
		res.Body = &unpacked{ReadCloser: res.Body}
		delete(res.Header, "Content-Encoding")
		delete(res.Header, "Content-Length")
		res.ContentLength = -1
	}
}

func (u *unpacked) Read(p []byte) (n int, err error) {
	if u.z == nil {
		z, err := gzip.NewReader(u.ReadCloser)
		if err == io.EOF {
			return 0, io.EOF // nothing came, which is no gzip and no error
		}
		if err != nil {
			return 0, err
		}
		u.z = z
	}
	return u.z.Read(p)
}
