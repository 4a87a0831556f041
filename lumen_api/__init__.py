"""Lumen's server: magic-link sign-in and session metadata. No transcript ever reaches it.

server/         gunicorn's worker and sockets: whole requests only, refusals, no connection lost in a restart
hooks           request id in and out, one log line and one measurement
origins         which web pages may call (CORS, and no state change for any other)
headers         what every answer carries, put on around Flask
request_ids     the id of a request: the caller's or a new one
errors          the ApiError family and the only error envelope
validation      the one body reader, and each member's rule
rfc3339         timestamps in and out
auth            signed tokens, magic links, the session cookie, the guard
rate_limits     counters in Redis, their keys, and counting on when Redis is away
db              the connection pool; connection() and transaction()
migrations      yoyo, on the connection string that the service itself uses
blueprints/     health  auth  sessions  account  llm: read, ask, decide, answer. openapi  docs: the contract
llm/            the model proxy: request, policy (may a call run?), provider (who answers), calls, call, pump
repositories/   one SQL statement a function, and nothing else
email/          the mail, and its providers: console, smtp, resend
transcript_hash the hash that clients send, for tools and tests: the standard library alone
settings        how a variable's text becomes a value; config.py lists them, llm/ and observability/ their own
observability/  what the process says about itself: logging, tracing, metrics, and telemetry, which sends the last two
dev/            the embedded PostgreSQL, the playground, the greeting; never imported in production
cli             `flask db`, `flask purge`, `flask check-config`, `flask transcript-hash`

Imports point one way: wsgi -> app -> {config, hooks, server, blueprints, email providers, cli} -> {auth, origins,
validation, rate_limits, llm, repositories} -> {errors, db, headers, request_ids, rfc3339, observability, settings,
transcript_hash}. Repositories know `db` alone. The model proxy is known to app.py and its routes, its variables to
config.py. Nothing here imports `app` or `config`: app.py hands the values in. tests/test_architecture.py holds it.
"""
