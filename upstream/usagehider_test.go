package upstream

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const usageEvent = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n"

// pieces reads in pieces of n bytes.
type pieces struct {
	r io.Reader
	n int
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }

func hidden(t testing.TB, stream string, n int) string {
	t.Helper()
	b, err := io.ReadAll(NewMeter(true).Hide(io.NopCloser(pieces{strings.NewReader(stream), n})))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOnlyTheEventOfUsageAloneIsHidden(t *testing.T) {
	t.Parallel()
	const part = "data: {\"id\":\"x\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}],\"usage\":null}\n\n"
	const last = "data: [DONE]\n\n"
	for name, test := range map[string]struct{ stream, want string }{
		"at the end":           {part + usageEvent + last, part + last},
		"in the middle":        {part + usageEvent + part + last, part + part + last},
		"with other line ends": {strings.ReplaceAll(part+usageEvent+last, "\n", "\r\n"), strings.ReplaceAll(part+last, "\n", "\r\n")},
		"usage with a choice":  {"data: {\"choices\":[{}],\"usage\":{}}\n\n" + last, "data: {\"choices\":[{}],\"usage\":{}}\n\n" + last},
		"no usage":             {part + last, part + last},
		"a comment":            {": usage\n\n" + part, ": usage\n\n" + part},
		"an end that is cut":   {part + usageEvent + "data: {\"cut", part + "data: {\"cut"},
		"an error":             {part + "data: {\"error\":{\"message\":\"usage\"}}\n\n", part + "data: {\"error\":{\"message\":\"usage\"}}\n\n"},
		"a very long event":    {"data: " + strings.Repeat("x", 3<<20) + "\n\n" + usageEvent, "data: " + strings.Repeat("x", 3<<20) + "\n\n"},
		"nothing":              {"", ""},
		// cline#8518, ROCm/ATOM#1711, and what HTML's text on event streams allows.
		"choices are null":           {part + "data: {\"choices\":null,\"usage\":{\"prompt_tokens\":1}}\n\n" + last, part + last},
		"no choices":                 {part + "data: {\"object\":\"chat.completion.chunk\",\"usage\":{\"prompt_tokens\":1}}\n\n" + last, part + last},
		"a name and an id before":    {part + "event: message\nid: 7\n" + usageEvent + last, part + last},
		"a name behind":              {part + strings.TrimSuffix(usageEvent, "\n") + "event: message\n\n" + last, part + last},
		"a comment before":           {part + ": ping\n" + usageEvent + last, part + last},
		"several lines of data":      {part + "data: {\"choices\":[],\ndata:\"usage\":\ndata:{\"prompt_tokens\":1}}\n\n" + last, part + last},
		"carriage returns":           {strings.ReplaceAll(part+usageEvent+last, "\n", "\r"), strings.ReplaceAll(part+last, "\n", "\r")},
		"a byte order mark":          {"\ufeff" + usageEvent + last, last},
		"an error that says its use": {part + "data: {\"error\":{\"code\":502},\"usage\":{\"prompt_tokens\":1}}\n\n", part + "data: {\"error\":{\"code\":502},\"usage\":{\"prompt_tokens\":1}}\n\n"},
		"a JSON text":                {"{\n\n\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n", "{\n\n\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n"},
		"no events":                  {"<p>usage</p>\n\n" + usageEvent, "<p>usage</p>\n\n" + usageEvent},
	} {
		for _, n := range []int{1, 3, 100, 4096, 1 << 20} {
			if n < 100 && len(test.stream) > 1<<20 {
				continue
			}
			if got := hidden(t, test.stream, n); got != test.want {
				t.Errorf("%s, by %d bytes: %.300q, want %.300q", name, n, got, test.want)
			}
		}
	}
}

func TestAWholeEventIsNotHeldUp(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	stream := NewMeter(true).Hide(r)
	go func() {
		for range 3 {
			if _, err := io.WriteString(w, "data: {\"choices\":[{}]}\n\n"); err != nil {
				return
			}
			// The next comes only when this was read: see below.
		}
	}()
	b := make([]byte, 1000)
	for range 3 {
		if n, err := stream.Read(b); err != nil || string(b[:n]) != "data: {\"choices\":[{}]}\n\n" {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	broken := NewMeter(true).Hide(io.NopCloser(io.MultiReader(strings.NewReader("data: half"), iotest.ErrReader(io.ErrUnexpectedEOF))))
	if got, err := io.ReadAll(broken); err != io.ErrUnexpectedEOF || string(got) != "data: half" {
		t.Errorf("a stream that breaks off: %q, %v", got, err)
	}
}

// TestWhatIsNoStreamOfEventsIsNotHeldUp for the end of an event that never comes.
func TestWhatIsNoStreamOfEventsIsNotHeldUp(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	stream := NewMeter(true).Hide(r)
	go func() {
		for range 3 {
			if _, err := io.WriteString(w, "{\"choices\": "); err != nil {
				return
			}
		}
	}()
	b := make([]byte, 20)
	for range 3 {
		if n, err := stream.Read(b); err != nil || string(b[:n]) != "{\"choices\": " {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzHideUsage(f *testing.F) {
	f.Add("data: {\"choices\":[{}]}\n\n"+usageEvent+"data: [DONE]\n\n", 7)
	f.Add("a\n\r\n\"usage\"\n\n\n", 1)
	f.Fuzz(func(t *testing.T, stream string, n int) {
		n = 1 + max(n, 0)%5000
		got := hidden(t, stream, n)
		if whole := hidden(t, stream, len(stream)+1); got != whole {
			t.Errorf("%q: %q by %d bytes, %q at once", stream, got, n, whole)
		}
		if !strings.Contains(stream, "usage") && got != stream {
			t.Errorf("%q becomes %q", stream, got)
		}
	})
}
