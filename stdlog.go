package till

import (
	"bytes"
	"io"
	"log"
	"sync"
)

// unsolicited is what net/http writes into the standard logger if an upstream goes on
// after its answer, on a connection that is kept; the upstream's text follows
// (Transport, readLoopPeekFailLocked). An upstream that repeats its request there would
// write the credential into Caddy's log, to which Caddy redirects that logger.
var unsolicited = []byte("Unsolicited response received on idle HTTP channel")

// muteUpstreams keeps such texts of upstreams out of the standard logger. Caddy redirects
// the logger when it loads a configuration, even one that fails, and again when one ends,
// so this is called whenever that may have happened, and before anything is sent.
func muteUpstreams() {
	if isMuted(log.Writer()) {
		return
	}
	muting.Lock()
	defer muting.Unlock()
	if w := log.Writer(); !isMuted(w) {
		log.SetOutput(mutedWriter{w})
	}
}

var muting sync.Mutex // so that no writer is muted twice

func isMuted(w io.Writer) bool {
	_, muted := w.(mutedWriter)
	return muted
}

// mutedWriter passes lines of the standard logger on, without what an upstream said.
type mutedWriter struct{ io.Writer }

func (w mutedWriter) Write(line []byte) (int, error) {
	if i := bytes.Index(line, unsolicited); i >= 0 {
		short := append(bytes.Clone(line[:i+len(unsolicited)]), "; what it says is left out, since it may hold a credential\n"...)
		if _, err := w.Writer.Write(short); err != nil {
			return 0, err
		}
		return len(line), nil
	}
	return w.Writer.Write(line)
}
