package postgres

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/store"
)

// TestWhatPassesDoesNotPoison: what the server says decides whether a transaction is run
// again, refused for now, or shows that the database is not what it was.
func TestWhatPassesDoesNotPoison(t *testing.T) {
	t.Parallel()
	s := &Store{where: "database till at db:5432"}
	for code, want := range map[string]struct {
		again bool
		is    error // nil: an error that lasts
	}{
		"40P01": {true, store.ErrUnavailable}, // deadlock
		"40001": {true, store.ErrUnavailable}, // serialization
		"23505": {true, store.ErrUnavailable}, // another has made the row
		"55P03": {true, store.ErrUnavailable}, // a lock takes too long
		"25P03": {true, store.ErrUnavailable}, // idle in a transaction
		"57P01": {true, store.ErrUnavailable}, // the server is stopped
		"57P02": {true, store.ErrUnavailable}, // the server crashes
		"57P03": {false, store.ErrUnavailable},
		"57014": {false, store.ErrUnavailable}, // a statement takes too long
		"08006": {false, store.ErrUnavailable},
		"25006": {false, store.ErrUnavailable}, // a standby
		"53300": {false, store.ErrUnavailable}, // connections
		"53200": {false, store.ErrUnavailable}, // memory
		"53100": {false, store.ErrNoSpace},
		"42P01": {false, nil}, // the table is gone
		"42501": {false, nil}, // it may not be written to
		"XX001": {false, nil}, // it is damaged
	} {
		f := faultOf(&pgconn.PgError{Code: code, Message: "no", SeverityUnlocalized: "ERROR"})
		if f.again() != want.again {
			t.Errorf("%s: again is %v", code, f.again())
		}
		err := s.refuse(f)
		for _, class := range []error{store.ErrUnavailable, store.ErrNoSpace} {
			if errors.Is(err, class) != (want.is == class) {
				t.Errorf("%s: %v, want %v", code, err, want.is)
			}
		}
		if away := awayOf(f); away.again() || !errors.Is(s.refuse(away), store.ErrUnavailable) && code != "53100" {
			t.Errorf("%s when connecting: %v", code, s.refuse(away))
		}
	}
}
