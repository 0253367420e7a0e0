-- What the limiter keeps. Rows of busy accounts are written many times a second: a
-- page keeps room for their next versions, and is cleaned early.
CREATE TABLE kv (
	k bytea PRIMARY KEY,
	v bytea NOT NULL
) WITH (
	fillfactor = 70,
	autovacuum_vacuum_scale_factor = 0.01,
	autovacuum_vacuum_threshold = 500,
	autovacuum_vacuum_cost_delay = 0,
	autovacuum_analyze_scale_factor = 0.02
);

-- The nodes. Session names the process that may write as the node, and batch counts the
-- commits of the node, over all its sessions. Each transaction locks its node's row.
CREATE TABLE node (
	name text PRIMARY KEY,
	session bytea NOT NULL,
	batch bigint NOT NULL
) WITH (
	fillfactor = 10,
	autovacuum_vacuum_scale_factor = 0,
	autovacuum_vacuum_threshold = 1000,
	autovacuum_vacuum_cost_delay = 0
);

-- The signs of life, apart from what transactions lock. A session lives until it
-- expires. Followed is how much of the feed the node's memory has followed, and hears says
-- that notifications reach it.
CREATE TABLE session (
	name text PRIMARY KEY,
	session bytea NOT NULL,
	expires timestamptz NOT NULL,
	followed bigint NOT NULL,
	hears boolean NOT NULL DEFAULT false,
	version text NOT NULL,
	address text NOT NULL,
	configuration text NOT NULL,
	started timestamptz NOT NULL,
	seen timestamptz NOT NULL
) WITH (
	fillfactor = 10,
	autovacuum_vacuum_scale_factor = 0,
	autovacuum_vacuum_threshold = 1000,
	autovacuum_vacuum_cost_delay = 0
);

-- Which rows were written that other nodes keep in memory, in the order of the commits.
-- The last row always stays: its number is the feed's head.
CREATE TABLE feed (
	seq bigint PRIMARY KEY,
	node text NOT NULL,
	keys bytea[] NOT NULL,
	at timestamptz NOT NULL DEFAULT now()
);

-- The node that sweeps for all. There is one row.
CREATE TABLE leader (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	node text NOT NULL,
	session bytea NOT NULL,
	until timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO leader (node, session, until) VALUES ('', '', '-infinity');

-- Accounts of which nodes ask for what others have reserved, for those that notifications
-- do not reach. What a crash loses is asked for again.
CREATE UNLOGGED TABLE recall (
	account bytea PRIMARY KEY,
	session bytea NOT NULL,
	at timestamptz NOT NULL
);

-- Names this database, so that a copy of an older state is told from another one.
INSERT INTO meta (name, value) VALUES ('database', gen_random_uuid()::text);

-- For people with psql. The lookup is the hash of the key's string.
CREATE VIEW keys AS
SELECT
	convert_from(substr(k, 3), 'UTF8') AS id,
	r ->> 'name' AS name,
	r ->> 'upstream' AS upstream,
	r ->> 'role' AS role,
	r ->> 'owner' AS owner,
	r ->> 'purpose' AS purpose,
	r -> 'labels' AS labels,
	r ->> 'parent' AS parent,
	(r ->> 'created_at')::timestamptz AS created_at,
	(r ->> 'expires_at')::timestamptz AS expires_at,
	r - 'lookup' - 'former' AS record
FROM (SELECT k, convert_from(v, 'UTF8')::jsonb AS r FROM kv WHERE k >= 'k/'::bytea AND k < 'k0'::bytea) AS records;
