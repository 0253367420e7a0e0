package postgres

import (
	"context"
	"encoding/binary"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// argument is a parameter of a statement, in the binary form of its type. A nil value
// is NULL.
type argument struct {
	oid   uint32
	value []byte
}

// The types of parameters, by their numbers in PostgreSQL's catalogue.
const (
	oidBool   = 16
	oidBytea  = 17
	oidInt8   = 20
	oidText   = 25
	oidByteas = 1001
	oidTexts  = 1009
)

func textOf(s string) argument  { return argument{oidText, []byte(s)} }
func byteaOf(b []byte) argument { return argument{oidBytea, b} }
func boolOf(is bool) argument {
	if is {
		return argument{oidBool, []byte{1}}
	}
	return argument{oidBool, []byte{0}}
}

func int8Of(n int64) argument {
	return argument{oidInt8, binary.BigEndian.AppendUint64(nil, uint64(n))}
}
func textsOf(s []string) argument {
	all := make([][]byte, len(s))
	for i := range s {
		all[i] = []byte(s[i])
	}
	return argument{oidTexts, arrayOf(oidText, all)}
}
func byteasOf(all [][]byte) argument { return argument{oidByteas, arrayOf(oidBytea, all)} }

// arrayOf is an array of one dimension in PostgreSQL's binary form.
func arrayOf(oid uint32, all [][]byte) []byte {
	size := 20
	for _, one := range all {
		size += 4 + len(one)
	}
	b := make([]byte, 0, size)
	if len(all) == 0 {
		b = binary.BigEndian.AppendUint32(b, 0) // no dimension
		b = binary.BigEndian.AppendUint32(b, 0)
		return binary.BigEndian.AppendUint32(b, oid)
	}
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 0) // no element is NULL
	b = binary.BigEndian.AppendUint32(b, oid)
	b = binary.BigEndian.AppendUint32(b, uint32(len(all)))
	b = binary.BigEndian.AppendUint32(b, 1) // the first has index 1
	for _, one := range all {
		b = binary.BigEndian.AppendUint32(b, uint32(len(one)))
		b = append(b, one...)
	}
	return b
}

// byteasFrom reads an array that arrayOf could have written.
func byteasFrom(b []byte) (all [][]byte) {
	if len(b) < 20 {
		return nil
	}
	n := binary.BigEndian.Uint32(b[12:])
	b = b[20:]
	for range n {
		if len(b) < 4 {
			return all
		}
		size := int32(binary.BigEndian.Uint32(b))
		b = b[4:]
		if size < 0 || int(size) > len(b) {
			return all
		}
		all, b = append(all, b[:size:size]), b[size:]
	}
	return all
}

// statement is one statement of a round trip.
type statement struct {
	sql  string
	args []argument
}

func say(sql string, args ...argument) statement { return statement{sql, args} }

// run sends statements in one round trip, and returns a result for each. They are one
// transaction, unless they begin or end one. Nothing is prepared under a name, so that
// a pooler may send each transaction to another connection.
func (c *conn) run(ctx context.Context, statements ...statement) ([]*pgconn.Result, error) {
	var batch pgconn.Batch
	for _, s := range statements {
		values, oids := make([][]byte, len(s.args)), make([]uint32, len(s.args))
		for i, a := range s.args {
			values[i], oids[i] = a.value, a.oid
		}
		batch.ExecParams(s.sql, values, oids, binaryForm, binaryForm)
	}
	results, err := c.pg.ExecBatch(ctx, &batch).ReadAll()
	if err == nil && len(results) != len(statements) {
		err = errAnswers
	}
	if err != nil {
		f := *faultOf(err).without(c.user)
		f.begins = len(results) == 0 && strings.HasPrefix(statements[0].sql, "BEGIN ")
		return nil, &f
	}
	return results, nil
}

// runWithin is run with a time limit.
func (c *conn) runWithin(ctx context.Context, limit time.Duration, statements ...statement) ([]*pgconn.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.run(ctx, statements...)
}

// script runs statements that have no parameters.
func (c *conn) script(ctx context.Context, sql string) error {
	if _, err := c.pg.Exec(ctx, sql).ReadAll(); err != nil {
		return faultOf(err).without(c.user)
	}
	return nil
}

var binaryForm = []int16{1}

// intFrom reads an int8.
func intFrom(b []byte) int64 {
	if len(b) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func boolFrom(b []byte) bool { return len(b) == 1 && b[0] == 1 }

// queries are the statements, with the name of the schema filled in.
type queries struct {
	begin, view, settings                          string
	share, exclude, fence, lock, get, scan, scanUp string
	some                                           string
	upsert, remove, feed, notify, batch, commit    string
	rollback, look                                 string
	read, renew, lead, leave, join, rejoin         string
	numbers, head, page, follow, prune, behind     string
	nodes, identity, unblock, describe, vanish     string
	recall, recalled, forget                       string
	mark, doubted, claim, claimed, holds, repaired string
	lives, expel, discard, lost, vouch             string
}

const (
	// idleFor is how long a node may pause in a transaction, and so hold up the others;
	// repairIdleFor is the same for a repair, for which all others wait anyway.
	idleFor, repairIdleFor = "1s", "1min"
	// A connection that a pooler gave us may have any settings, so a transaction
	// makes its own. A level of synchronous_commit that waits for more is kept.
	settings = `SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '5s', true),
		set_config('idle_in_transaction_session_timeout', '` + idleFor + `', true),
		set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)`
	viewSettings = `SELECT ` + serverStart + `, set_config('statement_timeout', '5s', true), set_config('idle_in_transaction_session_timeout', '30s', true)`
	lazySettings = `SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '2s', true)`
	// begins is how a session of the node n begins.
	begins = `
		INSERT INTO @session AS s (name, session, expires, followed, version, address, configuration, started, seen)
		SELECT n.name, n.session, now() + interval '10 s', (SELECT coalesce(max(seq), 0) FROM @feed), $3, $4, $5, now(), now() FROM n
		ON CONFLICT (name) DO UPDATE SET session = excluded.session, expires = excluded.expires, followed = excluded.followed,
			version = excluded.version, address = excluded.address, configuration = excluded.configuration,
			started = excluded.started, seen = excluded.seen
		RETURNING (SELECT batch FROM n), s.followed`
	// micros is the database's time in microseconds, as a number.
	micros = `(extract(epoch FROM clock_timestamp()) * 1000000)::int8`
	// lastSeen is when a session was renewed last, or ended.
	lastSeen = `(extract(epoch FROM seen) * 1000000)::int8`
	// serverStart tells a server from another one, and from itself before a restart.
	serverStart = `(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8`
)

func queriesIn(schema string) queries {
	in := func(sql string) string { return strings.ReplaceAll(sql, "@", schema+".") }
	return queries{
		begin:    `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`,
		view:     `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`,
		settings: settings,
		commit:   `COMMIT`,
		rollback: `ROLLBACK`,

		share:   `SELECT pg_advisory_xact_lock_shared($1)`,
		exclude: `SELECT pg_advisory_xact_lock($1)`,
		fence:   in(`SELECT session, batch FROM @node WHERE name = $1 FOR UPDATE`),
		doubted: in(`SELECT generation, doubt, ` + serverStart + ` FROM @state`),
		lock:    in(`SELECT k, v FROM @kv WHERE k = ANY($1) ORDER BY k FOR UPDATE`),
		get:     in(`SELECT k, v FROM @kv WHERE k = ANY($1)`),
		some: in(`SELECT k, v FROM (SELECT k, v, sum(octet_length(v)) OVER (ORDER BY k) AS upto FROM @kv WHERE k = ANY($1)) AS w
			WHERE upto - octet_length(v) < $2 ORDER BY k`),
		scanUp: in(`SELECT k, v FROM @kv WHERE k >= $1 AND ($2::bytea IS NULL OR k < $2) ORDER BY k LIMIT $3`),
		scan:   in(`SELECT k, v FROM @kv WHERE k >= $1 AND ($2::bytea IS NULL OR k < $2) ORDER BY k DESC LIMIT $3`),

		upsert: in(`INSERT INTO @kv (k, v) SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT (k) DO UPDATE SET v = excluded.v`),
		remove: in(`DELETE FROM @kv WHERE k = ANY($1)`),
		feed:   in(`INSERT INTO @feed (seq, node, keys) SELECT coalesce(max(seq), 0) + 1, $1, $2 FROM @feed RETURNING seq`),
		notify: `SELECT pg_notify($1, '')`,
		// The timeout is no longer wanted: it would cancel a COMMIT that waits for a
		// standby.
		batch: in(`UPDATE @node SET batch = $2 WHERE name = $1 RETURNING set_config('statement_timeout', '0', true)`),
		look:  in(`SELECT session, batch, ` + serverStart + ` FROM @node WHERE name = $1 FOR UPDATE`),

		read: in(`SELECT n.session, coalesce(s.expires > now(), false), n.batch
			FROM @node n LEFT JOIN @session s ON s.name = n.name WHERE n.name = $1`),
		join:   in(`WITH n AS (INSERT INTO @node (name, session, batch) VALUES ($1, $2, 0) ON CONFLICT (name) DO NOTHING RETURNING *)` + begins),
		rejoin: in(`WITH n AS (UPDATE @node SET session = $2 WHERE name = $1 AND session = $6 RETURNING *)` + begins),
		renew: in(`UPDATE @session s SET expires = now() + interval '10 s', seen = now(), followed = greatest(s.followed, $3), hears = $4
			FROM (SELECT name, expires <= now() AS late FROM @session WHERE name = $1 FOR UPDATE) o
			WHERE s.name = o.name AND s.session = $2 RETURNING o.late`),
		describe: in(`UPDATE @session SET configuration = $3 WHERE name = $1 AND session = $2`),
		lead: in(`UPDATE @leader SET node = $1, session = $2, until = now() + interval '10 s'
			WHERE session = $2 OR until <= now() RETURNING true`),
		vanish: in(`WITH l AS (UPDATE @leader SET until = now() WHERE session = $2),
			s AS (DELETE FROM @session WHERE name = $1 AND session = $2)
			DELETE FROM @node WHERE name = $1 AND session = $2`),
		leave: in(`WITH l AS (UPDATE @leader SET until = now() WHERE session = $2)
			UPDATE @session SET expires = now(), seen = now() WHERE name = $1 AND session = $2`),
		// A server process that has received a part of a round trip waits for the rest
		// for ever, and is neither idle nor in a statement. It may hold the lock of all
		// transactions, or rows that others write beside those, such as the leader's.
		unblock: in(`SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a
			WHERE a.wait_event = 'ClientRead' AND a.state_change < clock_timestamp() - interval '1500 ms'
			AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted
				AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND (l.locktype = 'advisory' AND l.objsubid = 1 AND (l.classid::int8 << 32) | l.objid::int8 = $1
					OR l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
					AND l.relation IN ('@node'::regclass, '@session'::regclass, '@leader'::regclass, '@recall'::regclass)))`),
		identity: in(`SELECT m.value, t.generation, t.doubt FROM @meta m, @state t WHERE m.name = 'database'`),
		numbers: in(`SELECT n.name, n.batch, NULL::bytea, 0::int8, 0::int8, NULL::text,
				coalesce(s.instance, 0), coalesce(s.expires > now(), false), coalesce(` + lastSeen + `, 0) FROM @node n LEFT JOIN @session s ON s.name = n.name
			UNION ALL SELECT NULL, (SELECT coalesce(max(seq), 0) FROM @feed), convert_to((SELECT value FROM @meta WHERE name = 'database'), 'UTF8'), ` + micros + `,
				generation, doubt, ` + serverStart + `, pg_is_in_recovery(), 0::int8 FROM @state`),
		vouch: in(`UPDATE @session SET instance = $3 WHERE name = $1 AND session = $2
			AND EXISTS (SELECT FROM @node WHERE name = $1 AND batch >= $4)`),
		head:   in(`SELECT coalesce(max(seq), 0) FROM @feed`),
		page:   in(`SELECT seq, node, keys FROM @feed WHERE seq > $1 ORDER BY seq LIMIT 256`),
		follow: in(`UPDATE @session SET followed = $3 WHERE name = $1 AND session = $2 AND followed < $3`),
		prune: in(`DELETE FROM @feed WHERE at < now() - interval '1 min' AND seq < (SELECT max(seq) FROM @feed)
			AND seq < (SELECT min(seq) FROM @feed) + $1
			AND seq <= (SELECT min(followed) FROM @session WHERE expires > now())`),
		recall: in(`INSERT INTO @recall (account, session, at) SELECT a, $1, clock_timestamp() FROM unnest($2::bytea[]) AS a
			WHERE EXISTS (SELECT FROM @session WHERE expires > now() AND NOT hears AND session <> $1)
			ON CONFLICT (account) DO UPDATE SET session = excluded.session, at = excluded.at`),
		recalled: in(`SELECT account FROM @recall WHERE at > clock_timestamp() - interval '2 s' AND session <> $1`),
		forget:   in(`DELETE FROM @recall WHERE at < now() - interval '1 min'`),
		// A session that was ended expired at the moment it was last seen.
		behind: in(`SELECT name, expires > now(), ` + lastSeen + ` FROM @session WHERE followed < $1 AND name <> $2 AND expires > seen ORDER BY name`),
		nodes: in(`SELECT n.name, coalesce(n.version, ''), coalesce(n.address, ''), coalesce(n.configuration, ''),
			(extract(epoch FROM n.started) * 1000000)::int8, (extract(epoch FROM n.seen) * 1000000)::int8,
			n.expires > now(), greatest((SELECT coalesce(max(seq), 0) FROM @feed) - n.followed, 0),
			coalesce((SELECT l.session = n.session AND l.until > now() FROM @leader l), false)
			FROM @session n ORDER BY n.name`),

		mark:  in(`UPDATE @state SET doubt = $1 WHERE doubt IS NULL AND generation = $2`),
		claim: in(`UPDATE @state SET repair = $1 WHERE doubt IS NOT NULL RETURNING true`),
		// The row that a transaction of a repair holds.
		claimed: in(`SELECT doubt FROM @state WHERE repair = $1 FOR UPDATE`),
		holds:   in(`UPDATE @state SET repair = $1 RETURNING set_config('statement_timeout', '0', true)`),
		// Repairs of two copies must not get the same number, so the number is the time.
		repaired: in(`WITH n AS (UPDATE @node SET session = ''), e AS (UPDATE @session SET session = '', expires = least(expires, now()))
			UPDATE @state SET generation = greatest(generation + 1, $1, ` + micros + `), doubt = NULL, repair = NULL
			RETURNING set_config('statement_timeout', '0', true)`),
		lives: in(`SELECT name FROM @session WHERE expires > now() ORDER BY name`),

		// The row with the node's number stays: others would take a smaller one for a loss.
		// Both statements lock the node's row first, as a node that joins does.
		expel: in(`WITH f AS (SELECT name FROM @node WHERE name = $1 FOR UPDATE),
			s AS (UPDATE @session SET session = '' WHERE name IN (SELECT name FROM f) AND expires <= now() RETURNING name)
			UPDATE @node n SET session = '' FROM s WHERE n.name = s.name RETURNING true`),
		discard: in(`WITH f AS (SELECT name FROM @node WHERE name = $1 FOR UPDATE),
			s AS (DELETE FROM @session WHERE name IN (SELECT name FROM f) AND expires <= now() RETURNING name)
			UPDATE @node n SET session = '' FROM s WHERE n.name = s.name RETURNING true`),
		lost: in(`SELECT expires > now() FROM @session WHERE name = $1`),
	}
}
