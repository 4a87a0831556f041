"""gunicorn's threaded worker and its listening sockets, adapted where they failed under attack and in restarts.

- `listeners.py`: a listening socket for each worker, which outlives the worker; so no connection is lost in a restart.
- `framing.py`: where a request ends, so that it takes a thread only once it is there in full.
- `connection.py`: what the worker knows of a client.
- `worker.py`: the worker. It waits for requests, refuses what is too much, and stops.
- `refusals.py`: the answers that it gives itself, without a thread.

gunicorn.conf.py puts them in place. They lean on gunicorn 27's own classes; tests with real sockets hold them together.
"""
