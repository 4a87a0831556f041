-- One row per magic link that was mailed and not yet used. Only a keyed hash of its token is here.
-- depends: 0001.create-users
create table auth_tokens (
    token_hash bytea       primary key check (octet_length(token_hash) = 32),
    email      text        not null
               check (email = lower(email) and email ~ '^[!-~]{1,64}@[!-~]{1,253}$' and length(email) <= 254),
    created_at timestamptz not null default now(),
    expires_at timestamptz not null check (expires_at > created_at)
);

-- Redeeming a link voids the others of its address.
create index auth_tokens_email on auth_tokens (email);

-- The purge.
create index auth_tokens_expires_at on auth_tokens (expires_at);
