package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

// unit is what progress counts: a plural noun, or bytes.
type unit string

const (
	inBytes unit = "bytes"
	inKeys  unit = "keys"

	inRecords unit = "records"
	inEntries unit = "entries"
)

// progress shows the progress of long work on one line of a terminal, which it
// removes when the work is done. In a pipe, and on a terminal that cannot redraw a
// line, it prints nothing. Its methods may be called from several goroutines.
//
//	p := showProgress(cmd.ErrOrStderr(), "Revoking", inKeys)
//	defer p.end()
//	p.of(matched)
//	p.add(100)
type progress struct {
	what string
	unit unit

	done, total atomic.Int64 // a total of 0 is not known

	w             io.Writer // nil: silent
	columns       func() int
	began         time.Time
	stop, stopped chan struct{}
}

const (
	progressEvery = 100 * time.Millisecond
	// progressAfter keeps short work from flickering.
	progressAfter = 300 * time.Millisecond
	clearLine     = "\r\x1b[K"
)

// showProgress begins to show work on w. The caller must call end.
func showProgress(w io.Writer, what string, u unit) *progress {
	p := &progress{what: what, unit: u, began: time.Now()}
	file, ok := terminal(w)
	if !ok {
		return p
	}
	p.w = file
	p.columns = func() int { return columnsOf(file) }
	p.stop, p.stopped = make(chan struct{}), make(chan struct{})
	go p.run()
	return p
}

// terminal returns the file behind w if it is a terminal that can redraw a line.
func terminal(w io.Writer) (*os.File, bool) {
	file, ok := fileOf(w)
	if !ok || !term.IsTerminal(int(file.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil, false
	}
	return file, true
}

// columnsOf returns the present width of a terminal.
func columnsOf(file *os.File) int {
	if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
		return width
	}
	return tableWidth
}

// of sets how much there is to do in total.
func (p *progress) of(total int64) { p.total.Store(total) }

func (p *progress) set(done int64) { p.done.Store(done) }

func (p *progress) add(n int64) { p.done.Add(n) }

// Write counts bytes, as one of the writers of an io.MultiWriter.
func (p *progress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

// end removes the line. It may be called more than once, but only by one goroutine.
func (p *progress) end() {
	if p.w == nil {
		return
	}
	close(p.stop)
	<-p.stopped
	p.w = nil
}

func (p *progress) run() {
	defer close(p.stopped)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	shown := false
	for {
		select {
		case now := <-tick.C:
			passed := now.Sub(p.began)
			if passed < progressAfter {
				continue
			}
			// A terminal that has gone is no reason to stop the work.
			_, _ = io.WriteString(p.w, clearLine+p.line(passed, p.columns()-1))
			shown = true
		case <-p.stop:
			if shown {
				_, _ = io.WriteString(p.w, clearLine)
			}
			return
		}
	}
}

// line returns the line that is shown, with a bar and the time left if the total is
// known. Parts at its end that do not fit are left out.
func (p *progress) line(passed time.Duration, columns int) string {
	done, total := p.done.Load(), p.total.Load()
	parts := []string{p.what}
	switch {
	case total > 0:
		done = min(done, total)
		parts = append(parts, meter(done, total, 20), fmt.Sprintf("%3d%%", percent(done, total)), p.amount(done)+" of "+p.amount(total)+p.noun())
		if done > 0 && done < total {
			left := time.Duration(float64(passed) / float64(done) * float64(total-done))
			parts = append(parts, clock(left)+" left")
		}
	case done > 0:
		parts = append(parts, p.amount(done)+p.noun(), clock(passed))
	default:
		parts = append(parts, clock(passed))
	}
	line := parts[0]
	for _, part := range parts[1:] {
		if len(line)+2+len(part) > columns {
			break
		}
		line += "  " + part
	}
	if len(line) > columns {
		line = line[:max(columns, 0)]
	}
	return line
}

func (p *progress) amount(n int64) string {
	if p.unit == inBytes {
		return humanize.Bytes(uint64(n))
	}
	return humanize.Comma(n)
}

func (p *progress) noun() string {
	if p.unit == inBytes {
		return ""
	}
	return " " + string(p.unit)
}

// meter draws a bar of how much is done. It is full only if everything is.
func meter(done, total int64, width int) string {
	filled := int(float64(width) * float64(done) / float64(total))
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", width-filled) + "]"
}

// percent rounds down, so that 100 means everything.
func percent(done, total int64) int64 { return int64(float64(done) / float64(total) * 100) }

// clock writes a duration in a short form: 4s, 2m10s, 3h05m.
func clock(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
