"""The synchronous client over a channel that the test plays the server of, event by event."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc_testing
import pytest

from llm_serving_engine.clients import Client, RequestCancelled
from llm_serving_engine.v1 import generation_pb2, inference_pb2

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
STREAM = SERVICE.methods_by_name["Stream"]
GENERATE = SERVICE.methods_by_name["Generate"]


def delta(text):
    return inference_pb2.StreamResponse(delta=inference_pb2.StreamResponse.Delta(text=text))


FINISHED = inference_pb2.StreamResponse(
    finished=inference_pb2.StreamResponse.Finished(
        finish_reason=generation_pb2.FINISH_REASON_STOP_SEQUENCE
    )
)


@pytest.fixture
def channel():
    return grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())


@pytest.fixture
def client(channel):
    with Client(channel=channel, tenant="acme") as client:
        yield client


def test_deltas_come_one_by_one(channel, client):
    stream = client.stream("hi", max_tokens=2)
    metadata, request, call = channel.take_unary_stream(STREAM)
    assert ("x-tenant-id", "acme") in metadata
    assert (request.prompt, request.max_tokens) == ("hi", 2)
    call.send_initial_metadata(())
    deltas = iter(stream)
    for text in ("a", "", "é"):
        call.send_response(delta(text))
        assert next(deltas).text == text
    assert stream.text == "aé"
    assert stream.finished is None
    call.send_response(FINISHED)
    call.terminate((), grpc.StatusCode.OK, "")
    assert list(deltas) == []
    assert stream.finished.finish_reason == "stop_sequence"  # type: ignore[attr-defined]


def test_an_event_of_a_newer_server_is_passed_over(channel, client):
    stream = client.stream("hi")
    _, _, call = channel.take_unary_stream(STREAM)
    call.send_initial_metadata(())
    for response in (inference_pb2.StreamResponse(), delta("a"), FINISHED):
        call.send_response(response)
    call.terminate((), grpc.StatusCode.OK, "")
    assert [item.text for item in stream] == ["a"]


def test_a_finish_reason_of_a_newer_server_is_unspecified(channel, client):
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.generate, [7])
        _, request, call = channel.take_unary_unary(GENERATE)
        assert list(request.prompt_tokens.ids) == [7]
        call.send_initial_metadata(())
        response = inference_pb2.GenerateResponse(text="a", finish_reason=99)  # type: ignore[arg-type]
        call.terminate(response, (), grpc.StatusCode.OK, "")
        assert answer.result(30).finish_reason == "unspecified"


def test_a_cancellation_that_the_caller_did_not_ask_for_is_an_error(channel, client):
    stream = client.stream("hi")
    _, _, call = channel.take_unary_stream(STREAM)
    call.send_initial_metadata(())
    call.terminate((), grpc.StatusCode.CANCELLED, "drained")
    with pytest.raises(RequestCancelled, match="drained"):
        list(stream)
