do $$
begin
    execute format('alter role current_user in database %I reset statement_timeout', current_database());
    execute format('alter role current_user in database %I reset lock_timeout', current_database());
    execute format('alter role current_user in database %I reset idle_in_transaction_session_timeout', current_database());
end $$;
