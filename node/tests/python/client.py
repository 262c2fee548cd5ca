"""A real gRPC client (grpcio) that a test drives: one JSON command per line in, one JSON answer out.

Commands run side by side, each in its own thread, so a test can let calls race, or keep one open while
it does something else. An answer carries the `id` of its command.
"""

import json
import sys
import threading
import time
import traceback

import grpc
from tritonclient.grpc import service_pb2 as pb

channels = {}
streams = {}
out = threading.Lock()

INFER = "/inference.GRPCInferenceService/ModelInfer"


def raw(message):
    return message


def pairs(metadata):
    return [[k, v if isinstance(v, str) else v.hex()] for k, v in (metadata or ())]


def sum_request(x):
    """The demo function's stateful model: adds `x` to the sum of this session."""
    request = pb.ModelInferRequest(model_name="sum")
    tensor = request.inputs.add(name="x", datatype="INT64", shape=[1])
    tensor.contents.int64_contents.append(x)
    return request.SerializeToString()


def outputs(body):
    """A ModelInferResponse as a dictionary: one INT64 or BYTES element per output."""
    response = pb.ModelInferResponse.FromString(body)
    found = {}
    for index, output in enumerate(response.outputs):
        if response.raw_output_contents:
            data = response.raw_output_contents[index]
            if output.datatype == "BYTES":
                found[output.name] = data[4:].decode()
            else:
                found[output.name] = int.from_bytes(data, "little", signed=True)
        elif output.datatype == "BYTES":
            found[output.name] = output.contents.bytes_contents[0].decode()
        else:
            found[output.name] = output.contents.int64_contents[0]
    return found


def request_of(command):
    if "x" in command:
        return sum_request(command["x"])
    return command.get("message", "").encode()


def answer_of(method, body):
    return outputs(body) if method == INFER else body.decode()


def finished(call, method, began, bodies):
    """What a call came to; `call` has ended."""
    return {
        "code": call.code().value[0],
        "details": call.details() or "",
        "initial": pairs(call.initial_metadata()),
        "trailing": pairs(call.trailing_metadata()),
        "messages": [answer_of(method, body) for body in bodies],
        "began": began,
        "seconds": time.monotonic() - began,
    }


def metadata_of(command):
    return [(k, v) for k, v in command.get("metadata", [])]


def connect(command):
    # Without a pool of its own, grpcio lets all channels to one target share one connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if "ca" in command:
        with open(command["ca"], "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(command["target"], credentials, options)
    else:
        channel = grpc.insecure_channel(command["target"], options)
    channels[command["channel"]] = channel
    return {}


def close(command):
    at = time.monotonic()
    channels.pop(command["channel"]).close()
    return {"at": at}


def unary(command):
    """`count` calls (default 1), all under way at once on one connection."""
    method = command.get("method", INFER)
    stub = channels[command["channel"]].unary_unary(method, raw, raw)
    began = time.monotonic()
    calls = [
        stub.future(
            request_of(command),
            metadata=metadata_of(command),
            timeout=command.get("timeout", 60),
            wait_for_ready=command.get("wait_for_ready", False),
        )
        for _ in range(command.get("count", 1))
    ]
    results = []
    for call in calls:
        body = []
        if call.exception() is None:
            body = [call.result()]
        results.append(finished(call, method, began, body))
    return {"calls": results}


class Stream:
    """A bidirectional call whose messages the test sends and reads one by one."""

    def __init__(self, command):
        self.method = command["method"]
        self.began = time.monotonic()
        self.outgoing = []
        self.more = threading.Condition()
        self.done = False
        stub = channels[command["channel"]].stream_stream(self.method, raw, raw)
        self.call = stub(
            self.requests(), metadata=metadata_of(command), timeout=command.get("timeout", 60)
        )

    def requests(self):
        while True:
            with self.more:
                self.more.wait_for(lambda: self.outgoing or self.done, timeout=60)
                if not self.outgoing:
                    return
                message = self.outgoing.pop(0)
            yield message

    def send(self, message):
        with self.more:
            self.outgoing.append(message)
            self.more.notify()

    def finish(self):
        with self.more:
            self.done = True
            self.more.notify()


def stream_open(command):
    streams[command["stream"]] = Stream(command)
    return {}


def stream_send(command):
    streams[command["stream"]].send(request_of(command))
    return {}


def stream_next(command):
    """The next message; when there is none, how the call ended."""
    stream = streams[command["stream"]]
    try:
        body = next(stream.call)
    except (StopIteration, grpc.RpcError):
        return finished(stream.call, stream.method, stream.began, [])
    return {"message": body.decode(), "initial": pairs(stream.call.initial_metadata())}


def stream_finish(command):
    streams[command["stream"]].finish()
    return {}


def stream_cancel(command):
    stream = streams[command["stream"]]
    at = time.monotonic()
    stream.call.cancel()
    stream.finish()
    return {"at": at}


def server_stream(command):
    stub = channels[command["channel"]].unary_stream(command["method"], raw, raw)
    began = time.monotonic()
    call = stub(request_of(command), metadata=metadata_of(command), timeout=60)
    bodies = []
    try:
        bodies.extend(call)
    except grpc.RpcError:
        pass
    return finished(call, command["method"], began, bodies)


def client_stream(command):
    stub = channels[command["channel"]].stream_unary(command["method"], raw, raw)
    began = time.monotonic()
    call = stub.future(
        iter([message.encode() for message in command["messages"]]),
        metadata=metadata_of(command),
        timeout=60,
    )
    bodies = [call.result()] if call.exception() is None else []
    return finished(call, command["method"], began, bodies)


def run(command):
    try:
        answer = globals()[command["do"]](command)
    except Exception:  # the test shows it
        answer = {"error": traceback.format_exc()}
    answer["id"] = command["id"]
    with out:
        print(json.dumps(answer), flush=True)


for line in sys.stdin:
    threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()
