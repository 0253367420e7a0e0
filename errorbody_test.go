package till

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowly returns the given pieces, and waits before each.
type slowly struct {
	pieces []string
	wait   time.Duration
	err    error
}

func (s *slowly) Read(p []byte) (int, error) {
	time.Sleep(s.wait)
	if len(s.pieces) == 0 {
		return 0, s.err
	}
	n := copy(p, s.pieces[0])
	s.pieces[0] = s.pieces[0][n:]
	if s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func TestTheBeginningOfAnErrorIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken off")
	for name, test := range map[string]struct {
		body  slowly
		head  string // what arrives in time
		err   error
		took  time.Duration
		rest  string
		later error
	}{
		"whole":              {slowly{[]string{"abc", "def"}, 0, io.EOF}, "abcdef", io.EOF, 0, "", nil},
		"nothing":            {slowly{nil, 0, io.EOF}, "", io.EOF, 0, "", nil},
		"broken off":         {slowly{[]string{"abc"}, 0, broken}, "abc", broken, 0, "", nil},
		"long":               {slowly{[]string{strings.Repeat("x", 25)}, 0, io.EOF}, strings.Repeat("x", 20), nil, 0, "xxxxx", nil},
		"slow":               {slowly{[]string{"abc", "def", "ghi"}, 4 * time.Second, io.EOF}, "abc", nil, 5 * time.Second, "defghi", nil},
		"slow, and an end":   {slowly{[]string{"abc", "def"}, 2 * time.Second, io.EOF}, "abcdef", nil, 5 * time.Second, "", nil},
		"slow, and no end":   {slowly{[]string{"abc"}, 4 * time.Second, broken}, "abc", nil, 5 * time.Second, "", broken},
		"nothing for a time": {slowly{[]string{"abc"}, time.Minute, io.EOF}, "", nil, 5 * time.Second, "abc", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				head, rest, err := readHead(&test.body, 20, 5*time.Second)
				if string(head) != test.head || err != test.err || time.Since(began) != test.took {
					t.Fatalf("%q, %v after %v; want %q, %v after %v", head, err, time.Since(began), test.head, test.err, test.took)
				}
				if err != nil {
					return
				}
				var got strings.Builder
				n, err := io.CopyBuffer(struct{ io.Writer }{&got}, rest, make([]byte, 2))
				if got.String() != test.rest || err != test.later {
					t.Errorf("then %q (%d bytes), %v; want %q, %v", got.String(), n, err, test.rest, test.later)
				}
			})
		})
	}
}

// panicking is a decoder with a bug.
type panicking struct{ after time.Duration }

func (p panicking) Read([]byte) (int, error) {
	time.Sleep(p.after)
	panic("index out of range")
}

func TestADecoderThatPanicsDoesNotTakeTheProcessWithIt(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"at once": 0, "while it is late": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer func() {
					if v := recover(); v != "index out of range" {
						t.Errorf("the handler's goroutine got %v", v)
					}
				}()
				_, rest, err := readHead(panicking{after}, 20, 5*time.Second)
				if err != nil || after == 0 {
					t.Fatalf("read: %v", err)
				}
				_, err = rest.Read(make([]byte, 1))
				t.Fatalf("read on: %v", err)
			})
		})
	}
}

func TestErrorsInForeignCharacterSetsAreKnown(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]bool{
		"":                                      true,
		"application/json":                      true,
		"text/html; charset=utf-8":              true,
		"text/html; charset=\"UTF-8\"":          true,
		"text/html;charset=ISO-8859-1":          true,
		"application/json; charset=utf-16le":    true,
		"text/plain; charset=us-ascii":          true,
		"text/plain; charset=":                  false,
		"text/plain; charset=utf-7":             false,
		"text/plain; Charset=UTF-7":             false,
		"text/plain; charset=unicode-1-1-utf-7": false,
		"text/plain; charset=ibm037":            false,
		"text/plain; charset*=utf-8''utf-7":     false,
		"text/plain; charset=utf-8; charset=x":  false,
	} {
		for _, lines := range [][]string{{contentType}, {"text/html; charset=utf-8", contentType}, {contentType, "text/html"}} {
			if got := allSpellASCII(lines); got != want {
				t.Errorf("%q: %t", lines, got)
			}
		}
	}
	if !allSpellASCII(nil) {
		t.Error("what says nothing is refused")
	}
}
