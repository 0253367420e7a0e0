-- What this database is. A repair raises the generation: what nodes remember of an
-- earlier one is void. Doubt says why no node uses it until it is repaired, and repair
-- names the process that repairs it. There is one row.
CREATE TABLE state (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	generation bigint NOT NULL DEFAULT 0,
	doubt text,
	repair bytea
);
INSERT INTO state DEFAULT VALUES;
