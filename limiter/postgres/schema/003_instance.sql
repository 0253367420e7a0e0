-- The server that a node has found to have all of its commits.
ALTER TABLE session ADD COLUMN instance bigint NOT NULL DEFAULT 0;
