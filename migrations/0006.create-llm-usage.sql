-- The budgets of the model proxy, by UTC day. Nothing tells what was said, to which model, or when.
-- depends: 0001.create-users

-- One row per user and day with a call: the tokens used and reserved.
create table llm_usage (
    user_id uuid   not null references users on delete cascade,
    day     date   not null,
    tokens  bigint not null check (tokens >= 0),
    primary key (user_id, day)
);

-- The purge.
create index llm_usage_day on llm_usage (day);

-- One row per day: the tokens of all users, deleted ones too. A new account is no fresh budget.
create table llm_totals (
    day    date   primary key,
    tokens bigint not null check (tokens >= 0)
);

-- One row per call under way, or whose process has died: then it is over at its deadline, charged in full.
create table llm_reservations (
    reservation_id uuid        primary key default gen_random_uuid(),
    -- Null once the account is deleted: the call still has to be settled in llm_totals.
    user_id        uuid        references users on delete set null,
    day            date        not null,
    tokens         bigint      not null check (tokens > 0),
    deadline       timestamptz not null
);

-- The user's calls at once, and the foreign key.
create index llm_reservations_user_id on llm_reservations (user_id);

-- The purge.
create index llm_reservations_deadline on llm_reservations (deadline);
