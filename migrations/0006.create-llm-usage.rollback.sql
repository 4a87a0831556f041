drop table llm_reservations;
drop table llm_totals;
drop table llm_usage;
