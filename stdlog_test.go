package till

import (
	"io"
	"log"
	"strings"
	"testing"
)

// TestTheStandardLoggerDoesNotRepeatUpstreams, wherever Caddy redirects it, and however
// often it is muted.
func TestTheStandardLoggerDoesNotRepeatUpstreams(t *testing.T) { //nolint:paralleltest // there is one logger
	before, flags := log.Writer(), log.Flags()
	t.Cleanup(func() { log.SetOutput(before); log.SetFlags(flags) })
	log.SetFlags(0)
	for range 2 {
		var out strings.Builder
		log.SetOutput(&out) // as Caddy does
		for range 3 {
			muteUpstreams()
		}
		if w, ok := log.Writer().(mutedWriter); !ok || w.Writer != io.Writer(&out) {
			t.Fatalf("the writer is %T", log.Writer())
		}
		log.Printf("Unsolicited response received on idle HTTP channel starting with %q; err=%v", "you sent sk-real", nil)
		log.Print("something else")
		if got := out.String(); strings.Contains(got, "sk-real") || !strings.HasPrefix(got, "Unsolicited response received on idle HTTP channel;") || !strings.HasSuffix(got, "\nsomething else\n") {
			t.Errorf("%q", got)
		}
	}
}
