drop table auth_tokens;
