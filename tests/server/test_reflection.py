"""Server reflection, in both of its versions."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2
from running_server import RunningServer

from llm_serving_engine.v1 import inference_pb2

VERSIONS = ("v1", "v1alpha")


async def ask(
    server: RunningServer, version: str, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    """The answers; both versions are the same bytes on the wire."""
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [answer async for answer in call(iter(requests))]


async def describe(server: RunningServer, version: str, symbol: str) -> set[str]:
    """Names of the files that describe a symbol, after checking that they are whole."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    (answer,) = await ask(server, version, request)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    pool = descriptor_pool.DescriptorPool()
    waiting = {file.name: file for file in files}
    while waiting:
        # A file can be added once all that it imports is there.
        ready = [f for f in waiting.values() if not set(f.dependency) & waiting.keys()]
        for file in ready:
            pool.Add(waiting.pop(file.name))
    assert pool.FindFileContainingSymbol(symbol)  # type: ignore[truthy-bool]
    return {file.name for file in files}


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_services(scripted: RunningServer, version: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="*")
    (answer,) = await ask(scripted, version, request)
    assert {service.name for service in answer.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "llm_serving_engine.v1.InferenceService",
        "llm_serving_engine.v1.ModelService",
        "llm_serving_engine.v1.OperationsService",
    }


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_service_is_described(scripted: RunningServer, version: str) -> None:
    inference = await describe(scripted, version, "llm_serving_engine.v1.InferenceService")
    assert inference_pb2.DESCRIPTOR.name in inference
    for name in (
        "llm_serving_engine.v1.ModelService",
        "llm_serving_engine.v1.OperationsService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ):
        assert await describe(scripted, version, name)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_method_is_described(scripted: RunningServer, version: str) -> None:
    method, service = (
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        for symbol in (
            "llm_serving_engine.v1.InferenceService.Stream",
            "llm_serving_engine.v1.InferenceService",
        )
    )
    answers = await ask(scripted, version, method, service)
    assert answers[0].file_descriptor_response.file_descriptor_proto
    assert answers[0].file_descriptor_response == answers[1].file_descriptor_response


@pytest.mark.parametrize("symbol", ["no.such.Service", "no.such.Service.Method", "", "."])
@pytest.mark.parametrize("version", VERSIONS)
async def test_an_unknown_symbol(scripted: RunningServer, version: str, symbol: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    (answer,) = await ask(scripted, version, request)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
