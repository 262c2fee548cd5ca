"""TLS with the CA of a development cluster, and credentials of the call that change in mid-connection."""

import os

import grpc
from tritonclient.grpc import service_pb2 as pb

from cases import KEYS, OPTIONS, TARGET, finish, report

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Rotating(grpc.AuthMetadataPlugin):
    """Hands out one credential after the other, as a token that is renewed."""

    def __init__(self, tokens):
        self.tokens, self.used = tokens, 0

    def __call__(self, context, callback):
        token = self.tokens[self.used]
        self.used += 1
        callback((("authorization", token),), None)


def rotation():
    with open(os.environ["CASE_CA"], "rb") as file:
        channel_credentials = grpc.ssl_channel_credentials(file.read())
    good = os.environ["CASE_AUTHORIZATION"]
    plugin = Rotating([good, good, "Bearer wrong", good])
    both = grpc.composite_channel_credentials(
        channel_credentials, grpc.metadata_call_credentials(plugin)
    )
    channel = grpc.secure_channel(TARGET, both, options=OPTIONS)
    unary = channel.unary_unary(METHOD)
    request = pb.ModelInferRequest(model_name="sum")
    tensor = request.inputs.add(name="x", datatype="INT64", shape=[1])
    tensor.contents.int64_contents.append(1)
    sessions = []
    for expected in (None, None, grpc.StatusCode.UNAUTHENTICATED, None):
        try:
            _, call = unary.with_call(request.SerializeToString(), metadata=KEYS[1:], timeout=20)
            assert expected is None, "a wrong token was taken"
            initial = call.initial_metadata()
            sessions.append(dict(initial)["nvcf-reqid"])
            cookies = [value for name, value in initial if name == "set-cookie"]
            assert all(value.endswith("; Secure") for value in cookies), cookies
        except grpc.RpcError as error:
            assert error.code() is expected, error
    assert len(sessions) == 3 and len(set(sessions)) == 1, sessions


try:
    rotation()
    report("rotation")
except Exception as error:
    report("rotation", error)
finish()
