-- First what everybody else locks first: or this deadlocks with exports and deletions of accounts.
lock table users in access exclusive mode;
drop table llm_reservations;
drop table llm_totals;
drop table llm_usage;
