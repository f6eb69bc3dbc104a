"""Settings of the server: `gunicorn --config gunicorn.conf.py app:app`."""

import multiprocessing
import sys

bind = "127.0.0.1:0"
worker_class = "gthread"
# gunicorn's documentation recommends this number of workers.
workers = 2 * multiprocessing.cpu_count() + 1
threads = 4
backlog = 4096
keepalive = 60
loglevel = "error"


ready = multiprocessing.Value("i", 0)


def post_worker_init(worker):
    """Says where it listens once all workers have loaded the application."""
    with ready.get_lock():
        ready.value += 1
        if ready.value == workers:
            host, port = worker.sockets[0].sock.getsockname()
            print(f"listens on http://{host}:{port}", file=sys.stderr, flush=True)
