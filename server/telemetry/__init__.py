"""Telemetry: a trace per request, metrics, and logs.

Telemetry observes. Everything here is derived from the transitions that a
request went through (`Sequence.history`) and from the steps that were run;
nothing here decides, and nothing here sees prompts or output.
"""
