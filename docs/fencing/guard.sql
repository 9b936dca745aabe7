-- Palisade's guard for PostgreSQL (9.5 and later): copy it into your migrations.
--
-- One row per guarded resource holds the largest fencing token that has passed. A transaction calls
-- palisade_pass(resource, token) before anything else it does with the resource, reads included.
-- The guard and what it guards commit together, or not at all: never call it in a transaction of
-- its own.

CREATE TABLE palisade_fence (
    resource text   PRIMARY KEY,
    token    bigint NOT NULL CHECK (token > 0)
);

-- Passes, and holds the resource's row until the transaction ends, so that transactions on one
-- resource follow each other. A token that is smaller than one that passed before raises PF001; the
-- transaction then has done nothing and must not be repeated with this token.
CREATE FUNCTION palisade_pass(of_resource text, of_token bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO palisade_fence AS fence (resource, token)
    VALUES (of_resource, of_token)
    ON CONFLICT (resource) DO UPDATE SET token = excluded.token
    WHERE fence.token <= excluded.token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fencing token % of % is stale', of_token, of_resource
            USING ERRCODE = 'PF001',
                  HINT = 'The lock has been granted to someone else since. Stop; do not retry.';
    END IF;
END
$$;
