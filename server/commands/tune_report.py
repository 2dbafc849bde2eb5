"""How `tune` tells what it found: a configuration file with reasons, and a table."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import typer
from rich.console import Console
from rich.table import Table

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.cpu import cpu_name
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.tuning.candidates import cache_bytes, with_value
from llm_serving_engine.backends.tuning.decision import STEP_TARGET_MAX_SECONDS, Value
from llm_serving_engine.backends.tuning.search import Choice, Tuning

HEADER = ("SETTING", "TRIED", "CHOSEN", "GAIN")
# What others may take of the machine without a word about it.
BUSY = 0.15


@dataclass(frozen=True, slots=True)
class Report:
    """A tuning, with what it was made for.

    Attributes:
        tuning: What was found.
        info: The model.
        reference: The model, as `serve --model` takes it.
        clients: How many are served at the same time.
        busy: The share of the processors that others took before it began.
        date: When it was made.
    """

    tuning: Tuning
    info: ModelInfo
    reference: str
    clients: int
    busy: float
    date: datetime.date

    def toml(self) -> str:
        """The configuration, which `serve --config` takes."""
        settings, target = self.tuning.settings, self.tuning.step_target_seconds
        context = settings.context_per_sequence
        lines = [
            *(f"# {_plain(line)}" for line in self._facts()),
            "",
            "[model]",
            f"reference = {_literal(self.reference)}",
            "",
            "[model.runner]",
        ]
        for choice in self.tuning.choices:
            lines += self._setting(choice)
        lines += [
            f"context_per_sequence = {context}  # {self._memory()}",
            "",
            "[scheduler]",
            f"step_target_seconds = {target}  # {self._step()}",
        ]
        return "\n".join(lines) + "\n"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The table: setting, what was tried, what is chosen, and what that gains."""
        rows = [
            (
                choice.name,
                ", ".join(map(str, sorted_values(choice))),
                str(choice.value),
                gains(choice) or "the default; nothing was measured against it",
            )
            for choice in self.tuning.choices
        ]
        target = str(self.tuning.step_target_seconds)
        return [*rows, ("step_target_seconds", "", target, self._step())]

    def notes(self) -> list[str]:
        """What the table leaves out, one line each."""
        left_out = [
            f"not tried: {choice.name} {value} ({reason})"
            for choice in self.tuning.choices
            for value, reason in choice.left_out
        ]
        return [self._speed(), *left_out, *self._doubts()]

    def _doubts(self) -> Iterable[str]:
        if self.busy > BUSY:
            yield (
                f"others took {self.busy:.0%} of the machine just before: "
                "what was measured may mislead; try again when it is quiet"
            )

    def _facts(self) -> Iterable[str]:
        info, tuning, mix = self.info, self.tuning, self.tuning.reading.mix
        size = f"{info.parameter_count / 1e6:,.1f} M parameters, {_megabytes(info.weights_bytes)}"
        yield f"Written by `llm-serving-engine tune` on {self.date}, in {tuning.seconds:.0f} s."
        yield f"Machine: {machine_facts()}; others took {self.busy:.0%} of it just before."
        yield f"Model: {info.description}, {info.architecture}, {info.quantization}, {size}."
        yield (
            f"For {self.clients} clients at a time, each with a prompt of "
            f"{mix.prompt_tokens} tokens and {mix.output_tokens} of output:"
        )
        yield self._speed()

    def _setting(self, choice: Choice) -> Iterable[str]:
        default = "the default" if choice.value == choice.default else ""
        reasons = filter(None, (gains(choice) or default, self._cost(choice)))
        comment = "; ".join(reasons)
        if _left_to_server(choice):
            yield f"# {choice.name} is left to the server, as it was compared with nothing here"
        else:
            yield f"{choice.name} = {_literal(choice.value)}" + (comment and f"  # {comment}")
        for value, reason in choice.left_out:
            yield f"# {choice.name} = {_literal(value)} was not tried: {reason}"

    def _cost(self, choice: Choice) -> str:
        """What a choice costs or saves beside speed."""
        if choice.name == "cache_type":
            settings = self.tuning.settings
            sizes = (
                f"{_megabytes(cache_bytes(with_value(settings, choice.name, value), self.info))}"
                f" as {value}"
                for value in (choice.value, *_others(choice), *(one for one, _ in choice.left_out))
            )
            return "the cache takes " + ", ".join(sizes)
        if choice.name == "prefill_chunk" and choice.value != choice.default:
            lost = "" if self.tuning.batch_invariant else '; excludes determinism "batch_invariant"'
            return f"gaps in streams and common prefixes come in units of it{lost}"
        return ""

    def _memory(self) -> str:
        settings = self.tuning.settings
        size = _megabytes(cache_bytes(settings, self.info))
        return f"tokens of each of the {settings.sequences} sequences: {size} of cache"

    def _speed(self) -> str:
        reading = self.tuning.reading
        decode = f"decode {reading.rows / reading.decode_step_seconds:,.0f} tokens/s"
        prefill = f"prefill {1 / reading.prefill_token_seconds:,.0f} tokens/s"
        overall = f"{reading.tokens_per_second:,.0f} output tokens/s overall"
        return f"{overall} ({decode} with {reading.rows} streams, {prefill})."

    def _step(self) -> str:
        reading, chunk = self.tuning.reading, self.tuning.settings.prefill_chunk
        decode, prefill = reading.decode_step_seconds, chunk * reading.prefill_token_seconds
        rows = f"{decode * 1000:.0f} ms for {reading.rows} rows"
        tokens = f"{prefill * 1000:.0f} ms for {chunk} prompt tokens"
        held = decode + prefill > STEP_TARGET_MAX_SECONDS
        bound = "; held down, as streams would stutter" if held else ""
        return f"{rows}, {tokens}{bound}"


def _left_to_server(choice: Choice) -> bool:
    """Whether the server knows better: it measures chunks when it loads the model."""
    return choice.name == "prefill_chunk" and choice.value == choice.default and not choice.trials


def gains(choice: Choice) -> str:
    """How many times faster the chosen value is than each other one; empty where none was tried."""
    speeds = {trial.value: trial.gain for trial in choice.trials} | {choice.default: 1.0}
    ratios = {value: speeds[choice.value] / speeds[value] for value in _others(choice)}
    parts = ", ".join(f"{ratio:.2f} x the tokens/s of {value}" for value, ratio in ratios.items())
    if choice.value == choice.default and min(ratios.values(), default=1) < 1:
        return f"the default, as nothing won clearly; {parts}"
    return parts


def sorted_values(choice: Choice) -> list[Value]:
    """What was measured, the default included, in order."""
    return sorted({choice.default, *(trial.value for trial in choice.trials)}, key=_order)


def print_report(report: Report, console: Console) -> None:
    """Show the table: on a terminal as one, else with tabs."""
    if not console.is_terminal:
        for line in ["\t".join(row) for row in (HEADER, *report.rows())] + report.notes():
            typer.echo(line, file=console.file)
        return
    table = Table(box=None, pad_edge=False)
    for title in HEADER:
        table.add_column(title, overflow="fold")
    for row in report.rows():
        table.add_row(*row)
    console.print(table)
    for line in report.notes():
        console.print(line, style="dim", markup=False, highlight=False)


def machine_facts() -> str:
    """The machine in a few words."""
    physical, logical = machine.compute_threads(), machine.logical_cores()
    cores = f"{physical} cores" + (f", {logical} logical" if logical != physical else "")
    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB"
    return f"{cpu_name()}, {cores}, {memory}, {platform.system()}"


def _plain(text: str) -> str:
    """A text that stays on its line of comment, whatever a model's file calls itself."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _others(choice: Choice) -> list[Value]:
    return [value for value in sorted_values(choice) if value != choice.value]


def _order(value: Value) -> tuple[int, str]:
    return (value, "") if isinstance(value, int) else (0, value)


def _literal(value: Value) -> str:
    """A value in TOML, whose strings are JSON's but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
