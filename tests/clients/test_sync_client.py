from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime, timezone

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from llm_serving_engine.clients import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Delta,
    InvalidArgument,
    ResourceExhausted,
    ServerError,
    Started,
    Timings,
    Usage,
)
from llm_serving_engine.clients.results import Finished

FINISHED = Finished("max_tokens", Usage(3, 1, 3), Timings(0.25, 1.0, 2.5, 1.25))
RETRY_IN_1_MS = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=1_000_000))


@pytest.fixture
def client(server):
    with Client(server.address, timeout=30) as client:
        yield client


def test_generate_gives_the_whole_answer(client):
    answer = client.generate("hi", max_tokens=3, top_logprobs=1, request_id="r1")
    assert (answer.text, answer.token_ids) == ("w0 w1 w2 ", (0, 1, 2))
    assert (answer.request_id, answer.model) == ("r1", "tiny")
    assert (answer.finish_reason, answer.usage, answer.timings) == (
        FINISHED.finish_reason,
        FINISHED.usage,
        FINISHED.timings,
    )
    assert [position.chosen.token for position in answer.logprobs] == [b"w0 ", b"w1 ", b"w2 "]
    assert answer.logprobs[0].top[1].logprob == -1.5


def test_a_streams_deltas_join_to_what_generate_gives(client):
    stream = client.stream("hi", max_tokens=3)
    deltas = list(stream)
    assert deltas[0] == Delta("w0 ", (0,), ())
    assert "".join(delta.text for delta in deltas) == stream.text == "w0 w1 w2 "
    assert stream.token_ids == (0, 1, 2)
    assert stream.started == Started("made-up", "tiny", 3, 0)
    assert stream.finished == FINISHED


def test_options_and_metadata_reach_the_server(server):
    with Client(server.address, tenant="acme", metadata=[("traceparent", "00-a-b-01")]) as client:
        client.generate([1, 2], max_tokens=1, priority="high")
    assert list(server.requests[0].prompt_tokens.ids) == [1, 2]
    assert server.requests[0].priority == 3
    assert server.metadata[0]["x-tenant-id"] == "acme"
    assert server.metadata[0]["traceparent"] == "00-a-b-01"


def test_leaving_the_loop_ends_the_request(server, client):
    server.hang_after = 2
    for delta in client.stream("hi", max_tokens=9):
        if delta.token_ids == (1,):
            break
    assert server.ended.wait(30)


def test_an_error_in_the_loop_ends_the_request(server, client):
    server.hang_after = 1

    def fail():
        for delta in client.stream("hi", max_tokens=9):
            raise ValueError(delta.text)

    with pytest.raises(ValueError, match="w0"):
        fail()
    assert server.ended.wait(30)


def test_leaving_the_with_block_ends_the_request(server, client):
    server.hang_after = 1
    with client.stream("hi", max_tokens=9) as stream:
        assert next(iter(stream)).text == "w0 "
    assert server.ended.wait(30)
    assert stream.finished is None


def test_cancel_from_another_thread_ends_the_loop_without_an_error(server, client):
    server.hang_after = 1
    stream = client.stream("hi", max_tokens=9)
    texts = []
    for delta in stream:
        texts.append(delta.text)
        threading.Thread(target=stream.cancel).start()
    assert texts == ["w0 "]
    assert stream.finished is None
    assert server.ended.wait(30)


def test_a_deadline_that_passes(server, client):
    server.hang_after = 0
    with pytest.raises(DeadlineExceeded) as caught:
        client.generate("hi", max_tokens=1, timeout=0.05)
    assert caught.value.reason == ""
    with pytest.raises(DeadlineExceeded):
        list(client.stream("hi", max_tokens=1, timeout=0.05))


def test_errors_carry_their_details(server, client):
    violation = error_details_pb2.BadRequest.FieldViolation(field="max_tokens")
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    refusal = server.fail(grpc.StatusCode.INVALID_ARGUMENT, "max_tokens: too many", bad_request)
    server.failures = [refusal, refusal]
    with pytest.raises(InvalidArgument, match=r"^max_tokens: too many$") as caught:
        client.generate("hi")
    assert caught.value.field == "max_tokens"
    with pytest.raises(InvalidArgument):
        list(client.stream("hi"))


def test_a_stream_that_fails_half_way_keeps_what_came(server, client):
    server.fail_after = (2, server.fail(grpc.StatusCode.INTERNAL))
    stream = client.stream("hi", max_tokens=9)
    with pytest.raises(ServerError):
        list(stream)
    assert stream.text == "w0 w1 "
    assert stream.finished is None


def test_a_stream_without_its_last_event_is_an_error(server, client):
    server.truncated = True
    with pytest.raises(ServerError, match="before its last event"):
        list(client.stream("hi", max_tokens=2))


def test_no_server_listens():
    with Client("127.0.0.1:1") as client, pytest.raises(ConnectionFailed):
        client.generate("hi")


def test_refusals_are_tried_again_as_the_server_asks(server):
    full = server.fail(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", RETRY_IN_1_MS, grpc_retry_pushback_ms="1"
    )
    server.failures = [full, full]
    with Client(server.address, attempts=3, timeout=30) as client:
        assert client.generate("hi", max_tokens=1).text == "w0 "
        assert len(server.requests) == 3
        server.failures = [full, full]
        assert "".join(delta.text for delta in client.stream("hi", max_tokens=1)) == "w0 "
    assert len(server.requests) == 6


def test_a_server_that_says_never_is_not_asked_again(server):
    never = server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", grpc_retry_pushback_ms="-1")
    server.failures = [never]
    with Client(server.address, attempts=3) as client, pytest.raises(ResourceExhausted):
        client.generate("hi")
    assert len(server.requests) == 1


def test_one_attempt_is_the_default(server, client):
    server.failures = [
        server.fail(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "full", RETRY_IN_1_MS, grpc_retry_pushback_ms="1"
        )
    ]
    with pytest.raises(ResourceExhausted) as caught:
        client.generate("hi")
    assert caught.value.retry_after == 0.001
    assert len(server.requests) == 1


def test_nothing_is_tried_again_once_output_has_come(server):
    server.fail_after = (1, server.fail(grpc.StatusCode.UNAVAILABLE, "gone", RETRY_IN_1_MS))
    with Client(server.address, attempts=5, timeout=30) as client:
        stream = client.stream("hi", max_tokens=2)
        with pytest.raises(Exception, match="gone"):
            list(stream)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "arguments", [{"attempts": 0}, {"attempts": 101}, {"retry_seconds": -1}, {"keepalive": 0}]
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Client(**arguments)


def test_tokenize(client):
    tokens = client.tokenize("to be", model="tiny")
    assert (tokens.model, tokens.token_ids, tokens.tokens) == ("tiny", (0, 1), (b"to", b"be"))
    assert client.tokenize([{"role": "user", "content": "a b c"}]).token_ids == (0, 1, 2)


def test_detokenize(client):
    assert client.detokenize([1, 2], model="tiny") == "1 2"
    assert client.detokenize((1, 2), show_special=True) == "<1> <2>"


def test_models(client):
    tiny, loading = client.models()
    assert (tiny.name, tiny.state, tiny.is_default) == ("tiny", "ready", True)
    assert tiny.capabilities.sequences_max == 4
    assert tiny.capabilities.chat
    assert (loading.state, loading.capabilities) == ("loading", None)
    assert client.model() == tiny


def test_the_schedulers_state(client):
    state = client.scheduler_state()
    assert state.time == datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert (state.queues[0].priority, state.queues[0].tokens) == ("high", 300)
    assert [slot.state for slot in state.slots] == ["decode", "free"]
    assert (state.slots[0].priority, state.slots[0].tenant) == ("normal", "acme")
    assert (state.last_step.number, state.last_step.duration) == (12, 0.01)
    assert (state.tokens_per_second, state.outcomes) == (42.5, {"finished": 3})


def test_watching_ends_with_the_loop(server, client):
    states = client.watch_scheduler_state("tiny", interval=0.5)
    assert next(states) == next(states)
    assert server.watched.interval.ToMilliseconds() == 500
    states.close()
    assert server.ended.wait(30)


def test_the_commands_can_be_imported_without_grpc():
    code = "import sys, llm_serving_engine.clients.commands; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_exported_name_is_there():
    from llm_serving_engine import clients

    assert all(getattr(clients, name).__name__ == name for name in clients.__all__)
    with pytest.raises(AttributeError, match="Klient"):
        clients.Klient  # noqa: B018
