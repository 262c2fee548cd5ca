"""An ordinary gRPC server that knows nothing of Pontoon: any such server can be a worker.

Prints one JSON line with its port, then one line per event that a test may wait for, with its time by
the machine's monotonic clock, which all processes share. A line on its standard input, `serving` or `not
serving`, is what its health check answers from then on. Arguments: a name, and a port (default: a free one).
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

name = sys.argv[1]
wanted = sys.argv[2] if len(sys.argv) > 2 else "0"
counts = {}
lock = threading.Lock()
out = threading.Lock()


def say(**event):
    with out:
        print(json.dumps({**event, "at": time.monotonic()}), flush=True)


def raw(message):
    return message


def headers(context):
    return [[k, v if isinstance(v, str) else v.hex()] for k, v in context.invocation_metadata()]


def count(context):
    """How often this process was called for the session."""
    session = dict(context.invocation_metadata()).get("nvcf-reqid", "")
    with lock:
        counts[session] = counts.get(session, 0) + 1
        return counts[session]


def unary(request, context):
    """Says what it was sent, headers included."""
    context.send_initial_metadata(
        [("x-worker", name), ("nvcf-reqid", "set-by-the-worker"), ("set-cookie", "own=1")]
    )
    context.set_trailing_metadata([("x-after", "trailer"), ("x-bytes-bin", b"\x00\xff")])
    said = {
        "worker": name,
        "count": count(context),
        "message": request.decode(),
        "headers": headers(context),
        "remaining": context.time_remaining(),
    }
    return json.dumps(said).encode()


def server_stream(request, context):
    for index in range(int(request)):
        yield f"{name} {index}".encode()


def client_stream(requests, context):
    return b"+".join(requests)


def bidi(requests, context):
    count(context)
    last = []
    context.add_callback(lambda: say(event="ended", last=last))
    for message in requests:
        last[:] = [message.decode()]
        yield b"echo " + message


def hang(request, context):
    """Answers only when the client has gone."""
    gone = threading.Event()
    context.add_callback(gone.set)
    say(event="hanging", message=request.decode())
    gone.wait(60)
    say(event="gone", message=request.decode())
    return b""


def fail(request, context):
    context.set_trailing_metadata([("x-after", "failure")])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "kein Öl %")


# HealthCheckResponse{status}
HEALTH = {"serving": b"\x08\x01", "not serving": b"\x08\x02"}
health = HEALTH["serving"]


def check(request, context):
    return health


def handler(kind, function):
    return kind(function, request_deserializer=raw, response_serializer=raw)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
server.add_generic_rpc_handlers(
    (
        grpc.method_handlers_generic_handler(
            "test.Echo",
            {
                "Unary": handler(grpc.unary_unary_rpc_method_handler, unary),
                "ServerStream": handler(grpc.unary_stream_rpc_method_handler, server_stream),
                "ClientStream": handler(grpc.stream_unary_rpc_method_handler, client_stream),
                "Bidi": handler(grpc.stream_stream_rpc_method_handler, bidi),
                "Hang": handler(grpc.unary_unary_rpc_method_handler, hang),
                "Fail": handler(grpc.unary_unary_rpc_method_handler, fail),
            },
        ),
        grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {"Check": handler(grpc.unary_unary_rpc_method_handler, check)},
        ),
    )
)
port = server.add_insecure_port(f"127.0.0.1:{wanted}")
server.start()
say(event="listening", address=f"127.0.0.1:{port}")
for line in sys.stdin:  # ends with whoever started it
    health = HEALTH[line.strip()]
