package till

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// leaver is a request of a key with a limit, whose client can go away.
type leaver struct {
	x      *exchange
	leave  context.CancelFunc
	ctx    context.Context // of the request to the upstream
	cancel context.CancelFunc
}

func newLeaver(t *testing.T, client context.Context, drain time.Duration) *leaver {
	t.Helper()
	client, leave := context.WithCancel(client)
	x := &exchange{clientCtx: client, target: &target{preset: &upstream.Preset{}, drain: drain}, credential: newCredential(token.NewSecret("sk-real-0123456789")), usage: &usage{
		estimate: &upstream.Estimate{Answers: 1, Permille: 1000, Asked: 1000}, input: 1000, natural: 100, output: -1,
	}}
	x.dispatched.Store(true)
	l := &leaver{x: x, leave: leave}
	l.ctx, l.cancel = x.outlive(client)
	t.Cleanup(l.cancel)
	t.Cleanup(leave)
	return l
}

// over reports whether the round trip was ended.
func (l *leaver) over() bool {
	synctest.Wait()
	return l.ctx.Err() != nil
}

// body returns an answer whose lines arrive at the given interval.
func (l *leaver) body(stream string, every time.Duration) *answerBody {
	l.x.usage.meter = upstream.NewMeter(true)
	lines := &slowLines{ctx: l.ctx, every: every, lines: strings.SplitAfter(stream, "\n")}
	return &answerBody{ReadCloser: &meteredBody{ReadCloser: lines, u: l.x.usage}, x: l.x, cancel: l.cancel}
}

// slowLines returns one line at a time, and ends with its request.
type slowLines struct {
	ctx   context.Context
	every time.Duration
	lines []string
	given int
	ended bool // it was closed
}

func (s *slowLines) Read(p []byte) (int, error) {
	select {
	case <-time.After(s.every):
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
	if s.given == len(s.lines) {
		return 0, io.EOF
	}
	s.given++
	return copy(p, s.lines[s.given-1]), nil
}

func (s *slowLines) Close() error {
	s.ended = true
	return nil
}

func TestARequestOutlivesItsClientForAsLongAsTheDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLeaver(t, context.Background(), 5*time.Second)
		time.Sleep(time.Minute)
		if l.over() {
			t.Fatal("it ended, and nobody has left")
		}
		l.leave()
		time.Sleep(5*time.Second - 1)
		if l.over() {
			t.Fatal("it ended too early")
		}
		time.Sleep(time.Nanosecond)
		if !l.over() {
			t.Error("it goes on")
		}
	})
}

func TestARequestEndsWithItsClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		drain time.Duration
		but   func(x *exchange)
	}{
		{"that has no limit in tokens or dollars", time.Second, func(x *exchange) { x.usage = nil }},
		{"with drain 0", 0, nil},
		{"that never left", time.Second, func(x *exchange) { x.dispatched.Store(false) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLeaver(t, context.Background(), test.drain)
				if test.but != nil {
					l.cancel()
					test.but(l.x)
					client, leave := context.WithCancel(context.Background())
					l.leave = leave
					l.ctx, l.cancel = l.x.outlive(client)
					defer l.cancel()
				}
				l.leave()
				if !l.over() {
					t.Error("it goes on")
				}
			})
		})
	}
}

func TestADrainEndsAtOnceWhenItsKeyIsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLeaver(t, context.Background(), time.Hour)
		if !l.x.begin(l.cancel) {
			t.Fatal("it was cut")
		}
		body := l.body("data: {}\n", time.Minute)
		l.leave()
		began := time.Now()
		time.AfterFunc(time.Second, func() { l.x.stop(&record.Refusal{}) })
		if err := body.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it ended after %s", took)
		}
	})
}

// TestADeadlineIsNoClientThatLeft: a deadline is there to end the request.
func TestADeadlineIsNoClientThatLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l := newLeaver(t, client, time.Hour)
		time.Sleep(time.Second)
		if !l.over() || !errors.Is(l.ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("it ended with %v", l.ctx.Err())
		}
	})
}

// TestOnlySoManyAreReadOnAtATime, of one key and of all. It is not parallel, because it
// takes every place.
func TestOnlySoManyAreReadOnAtATime(t *testing.T) {
	for name, test := range map[string]struct {
		key   string // of the last place
		taken int
		by    func(i int) (key string)
	}{
		"of the process": {"key_new", maxDrains - 1, func(i int) string { return fmt.Sprint("key_", i/maxDrainsOfKey) }},
		"of a key":       {"key_x", maxDrainsOfKey - 1, func(int) string { return "key_x" }},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range test.taken {
				if !drains.take(test.by(i)) {
					t.Fatalf("the place %d is taken", i)
				}
				defer drains.give(test.by(i))
			}
			synctest.Test(t, func(t *testing.T) {
				leaver := func(key string) *leaver {
					l := newLeaver(t, context.Background(), time.Second)
					l.x.usage.family = key
					l.leave()
					return l
				}
				one := leaver(test.key)
				if one.over() {
					t.Error("the last place was not given")
				}
				other := leaver(test.key)
				if !other.over() {
					t.Error("there is no place, and it goes on")
				}
				if of := leaver("key_other"); of.over() != (test.taken == maxDrains-1) {
					t.Errorf("another key's ended: %v", of.over())
				}
				other.cancel()
				one.cancel()
				one.cancel()
				if leaver(test.key).over() {
					t.Error("the place was not given back, or twice")
				}
			})
			if n := drains.taken(); n != test.taken {
				t.Errorf("%d places are taken, want %d", n, test.taken)
			}
		})
	}
	if n := drains.taken(); n != 0 || len(drains.of) != 0 {
		t.Errorf("%d places are taken, by %d keys", n, len(drains.of))
	}
}

// TestALeaverPaysWhatTheAnswerSaysInTime, in whichever call the client's absence is
// noticed; nothing that arrives afterwards is passed on.
func TestALeaverPaysWhatTheAnswerSaysInTime(t *testing.T) {
	t.Parallel()
	const (
		words = "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n"
		usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n"
		done  = "data: [DONE]\n"
	)
	for _, test := range []struct {
		name, stream string
		every        time.Duration
		leaves       time.Duration // when the client, which reads until then, leaves
		want         int64
		takes        time.Duration // at most, after it left
	}{
		{"before the first word", words + words + usage + done, time.Second, 500 * time.Millisecond, 15, 4 * time.Second},
		{"in the middle", words + words + words + usage + done, time.Second, 1500 * time.Millisecond, 15, 4 * time.Second},
		{"after the last word", words + usage + done, time.Second, 1500 * time.Millisecond, 15, 2 * time.Second},
		{"after the last event", words + usage + done, time.Second, 3500 * time.Millisecond, 15, 0},
		{"long before the end", strings.Repeat(words, 100) + usage + done, time.Second, 1500 * time.Millisecond, 1100, 5 * time.Second},
		{"of one that goes silent", words + words, time.Hour, time.Hour + 1, 1100, 5 * time.Second},
		{"of one that ends without a word about it", words + words, time.Second, 1500 * time.Millisecond, 1100, 3 * time.Second},
	} {
		for _, reads := range []bool{true, false} {
			t.Run(test.name+map[bool]string{true: ", while it is read", false: ", and only its body is closed"}[reads], func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					l := newLeaver(t, context.Background(), 5*time.Second)
					body := l.body(test.stream, test.every)
					lines := body.ReadCloser.(*meteredBody).ReadCloser.(*slowLines)
					began := time.Now()
					time.AfterFunc(test.leaves, l.leave)
					for p := make([]byte, 512); ; {
						if !reads && time.Since(began)+test.every > test.leaves {
							time.Sleep(test.leaves - time.Since(began))
							break
						}
						n, err := body.Read(p)
						if time.Since(began) >= test.leaves && n > 0 {
							t.Errorf("passed on after it left: %q", p[:n])
						}
						if err != nil {
							if !errors.Is(err, context.Canceled) && err != io.EOF {
								t.Error(err)
							}
							break
						}
					}
					if err := body.Close(); err != nil || !lines.ended {
						t.Errorf("closed %v: %v", lines.ended, err)
					}
					if took := time.Since(began) - test.leaves; took > test.takes {
						t.Errorf("it ended %s after the client left, want at most %s", took, test.takes)
					}
					if tokens, _, _ := l.x.usage.used(200); tokens != test.want {
						t.Errorf("charged %d tokens, want %d", tokens, test.want)
					}
					if !l.over() {
						t.Error("the round trip goes on")
					}
				})
			})
		}
	}
}

// TestAnEndlessAnswerIsNotReadOnForEver counts what is read of such an answer.
func TestAnEndlessAnswerIsNotReadOnForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLeaver(t, context.Background(), time.Hour)
		l.x.usage.meter = upstream.NewMeter(true)
		endless := &endlessBody{}
		body := &answerBody{ReadCloser: &meteredBody{ReadCloser: endless, u: l.x.usage}, x: l.x, cancel: l.cancel}
		l.leave()
		if err := body.Close(); err != nil {
			t.Error(err)
		}
		if endless.read < maxDrained || endless.read > maxDrained+drainBuffer {
			t.Errorf("%d bytes were read", endless.read)
		}
	})
}

type endlessBody struct{ read int }

func (b *endlessBody) Read(p []byte) (int, error) {
	b.read += len(p)
	return len(p), nil
}
func (b *endlessBody) Close() error { return nil }

// TestARequestThatNobodyEndsEndsWithItsHandler: what panics between the answer and the client
// leaves the body open. A place to drain in would be lost for ever.
func TestARequestThatNobodyEndsEndsWithItsHandler(t *testing.T) {
	t.Parallel()
	for name, leaves := range map[string]func(*leaver){
		"while it drains": func(l *leaver) {
			l.leave()
			l.over()
			l.x.handlerDone()
		},
		"and its client leaves later": func(l *leaver) {
			l.x.handlerDone()
			l.leave()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLeaver(t, context.Background(), time.Minute)
				l.x.usage.family = t.Name()
				l.x.begin(l.cancel)
				leaves(l)
				if !l.over() {
					t.Error("the round trip goes on")
				}
				drains.mu.Lock()
				defer drains.mu.Unlock()
				if n := drains.of[t.Name()]; n != 0 {
					t.Errorf("it keeps %d places", n)
				}
			})
		})
	}
}
