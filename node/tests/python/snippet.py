"""The snippet of the public documentation that existing programs were made from, unchanged but for
the model that it calls.
"""

import os

import grpc
from tritonclient.grpc import service_pb2 as grpc_service_pb2
from tritonclient.grpc import service_pb2_grpc as grpc_service_pb2_grpc

GRPC_GATEWAY_ADDR = os.environ["GRPC_GATEWAY_ADDR"]
FUNCTION_ID = os.environ["FUNCTION_ID"]
FUNCTION_VERSION_ID = os.environ["FUNCTION_VERSION_ID"]
API_KEY = os.environ["API_KEY"]


def call_grpc() -> None:
    channel = grpc.insecure_channel(f"{GRPC_GATEWAY_ADDR}:10081")
    grpc_client = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)

    infer_request = grpc_service_pb2.ModelInferRequest(model_name="identity")
    tensor = infer_request.inputs.add(name="INPUT", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"hello")

    # optionally, pass the version, and the id of an earlier session
    metadata = [
        ("function-id", FUNCTION_ID),
        ("function-version-id", FUNCTION_VERSION_ID),
        ("authorization", f"Bearer {API_KEY}"),
    ]
    infer_response = grpc_client.ModelInfer(infer_request, metadata=metadata)
    print(infer_response)

    channel.close()


call_grpc()
