package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowReader reads a number of bytes per second, and nothing after its deadline.
type slowReader struct {
	httptest.ResponseRecorder
	speed    int64 // 0: the reader has stopped
	deadline time.Time
	taken    int64
}

func (s *slowReader) SetWriteDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

func (s *slowReader) Write(b []byte) (int, error) {
	if s.speed == 0 {
		if s.deadline.IsZero() {
			return len(b), nil // it would hang here for ever
		}
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(time.Duration(int64(len(b))*1000/s.speed) * time.Millisecond) // as a slow connection does
	if time.Now().After(s.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	s.taken += int64(len(b))
	return len(b), nil
}

func TestAReaderWhoStopsDoesNotHoldTheStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	for _, path := range []string{"/backup", "/audit/export"} {
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("GET %s to a reader who has stopped: %v", path, v)
				}
			}()
			reader := &slowReader{ResponseRecorder: *httptest.NewRecorder()}
			w.Handler.ServeHTTP(reader, httptest.NewRequest("GET", path, nil))
		}()
	}
}

func TestABackupThatCannotBeginSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Shut()
	w.Closed = false // the store is closed between two lines of the call
	defer func() { w.Closed = true }()
	a := w.Do("GET", "/backup", "")
	if code, _ := a.Fault(t); a.Status != http.StatusServiceUnavailable || code != "store_unavailable" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

func TestOnlyAReaderWhoIsTooSlowIsDropped(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		speed    int64 // bytes a second
		complete bool
	}{{1 << 10, false}, {64 << 10, false}, {256 << 10, true}, {64 << 20, true}} {
		t.Run(fmt.Sprint(test.speed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reader := &slowReader{speed: test.speed}
				out := newDownload(reader)
				const size = 64 << 20
				began := time.Now()
				var err error
				for chunk := []byte(strings.Repeat("x", 64<<10)); err == nil && out.written < size; {
					_, err = out.Write(chunk)
				}
				if complete := err == nil && reader.taken == size; complete != test.complete {
					t.Errorf("%d bytes in %s, then %v", reader.taken, time.Since(began), err)
				}
				if err := out.end(); err != nil || !reader.deadline.IsZero() {
					t.Errorf("the next call on the connection ends at %s, %v", reader.deadline, err)
				}
			})
		})
	}
}
