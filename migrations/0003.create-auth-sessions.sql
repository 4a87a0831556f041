-- One row per sign-in that has not been ended. Only a keyed hash of the cookie's id is here.
-- depends: 0001.create-users
create table auth_sessions (
    id_hash    bytea       primary key check (octet_length(id_hash) = 32),
    user_id    uuid        not null references users on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null check (expires_at > created_at)
);

-- Log out everywhere, export, and the cascade.
create index auth_sessions_user_id on auth_sessions (user_id);

-- The purge.
create index auth_sessions_expires_at on auth_sessions (expires_at);
