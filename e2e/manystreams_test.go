package e2e

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRevokingAKeyEndsAllOfAThousandStreams counts the streams that receive the
// reason, and checks that the answer states how many ended.
func TestRevokingAKeyEndsAllOfAThousandStreams(t *testing.T) {
	const streams = 1000
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": streams})
	var opened, ended sync.WaitGroup
	var told, broken atomic.Int64
	gate := make(chan struct{}, 50) // how many are being opened at a time
	opened.Add(streams)
	for range streams {
		ended.Go(func() {
			gate <- struct{}{}
			res, err := s.client.Do(s.streaming(context.Background(), key, 1_000_000, time.Minute))
			<-gate
			opened.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			// A stream that was broken off reports no reason, which is counted below.
			b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
			if strings.Contains(string(b), "till_key_revoked") {
				told.Add(1)
			} else if err != nil {
				broken.Add(1)
			}
		})
	}
	opened.Wait()
	began := time.Now()
	status, answer := s.api("POST", "/keys/"+id+"/revoke", object{})
	if status != 200 || answer["streams_cut"].(float64) != streams {
		t.Errorf("revoke: %d, cut %v", status, answer["streams_cut"])
	}
	ended.Wait()
	took := time.Since(began)
	t.Logf("%d streams ended %s after the call to revoke began", streams, took)
	// What has not been told within five seconds is broken off.
	if n := told.Load(); n != streams && (took < 5*time.Second || n+broken.Load() != streams) {
		t.Errorf("%d of %d streams were told why they end, and %d broken off", n, streams, broken.Load())
	}
}
