"""tritonclient against the demo function: one session over unary calls and a stream, and a resume."""

import os
import queue
import traceback

import numpy as np
import tritonclient.grpc as triton

HEADERS = {
    "authorization": os.environ["CASE_AUTHORIZATION"],
    "function-id": os.environ["CASE_FUNCTION"],
}


def x(value):
    tensor = triton.InferInput("x", [1], "INT64")
    tensor.set_data_from_numpy(np.array([value], dtype=np.int64))
    return [tensor]


def seen(result):
    session = result.as_numpy("session")[0].decode()
    return int(result.as_numpy("sum")[0]), session


def main():
    client = triton.InferenceServerClient(os.environ["CASE_TARGET"])
    total, session = seen(client.infer("sum", x(20), headers=HEADERS))
    assert total == 20
    assert seen(client.infer("sum", x(20), headers=HEADERS)) == (40, session)
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=HEADERS)
    for expected in (41, 42):
        client.async_stream_infer("sum", x(1))
        result, error = answers.get(timeout=30)
        assert error is None, error
        assert seen(result) == (expected, session)
    client.stop_stream()
    client.close()
    again = triton.InferenceServerClient(os.environ["CASE_TARGET"])
    resumed = again.infer("sum", x(8), headers={**HEADERS, "nvcf-reqid": session})
    assert seen(resumed) == (50, session)


try:
    main()
    print("ok triton")
except Exception:
    traceback.print_exc()
    raise SystemExit("not ok triton")
