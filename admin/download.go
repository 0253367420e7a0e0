package admin

import (
	"bufio"
	"errors"
	"net/http"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// download writes an answer of any length from a snapshot of the store. While it
// runs, the store can neither be closed, which reopening it after a failure
// requires, nor drop the versions that were written since. Therefore a reader that
// stops, or is slower than downloadSpeed, is disconnected.
type download struct {
	http.ResponseWriter
	deadline *http.ResponseController
	began    time.Time
	begun    bool // something was written, or tried to be
	written  int64
}

const (
	// downloadPatience is how far a reader may fall behind downloadSpeed.
	downloadPatience = 30 * time.Second
	// downloadSpeed is how fast a reader must read, in bytes per second.
	downloadSpeed = 128 << 10
)

func newDownload(w http.ResponseWriter) *download {
	return &download{ResponseWriter: w, deadline: http.NewResponseController(w), began: time.Now()}
}

// Write implements io.Writer.
func (d *download) Write(b []byte) (int, error) {
	d.begun = true
	due := d.began.Add(downloadPatience + time.Duration(d.written/downloadSpeed)*time.Second)
	if err := d.until(due); err != nil {
		return 0, err
	}
	n, err := d.ResponseWriter.Write(b)
	d.written += int64(n)
	return n, err
}

// end removes the deadline, so that the connection can serve another call.
func (d *download) end() error { return d.until(time.Time{}) }

func (d *download) until(due time.Time) error {
	if err := d.deadline.SetWriteDeadline(due); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// backup streams a backup to the caller. A backup that breaks off lacks its
// checksum, so it cannot be mistaken for a complete one.
func (a *api) backup(l *limiter.Limiter, w http.ResponseWriter, r *http.Request) {
	if a.backend.Node() != "" && a.caller.Role == record.OperatorRole {
		a.fail(w, &apiError{http.StatusConflict, "database", "the store is a PostgreSQL database: back it up by its own means, such as pg_dump --schema=till, or continuous archiving; see docs/cluster.md"})
		return
	}
	seal, err := onlyParameter(r, "seal")
	withSalts := seal == "true"
	if !withSalts && seal != "" && seal != "false" {
		err = invalid("seal must be true or false, got %q", seal)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	announce(w, "application/octet-stream")
	out := newDownload(w)
	keys, err := l.Backup(r.Context(), a.caller, out, withSalts)
	if err != nil && !out.begun {
		a.fail(w, err)
		return
	}
	if err == nil {
		err = out.end()
	}
	if err != nil {
		a.log.Error("a backup broke off", "by", a.caller.Name, "error", err)
		panic(http.ErrAbortHandler)
	}
	a.log.Info("a backup was taken", "by", a.caller.Name, "keys", keys, "with_salts", withSalts)
}

// exportAudit streams the entire log, one entry per line. If the export breaks off,
// it aborts the connection, so that the part cannot be mistaken for the complete
// log.
func (a *api) exportAudit(l *limiter.Limiter, w http.ResponseWriter, r *http.Request) {
	announce(w, "application/jsonl")
	reader := newDownload(w)
	out := bufio.NewWriterSize(reader, 64<<10)
	begun := false
	err := l.ExportAudit(r.Context(), a.caller, func(line []byte) error {
		begun = true
		if _, err := out.Write(line); err != nil {
			return err
		}
		return out.WriteByte('\n')
	})
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = reader.end()
	}
	switch {
	case err != nil && !begun:
		a.fail(w, err)
	case err != nil:
		a.log.Error("an export of the audit log broke off", "by", a.caller.Name, "error", err)
		panic(http.ErrAbortHandler)
	}
}
