"""Server reflection, v1 and v1alpha: the same protocol under two names.

grpcio-reflection knows v1alpha only, and newer clients ask for v1 first. Their
messages are the same on the wire, so one servicer answers for both.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha import reflection_pb2_grpc as v1alpha

V1ALPHA = "grpc.reflection.v1alpha"
V1 = "grpc.reflection.v1"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Add the reflection services to `server`."""
    pool = descriptor_pool.Default()
    _describe_v1(pool)
    names = [*services, f"{V1}.ServerReflection", f"{V1ALPHA}.ServerReflection"]
    servicer = reflection.aio.ReflectionServicer(names, _MethodsToo(pool))
    v1alpha.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_registered_method_handlers(
        f"{V1}.ServerReflection", {"ServerReflectionInfo": method}
    )


class _MethodsToo:
    """A pool whose symbols include methods: `grpcurl describe` asks for them."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        """Find the file that defines `symbol`. Raises KeyError if there is none."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            method: MethodDescriptor = self._pool.FindMethodByName(symbol)
            return method.containing_service.file


def _describe_v1(pool: descriptor_pool.DescriptorPool) -> None:
    """Register the v1 service by renaming the package of v1alpha."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = V1
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(V1ALPHA, V1)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(V1ALPHA, V1)
            method.output_type = method.output_type.replace(V1ALPHA, V1)
    pool.AddSerializedFile(file.SerializeToString())
