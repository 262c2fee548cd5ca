"""What the Python programs share: the target from the environment, and one line per case."""

import os
import sys
import traceback

TARGET = os.environ["CASE_TARGET"]
METHOD = "/conformance.Echo/Any"
KEYS = [
    ("authorization", os.environ["CASE_AUTHORIZATION"]),
    ("function-id", os.environ["CASE_FUNCTION"]),
]
# Without a pool of its own, grpcio lets all channels to one target share one connection.
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]

failed = []


def told(*more):
    """The metadata of a call that tells the worker what to do."""
    return KEYS + [(name, value) for name, value in more]


def report(name, error=None):
    if error is None:
        print("ok", name, flush=True)
    else:
        failed.append(name)
        print("not ok", name, flush=True)
        traceback.print_exception(error)


def finish():
    sys.exit(1 if failed else 0)
