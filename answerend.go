package till

import (
	"errors"
	"io"
	"net/http"
)

// A client can know the end of its answer before the handler that wrote it returns:
// by its length, by the last event of a stream, by the end of an upgraded connection.
// The request stops counting against its key's max_concurrency just before that goes
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

// passed notes what goes on to the client.
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
