package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/store"
)

// fault is an error of the database, or of the way to it. The driver's own errors are
// not passed on: they carry the user, and in their fields the password.
type fault struct {
	code   string // SQLSTATE; empty: the connection has failed
	text   string
	killed bool // the connection has ended, too
	away   bool // there was no connection to begin with
	begins bool // it is about BEGIN: there is no transaction

	unvouched bool // other nodes have yet to vouch for the server
	left      bool // this node has left the server for another one
}

func (f *fault) Error() string {
	if f.code == "" {
		return f.text
	}
	return f.text + " (SQLSTATE " + f.code + ")"
}

var errAnswers = errors.New("the database has not answered each statement")

// faultOf says what an error of the driver is about.
func faultOf(err error) *fault {
	var known *fault
	if errors.As(err, &known) {
		return known
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		f := &fault{code: pg.Code, text: pg.Message, killed: pg.SeverityUnlocalized != "ERROR"}
		switch { // PostgreSQL's texts name the user
		case strings.HasPrefix(pg.Code, "28"):
			f.text = "the database refuses the user, the password, or the address of this machine"
		case pg.Code == "3D000":
			f.text = "the server has no database of this name"
		case pg.Code == "53300":
			f.text = "the server has no connection left for this user"
		}
		return f
	}
	return &fault{text: network(err), killed: true}
}

// network describes an error of a connection. Only texts that cannot contain a configured
// secret are passed on.
func network(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, errAllBusy), errors.Is(err, errPoolClosed), errors.Is(err, errAnswers):
		return err.Error()
	case errors.As(err, &dns):
		return "its host is not known: " + dns.Err
	case pgconn.Timeout(err), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "given up"
	case errors.As(err, &op):
		return op.Err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, pgconn.ErrConnClosed):
		return "the connection was closed"
	}
	for _, text := range texts(err) {
		for _, known := range []string{"tls: ", "x509: ", "server refused TLS", "read only connection", "server is in hot standby"} {
			if strings.HasPrefix(text, known) {
				return text
			}
		}
	}
	return "the connection failed"
}

// texts are the texts of an error and of all errors that it wraps.
func texts(err error) []string {
	all := []string{err.Error()}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if next := e.Unwrap(); next != nil {
			all = append(all, texts(next)...)
		}
	case interface{ Unwrap() []error }:
		for _, next := range e.Unwrap() {
			all = append(all, texts(next)...)
		}
	}
	return all
}

// without returns the fault without the name of a user.
func (f *fault) without(user string) *fault {
	if quoted := `"` + user + `"`; strings.Contains(f.text, quoted) {
		hidden := *f
		hidden.text = strings.ReplaceAll(f.text, quoted, "of this node")
		return &hidden
	}
	return f
}

// again reports whether a transaction that has failed like this may succeed if it is run
// again at once: it was in another's way, or its connection led to a server that is gone.
func (f *fault) again() bool {
	if f.away {
		return false
	}
	switch f.code {
	case "", "40P01", "40001", "23505", "55P03", "25P03", "25P04", "57P01", "57P02", "57P05":
		return true
	}
	return false
}

// elsewhere reports whether the connection was lost, or may lead to another server than the
// present one.
func (f *fault) elsewhere() bool {
	return f.killed || f.refused() || f.code == "25006" || f.standby()
}

// refused reports whether this node refuses to use the server. Another look may find one
// that it uses.
func (f *fault) refused() bool { return f.unvouched || f.left }

// standby reports whether a server that has not taken over has refused to begin a
// transaction that writes. Within another transaction, its refusals have the code 25006.
func (f *fault) standby() bool { return f.begins && f.code == "0A000" }

// unknown reports whether the outcome of a COMMIT is unknown: nobody has answered, or
// something in front of the server says so.
func (f *fault) unknown() bool { return f.killed || f.code == "08007" || f.code == "40003" }

// passes reports whether a later transaction may succeed, though this one has not.
func (f *fault) passes() bool {
	if f.away || f.standby() {
		return true
	}
	switch f.code[:min(2, len(f.code))] {
	case "", "08", "40", "53", "57", "58":
		return true
	}
	switch f.code {
	case "23505", "25006", "25P03", "25P04", "54000", "55P03", "72000": // 54000: too many notifications wait
		return true
	}
	return false
}

// refuse is the error of a transaction of which nothing remains.
func (s *Store) refuse(err error) error {
	f := faultOf(err)
	switch {
	case f.code == "53100":
		return fmt.Errorf("%w: %s: %w", store.ErrNoSpace, s.where, f)
	case f.passes():
		return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, s.where, f)
	}
	return fmt.Errorf("%s: %w", s.where, f)
}

// awayOf is the fault of having no connection.
func awayOf(err error) *fault {
	f := *faultOf(err)
	f.away = true
	return &f
}

// loss is the doubt about a database that went back in time. All nodes have to know of
// it, even those whose own commits are all there.
type loss struct{ why string }

func (l *loss) Error() string {
	return fmt.Sprintf("%v: %s; put the newest copy of the database in its place, or count every remaining budget as spent with: caddy till repair --forfeit",
		store.ErrDoubt, l.why)
}

func (l *loss) Unwrap() error { return store.ErrDoubt }

// doubt is the error of a database that went back in time.
func doubt(format string, args ...any) error { return &loss{fmt.Sprintf(format, args...)} }

// errRepaired is the error of a session that was begun before a repair.
var errRepaired = fmt.Errorf("%w: the database was repaired, and is opened again", store.ErrDoubt)

// errTaken is the error of a process whose node now belongs to another process, or to none.
var errTaken = errors.New("another process has taken this node's name, or the node was removed while it had lost touch with the database: it joins again; give each node a name of its own")

var errNotJoined = errors.New("the node has not joined the others yet")
