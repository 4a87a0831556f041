-- No statement of this role waits for ever in this database. It is the role's setting, and not a start-up option
-- or a SET, because pgbouncer in transaction mode refuses the first and mixes up the second.
-- If the service signs in as another role than the migrations, run this block as that role too (docs/deploy.md).
-- depends: 0001.create-users
do $$
begin
    execute format('alter role current_user in database %I set statement_timeout = %L', current_database(), '1500ms');
    execute format('alter role current_user in database %I set lock_timeout = %L', current_database(), '1s');
    execute format('alter role current_user in database %I set idle_in_transaction_session_timeout = %L',
                   current_database(), '5s');
end $$;
