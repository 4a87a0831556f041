-- One row per person who has signed in at least once, known only by an address.
create table users (
    user_id    uuid        primary key default gen_random_uuid(),
    -- The canonical form (docs/architecture.md): ASCII and lower case, so that equal addresses are equal bytes.
    email      text        not null unique
               check (email = lower(email) and email ~ '^[!-~]{1,64}@[!-~]{1,253}$' and length(email) <= 254),
    created_at timestamptz not null default now()
);
