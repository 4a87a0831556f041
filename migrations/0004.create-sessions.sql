-- One row per conversation of a user, known only by its times and the hash of its transcript.
-- depends: 0001.create-users
create table sessions (
    user_id         uuid not null references users on delete cascade,
    -- The client's own id, unique for this user only. "C": compared by bytes, whatever the database's locale.
    session_id      text collate "C" not null check (session_id ~ '^[A-Za-z0-9._:-]{1,128}$'),
    started_at      timestamptz,
    ended_at        timestamptz,
    transcript_hash text collate "C" check (transcript_hash ~ '^[0-9a-f]{64}$'),
    primary key (user_id, session_id),
    check (isfinite(started_at) and isfinite(ended_at)),
    check (ended_at >= started_at),
    -- An end may arrive without its start, but never without its hash.
    check (started_at is not null or ended_at is not null),
    check ((ended_at is null) = (transcript_hash is null))
);

-- The list, newest first: read backwards, from a row (keyset pagination).
create index sessions_newest on sessions (user_id, coalesce(started_at, ended_at), session_id);
