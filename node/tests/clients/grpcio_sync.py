"""The interop cases of gRPC with grpcio's blocking API."""

import grpc

from cases import KEYS, METHOD, OPTIONS, TARGET, finish, report, told

channel = grpc.insecure_channel(TARGET, options=OPTIONS)
raw = (None, None)
unary = channel.unary_unary(METHOD, *raw)
serving = channel.unary_stream(METHOD, *raw)
sending = channel.stream_unary(METHOD, *raw)
bidi = channel.stream_stream(METHOD, *raw)
MIRROR = ("x-echo-mirror", "1")
HOLD = ("x-echo-hold", "1")


def fails(code, call, *arguments, **more):
    try:
        result = call(*arguments, **more)
        if not isinstance(result, bytes):
            list(result)
    except grpc.RpcError as error:
        assert error.code() is code, error
        return error
    raise AssertionError(f"{code} was expected")


def empty_unary():
    assert unary(b"", metadata=told(MIRROR), timeout=20) == b""


def large_unary():
    body = bytes(range(251)) * 4000
    assert unary(body, metadata=told(MIRROR), timeout=20) == body


def client_streaming():
    answer = sending(iter([b"x" * size for size in (27182, 8, 1828, 45904)]), metadata=told(), timeout=20)
    assert b'"length":74942' in answer, answer[:2000]


def server_streaming():
    more = told(("x-echo-messages", "4"), ("x-echo-size", "31415"))
    assert [len(one) for one in serving(b"", metadata=more, timeout=20)] == [31415] * 4


def ping_pong():
    import queue

    outgoing = queue.Queue()
    call = bidi(iter(outgoing.get, None), metadata=told(MIRROR), timeout=20)
    for size in (27182, 8, 1828, 45904):
        outgoing.put(b"p" * size)
        assert len(next(call)) == size
    outgoing.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def empty_stream():
    assert list(bidi(iter([]), metadata=told(MIRROR), timeout=20)) == []


def cancel_after_begin():
    import threading

    release = threading.Event()

    def forever():
        release.wait(20)
        yield b""

    call = sending.future(forever(), metadata=told(HOLD), timeout=20)
    call.cancel()
    release.set()
    assert call.cancelled()


def cancel_after_first_response():
    import threading

    release = threading.Event()

    def one():
        yield b"first"
        release.wait(20)

    call = bidi(one(), metadata=told(MIRROR), timeout=20)
    assert next(call) == b"first"
    call.cancel()
    release.set()
    assert call.code() is grpc.StatusCode.CANCELLED


def deadline():
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, unary, b"", metadata=told(HOLD), timeout=0.5)


def status_with_text():
    more = told(
        ("x-echo-trailer", "grpc-status: 2"),
        ("x-echo-trailer", "grpc-message: %09t%C3%A9st with w%C3%96rds %F0%9F%98%88 100%25"),
    )
    error = fails(grpc.StatusCode.UNKNOWN, unary, b"", metadata=more, timeout=20)
    assert error.details() == "\ttést with wÖrds \U0001f608 100%", error.details()


def custom_metadata():
    more = told(
        ("x-echo-header", "x-initial: yes"),
        ("x-echo-trailer", "x-trailing-bin: q6ur"),
        ("x-mine-bin", b"\x00\xff\x10"),
    )
    answer, call = unary.with_call(b"", metadata=more, timeout=20)
    assert ("x-initial", "yes") in call.initial_metadata()
    assert dict(call.trailing_metadata())["x-trailing-bin"] == b"\xab\xab\xab"
    assert dict(call.initial_metadata())["nvcf-reqid"]
    assert b'["x-mine-bin","AP8Q"]' in answer, answer


def trailers_only():
    more = told(("x-echo-trailers-only", "1"), ("x-echo-trailer", "grpc-status: 9"), ("x-echo-trailer", "x-why: asked"))
    error = fails(grpc.StatusCode.FAILED_PRECONDITION, unary, b"", metadata=more, timeout=20)
    assert ("x-why", "asked") in error.trailing_metadata()
    assert dict(error.trailing_metadata())["nvcf-reqid"], "C-RSP-1, as trailing metadata"


def unimplemented_method():
    more = told(("x-echo-trailers-only", "1"), ("x-echo-trailer", "grpc-status: 12"))
    fails(grpc.StatusCode.UNIMPLEMENTED, channel.unary_unary("/conformance.Echo/No", *raw), b"", metadata=more, timeout=20)


def fault():
    error = fails(grpc.StatusCode.UNAUTHENTICATED, unary, b"", metadata=KEYS[1:], timeout=20)
    assert error.details() == "no authorization was passed in the metadata"
    error = fails(grpc.StatusCode.NOT_FOUND, unary, b"", timeout=20, metadata=told(("nvcf-reqid", "67e55044-10b1-426f-9247-bb680e5fe0c8")))
    assert error.details() == "no existing session found"


def resume():
    _, call = unary.with_call(b"", metadata=told(MIRROR), timeout=20)
    own = dict(call.initial_metadata())["nvcf-reqid"]
    other = grpc.insecure_channel(TARGET, options=OPTIONS)
    _, call = other.unary_unary(METHOD, *raw).with_call(b"", metadata=told(MIRROR, ("nvcf-reqid", own)), timeout=20)
    assert dict(call.initial_metadata())["nvcf-reqid"] == own


for case in (
    empty_unary, large_unary, client_streaming, server_streaming, ping_pong, empty_stream,
    cancel_after_begin, cancel_after_first_response, deadline, status_with_text, custom_metadata,
    trailers_only, unimplemented_method, fault, resume,
):
    try:
        case()
        report(case.__name__)
    except Exception as error:
        report(case.__name__, error)
finish()
