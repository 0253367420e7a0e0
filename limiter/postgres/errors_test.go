package postgres

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/store"
)

// TestWhatPassesDoesNotPoison: what the server says decides whether a transaction is run
// again, refused for now, or shows that the database is not what it was. The codes are those
// of PostgreSQL's appendix A that could pass by themselves, and some that do not.
func TestWhatPassesDoesNotPoison(t *testing.T) {
	t.Parallel()
	const again, once = true, false
	passes, lasts := store.ErrUnavailable, error(nil)
	s := &Store{where: "database till at db:5432"}
	for code, want := range map[string]struct {
		again bool
		is    error
		why   string
	}{
		// What others did meanwhile has come in the way.
		"40P01": {again, passes, "a deadlock"},
		"40001": {again, passes, "a serialization, or on a standby what has to be applied"},
		"23505": {again, passes, "another has made the row"},
		"55P03": {again, passes, "a lock takes too long"},
		"40000": {once, passes, "it was rolled back, for whatever reason"},
		"40002": {once, passes, "rolled back for a constraint; PostgreSQL never says so"},
		"72000": {once, passes, "what it reads was removed since: the next one reads a new state"},

		// The server has given the transaction up, or its connection.
		"25P03": {again, passes, "idle in a transaction for too long"},
		"25P04": {again, passes, "the transaction took too long, by a setting of the server"},
		"57P01": {again, passes, "an administrator, or the server is stopped"},
		"57P02": {again, passes, "another process of the server has crashed"},
		"57P05": {again, passes, "the connection was idle for too long, and nothing was begun"},
		"57P04": {once, passes, "the database was dropped: if it comes back as another one, that is found out"},
		"57014": {once, passes, "a statement takes too long: it would again"},
		"57000": {once, passes, "an operator"},

		// There is no server to begin with, or the wrong one.
		"57P03": {once, passes, "it starts, or stops"},
		"25006": {once, passes, "a standby, or a server that is made read-only"},
		"08000": {once, passes, "the connection, as poolers say it"},
		"08001": {once, passes, "the same"},
		"08003": {once, passes, "the same"},
		"08004": {once, passes, "the same"},
		"08006": {once, passes, "the same"},
		"08007": {once, passes, "the same, in the middle of a COMMIT: its outcome is asked for"},
		"40003": {once, passes, "the same"},
		"08P01": {once, passes, "pgbouncer's word for all that it refuses"},

		// The server lacks something.
		"53000": {once, passes, "it lacks something"},
		"53100": {once, store.ErrNoSpace, "space"},
		"53200": {once, passes, "memory, or room for locks"},
		"53300": {once, passes, "connections"},
		"53400": {once, passes, "temporary files are limited"},
		"54000": {once, passes, "room for notifications, or for transaction ids"},
		"58000": {once, passes, "the system beneath it"},
		"58030": {once, passes, "its disk"},
		"58P01": {once, passes, "a file that is missing, as while a disk is mounted"},
		"58P02": {once, passes, "a file that is in the way"},

		// Somebody has to do something, or the database is not what it was.
		"0A000": {once, lasts, "it cannot do this, except that a standby says so of BEGIN"},
		"25001": {once, lasts, "a transaction that is not ours runs on the connection"},
		"25P02": {once, lasts, "a statement has failed before, and was not noticed"},
		"26000": {once, lasts, "something tears round trips apart"},
		"22P02": {once, lasts, "a value that it does not understand"},
		"23502": {once, lasts, "the tables have other constraints than ours"},
		"42P01": {once, lasts, "the table is gone"},
		"42501": {once, lasts, "it may not be written to"},
		"42601": {once, lasts, "it understands another language"},
		"55000": {once, lasts, "an object is not as it should be; no statement of ours waits for that"},
		"P0001": {once, lasts, "somebody's trigger"},
		"XX000": {once, lasts, "it does not know what is wrong"},
		"XX001": {once, lasts, "it is damaged"},
		"XX002": {once, lasts, "an index is damaged"},
	} {
		f := faultOf(&pgconn.PgError{Code: code, Message: "no", SeverityUnlocalized: "ERROR"})
		if f.again() != want.again {
			t.Errorf("%s, %s: again is %v", code, want.why, f.again())
		}
		err := s.refuse(f)
		for _, class := range []error{store.ErrUnavailable, store.ErrNoSpace} {
			if errors.Is(err, class) != (want.is == class) {
				t.Errorf("%s, %s: %v, want %v", code, want.why, err, want.is)
			}
		}
		if away := awayOf(f); away.again() || !errors.Is(s.refuse(away), store.ErrUnavailable) && code != "53100" {
			t.Errorf("%s when connecting: %v", code, s.refuse(away))
		}
		if unknown := code == "08007" || code == "40003"; f.unknown() != unknown {
			t.Errorf("%s: the outcome of a COMMIT is unknown: %v", code, f.unknown())
		}
	}
	begin := &fault{code: "0A000", begins: true}
	if !begin.passes() || begin.again() || !begin.elsewhere() {
		t.Error("a standby that refuses to begin a transaction is no other server")
	}
}
