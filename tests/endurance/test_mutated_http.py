"""100,000 HTTP requests that are mutated, half sent, slow, pipelined, or cut."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from bad_http import __file__ as sender
from probed_process import LITTLE_WORK, Memory, probed_process
from probed_serve import read_stalls
from serve_process import ServeProcess

from llm_serving_engine.clients import Client

REQUESTS = int(os.environ.get("ENDURANCE_HTTP_REQUESTS", "100000"))
SEED = 7
STALL_SECONDS_MAX = 0.05
GROWTH_BYTES_MAX = 5e6
SETTINGS = {
    **LITTLE_WORK,
    # Kept responses fill up to their bound; here they are full early.
    "LLM_SERVING_ENGINE_HTTP__RESPONSES_BYTES_MAX": "1000000",
}


async def bombard(server: ServeProcess) -> tuple[dict[str, int], Memory]:
    """Send all requests: how many of each kind ended how, and the server's memory meanwhile."""
    port = server.http.rpartition(":")[2]
    others = await asyncio.create_subprocess_exec(
        *(sys.executable, sender, port, str(REQUESTS), str(SEED)), stdout=asyncio.subprocess.PIPE
    )
    memory, done = Memory(server), asyncio.Event()
    watching = asyncio.create_task(memory.until(done))
    output, _ = await others.communicate()
    done.set()
    await watching
    assert others.returncode == 0
    return json.loads(output), memory


async def test_mutated_requests(tmp_path: Path, tiny_quantized_model_path: Path) -> None:
    stall_file, log = tmp_path / "stalls", tmp_path / "log"
    model = ("--model", str(tiny_quantized_model_path))
    with probed_process(stall_file, log, *model, env=SETTINGS) as server:
        runner = server.runner.pid
        # Loading is over: what it held up is not looked at.
        stall_file.unlink()
        began = time.perf_counter()
        ends, memory = await bombard(server)
        seconds = time.perf_counter() - began
        stalls = read_stalls(stall_file)
        assert server.runner.pid == runner
        with Client(server.address) as client:
            # Whatever was left holds nothing.
            state = client.scheduler_state()
            assert [slot.request_id for slot in state.slots if slot.request_id] == []
            assert client.generate("Once upon a time", max_tokens=4, ignore_eos=True).text
        server.signal(signal.SIGTERM)
        code = server.process.wait()
    print(
        f"\n{sum(ends.values())} answers in {seconds:.0f} s: {ends}",
        "longest stalls:",
        *stalls,
        memory,
        sep="\n",
    )
    assert (code, log.read_text()) == (0, "")
    assert [end for end in ends if "unexpected" in end] == []
    assert stalls[0].own < STALL_SECONDS_MAX
    assert memory.growth < GROWTH_BYTES_MAX
