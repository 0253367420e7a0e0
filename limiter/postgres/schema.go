package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// migrations are the schema's versions: a file each, whose name begins with its
// number. A released file is never changed, and leaves everything that the version before
// it needs: while nodes are upgraded one by one, some of them still run that version.
//
//go:embed schema/*.sql
var migrations embed.FS

const migrationTimeout = 30 * time.Second

// migrate brings the schema up to date. Nodes that start at once wait for each other.
func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Glob(migrations, "schema/*.sql")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	c, err := connect(ctx, s.config, nil)
	if err != nil {
		return err
	}
	defer c.drop()
	results, err := c.run(ctx,
		say(s.sql.begin),
		say(`SELECT set_config('lock_timeout', '25s', true)`),
		say(s.sql.exclude, int8Of(s.lockKey("schema"))),
		say(`SELECT to_regclass($1) IS NOT NULL, to_regnamespace($2) IS NOT NULL`, textOf(s.schema+".meta"), textOf(s.schema)))
	if err != nil {
		return err
	}
	found := results[3].Rows[0]
	version := 0
	if boolFrom(found[0]) {
		if version, err = s.version(ctx, c); err != nil {
			return err
		}
	} else {
		if !boolFrom(found[1]) {
			if err := c.script(ctx, "CREATE SCHEMA "+s.schema); err != nil {
				return err
			}
		}
		err := c.script(ctx, fmt.Sprintf(`CREATE TABLE %[1]s.meta (name text PRIMARY KEY, value text NOT NULL);
			INSERT INTO %[1]s.meta VALUES ('version', '0')`, s.schema))
		if err != nil {
			return err
		}
	}
	if version > len(files) {
		return fmt.Errorf("schema %s is of version %d, and this version of till knows %d: start the newer till on this node, too",
			s.schema, version, len(files))
	}
	if version == len(files) {
		return s.commitSchema(ctx, c)
	}
	for _, file := range files[version:] {
		text, err := migrations.ReadFile(file)
		if err != nil {
			return err
		}
		if err := c.script(ctx, "SET LOCAL search_path = "+s.schema+";"+string(text)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	_, err = c.run(ctx, say("UPDATE "+s.schema+".meta SET value = $1 WHERE name = 'version'", textOf(strconv.Itoa(len(files)))))
	if err != nil {
		return err
	}
	return s.commitSchema(ctx, c)
}

func (s *Store) commitSchema(ctx context.Context, c *conn) error {
	_, err := c.run(ctx, say(s.sql.commit))
	return err
}

func (s *Store) version(ctx context.Context, c *conn) (int, error) {
	results, err := c.run(ctx, say("SELECT value FROM "+s.schema+".meta WHERE name = 'version'"))
	if err != nil {
		return 0, err
	}
	if len(results[0].Rows) == 0 {
		return 0, fmt.Errorf("schema %s has a table meta that till has not made: choose another schema", s.schema)
	}
	return strconv.Atoi(string(results[0].Rows[0][0]))
}

// checkServer refuses a server that cannot keep what it acknowledges.
func (s *Store) checkServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	c, err := connect(ctx, s.config, nil)
	if err != nil {
		return err
	}
	defer c.drop()
	sent := boottime()
	results, err := c.run(ctx, say(`SELECT current_setting('server_version_num')::int8, current_setting('server_version'),
		current_setting('fsync'), current_setting('full_page_writes'), current_setting('server_encoding'),
		pg_is_in_recovery(), `+micros))
	if err != nil {
		return err
	}
	row := results[0].Rows[0]
	s.clock.measure(intFrom(row[6]), sent, boottime())
	switch {
	case intFrom(row[0]) < 130000:
		return fmt.Errorf("PostgreSQL %s is too old: 13 or newer is needed", row[1])
	case string(row[2]) != "on":
		return fmt.Errorf("the server has fsync = %s, so it forgets what it has acknowledged: set fsync = on", row[2])
	case string(row[3]) != "on":
		return fmt.Errorf("the server has full_page_writes = %s, so a power cut may damage what it keeps: set full_page_writes = on", row[3])
	case string(row[4]) != "UTF8":
		return fmt.Errorf("the database has the encoding %s: make one with ENCODING 'UTF8'", row[4])
	case boolFrom(row[5]):
		return errStandby
	}
	return nil
}

// opened is the error of opening the store.
func (s *Store) opened(err error) error {
	var f *fault
	if errors.As(err, &f) && f.passes() {
		return s.refuse(f)
	}
	if errors.Is(err, store.ErrDoubt) {
		return err // it names the database
	}
	return fmt.Errorf("%s: %w", s.where, err)
}
