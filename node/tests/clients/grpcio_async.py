"""The interop cases of gRPC with grpcio's asyncio API."""

import asyncio

import grpc

from cases import METHOD, OPTIONS, TARGET, finish, report, told

MIRROR = ("x-echo-mirror", "1")


async def empty_unary(call):
    assert await call.unary_unary(METHOD)(b"", metadata=told(MIRROR), timeout=20) == b""


async def many_at_once(call):
    unary = call.unary_unary(METHOD)
    answers = await asyncio.gather(*(unary(b"%d" % at, metadata=told(MIRROR), timeout=30) for at in range(100)))
    assert answers == [b"%d" % at for at in range(100)]


async def ping_pong(call):
    stream = call.stream_stream(METHOD)(metadata=told(MIRROR), timeout=20)
    for size in (27182, 8, 1828, 45904):
        await stream.write(b"p" * size)
        assert len(await stream.read()) == size
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def server_streaming(call):
    more = told(("x-echo-messages", "1000"), ("x-echo-size", "1000"))
    sizes = [len(one) async for one in call.unary_stream(METHOD)(b"", metadata=more, timeout=20)]
    assert sizes == [1000] * 1000


async def cancelled(call):
    stream = call.stream_stream(METHOD)(metadata=told(MIRROR), timeout=20)
    await stream.write(b"first")
    assert await stream.read() == b"first"
    assert stream.cancel()
    assert await stream.code() is grpc.StatusCode.CANCELLED


async def deadline(call):
    try:
        await call.unary_unary(METHOD)(b"", metadata=told(("x-echo-hold", "1")), timeout=0.5)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
        return
    raise AssertionError("a deadline was expected")


async def main():
    channel = grpc.aio.insecure_channel(TARGET, options=OPTIONS)
    cases = (empty_unary, many_at_once, ping_pong, server_streaming, cancelled, deadline)
    for case in cases:
        try:
            await case(channel)
            report(case.__name__)
        except Exception as error:
            report(case.__name__, error)
    await channel.close()


asyncio.run(main())
finish()
