"""Measures the model proxy against a fast fake provider on this machine: `python -m bench.llm`.

wire        what is asked of the fake provider, and its events as bytes
provider    the fake provider: one process, one thread, many streams
client      the load: many streams and a prober of GET /v1/auth/session, in one thread
service     the proxy as it is deployed, with users who are signed in, and what its workers use
scenarios   what is measured, one function each
candidates  HTTP clients that could read the provider's stream
workers     gunicorn's gthread and gevent
report      medians, spreads and Markdown tables

Every delay is from the provider's send() to the reader's recv(): each text delta holds the provider's
time.monotonic_ns(), a clock that all processes of a machine share (CLOCK_MONOTONIC).
"""
