package admin

import (
	"errors"
	"net/http"
	"time"
)

// download writes an answer of any length that is read from the store as of one
// moment. While that goes on the store can neither be closed, as it must be to
// open again after a failure, nor forget what is newer; so a reader who stops or
// is slower than downloadSpeed is dropped.
type download struct {
	http.ResponseWriter
	deadline *http.ResponseController
	began    time.Time
	written  int64
}

const (
	// downloadPatience is how long a reader may lag behind.
	downloadPatience = 30 * time.Second
	// downloadSpeed is what is expected of a reader, in bytes a second.
	downloadSpeed = 128 << 10
)

func newDownload(w http.ResponseWriter) *download {
	return &download{ResponseWriter: w, deadline: http.NewResponseController(w), began: time.Now()}
}

// Write implements io.Writer.
func (d *download) Write(b []byte) (int, error) {
	due := d.began.Add(downloadPatience + time.Duration(d.written/downloadSpeed)*time.Second)
	if err := d.until(due); err != nil {
		return 0, err
	}
	n, err := d.ResponseWriter.Write(b)
	d.written += int64(n)
	return n, err
}

// end lets the connection be used for another call.
func (d *download) end() error { return d.until(time.Time{}) }

func (d *download) until(due time.Time) error {
	if err := d.deadline.SetWriteDeadline(due); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
