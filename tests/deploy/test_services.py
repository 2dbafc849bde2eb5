"""Compose, the collector, Prometheus, Grafana, Envoy, systemd, launchd: they fit the server."""

from __future__ import annotations

import json
import plistlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from llm_serving_engine.server.config import ServerConfig
from llm_serving_engine.server.telemetry.metrics import Metrics

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
UNIT = DEPLOY / "systemd" / "llm-serving-engine.service"
CONFIG = ServerConfig.model_construct()
OWN_METRIC = re.compile(r"\b(?:llm_serving_engine|gen_ai_server)_\w+")


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboards" / "llm-serving-engine.json").read_text())


def exported() -> set[str]:
    """The names that the server's metrics have in queries."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.observer("m", 1)
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in suffixes.get(family.type, ("",))
    }


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def test_every_metric_of_the_dashboard_is_exported() -> None:
    text = json.dumps([panel.get("targets", []) for panel in dashboard()["panels"]])
    named = set(OWN_METRIC.findall(text))
    assert len(named) >= 15
    assert named - exported() == set()


def test_the_dashboard_shows_every_metric_of_ours() -> None:
    text = json.dumps(dashboard())
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in exported() if OWN_METRIC.match(name)
    }
    assert {name for name in ours if name not in text} == set()


def test_the_panels_do_not_overlap() -> None:
    cells = [
        (column, line)
        for panel in dashboard()["panels"]
        for place in [panel["gridPos"]]
        for column in range(place["x"], place["x"] + place["w"])
        for line in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24


def test_the_dashboard_asks_sources_that_are_provisioned() -> None:
    sources = load("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    asked = set(re.findall(r'"uid": "(\w+)"}', json.dumps(dashboard()["panels"])))
    assert asked
    assert asked <= {source["uid"] for source in sources}


def test_what_compose_mounts_exists() -> None:
    mounts = [
        volume.split(":")[0]
        for service in load("compose.yaml")["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    assert mounts
    assert [mount for mount in mounts if not (DEPLOY / mount).exists()] == []


def test_compose_publishes_on_loopback_only() -> None:
    ports = [p for s in load("compose.yaml")["services"].values() for p in s.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_the_services_find_each_other() -> None:
    services = load("compose.yaml")["services"]
    environment = services["server"]["environment"]
    collector = load("otel-collector/config.yaml")
    prometheus = load("prometheus/prometheus.yml")
    sources = load("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    endpoints = {
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"],
        *(exporter["endpoint"] for exporter in collector["exporters"].values()),
        *prometheus["scrape_configs"][0]["static_configs"][0]["targets"],
        *(source["url"] for source in sources),
    }
    hosts = {re.sub(r"^http://", "", endpoint).split(":")[0] for endpoint in endpoints}
    assert hosts <= set(services)
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == [
        f"server:{CONFIG.http.port}"
    ]


def test_the_collector_uses_what_it_defines() -> None:
    collector = load("otel-collector/config.yaml")
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])


def test_envoy_cuts_no_stream() -> None:
    static = load("envoy/envoy.yaml")["static_resources"]
    manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    [route] = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert route["route"]["timeout"] == "0s"
    assert route["route"]["max_stream_duration"] == {"grpc_timeout_header_max": "0s"}
    assert manager["request_timeout"] == "0s"
    assert "resource-exhausted" not in route["route"]["retry_policy"]["retry_on"]


def test_envoy_asks_no_more_often_than_the_server_allows() -> None:
    [cluster] = load("envoy/envoy.yaml")["static_resources"]["clusters"]
    [options] = cluster["typed_extension_protocol_options"].values()
    keepalive = options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]
    assert float(keepalive["interval"].rstrip("s")) > CONFIG.grpc.ping_interval_min_seconds


def test_everything_waits_longer_than_the_server_drains() -> None:
    plist = plistlib.loads((DEPLOY / "launchd" / "llm-serving-engine.plist").read_bytes())
    compose = load("compose.yaml")["services"]["server"]["stop_grace_period"]
    waits = [int(unit()["TimeoutStopSec"][0]), plist["ExitTimeOut"], int(compose.rstrip("s"))]
    assert min(waits) > CONFIG.drain_seconds


def test_launchd_and_systemd_run_the_same_command() -> None:
    plist = plistlib.loads((DEPLOY / "launchd" / "llm-serving-engine.plist").read_bytes())
    [command] = unit()["ExecStart"]
    assert plist["ProgramArguments"][:-1] == command.split()[:-1]
    assert plist["ProgramArguments"][1:3] == ["serve", "--config"]


def test_systemd_leaves_runners_to_the_server() -> None:
    assert unit()["KillMode"] == ["mixed"]
    assert unit()["OOMPolicy"] == ["continue"]
    assert unit()["Restart"] == ["on-failure"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    # A command that exists, as systemd looks for it.
    there = tmp_path / UNIT.name
    there.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/sh", UNIT.read_text()))
    command = ["systemd-analyze", "verify", str(there)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr
