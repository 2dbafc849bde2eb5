"""Limits of control groups, in both versions, at every level."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_system import CPU, MEMORY, UNIFIED, FakeSystem

from llm_serving_engine.backends.control_groups import ControlGroups, MemoryLimit

V1_UNLIMITED = "9223372036854771712"


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def test_no_groups_no_limits(system: FakeSystem) -> None:
    groups = ControlGroups(system.root)
    assert groups.cores() is None
    assert groups.memory() is None


def test_the_system_itself_can_be_read() -> None:
    groups = ControlGroups()
    assert (groups.cores() or 1) > 0
    limit = groups.memory()
    assert limit is None or 0 <= limit.left <= limit.bytes


@pytest.mark.parametrize(
    ("share", "cores"),
    [
        ("max 100000", None),
        ("250000 100000", 2.5),
        ("50000 100000", 0.5),
        ("100000 0", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_a_share_in_version_2(system: FakeSystem, share: str, cores: float | None) -> None:
    system.unified("/", {"cpu.max": share})
    assert ControlGroups(system.root).cores() == cores


def test_the_tightest_of_nested_shares_counts(system: FakeSystem) -> None:
    limits = {
        "a/b/c/cpu.max": "800000 100000",
        "a/b/cpu.max": "300000 100000",
        "a/cpu.max": "600000 100000",
    }
    system.unified("/a/b/c", limits)
    assert ControlGroups(system.root).cores() == 3
    # A neighbour's limit is not ours.
    system.write({"sys/fs/cgroup/a/d/cpu.max": "100000 100000"})
    assert ControlGroups(system.root).cores() == 3


def test_memory_in_version_2(system: FakeSystem) -> None:
    system.unified(
        "/pod/box",
        {
            "pod/box/memory.max": "max",
            "pod/box/memory.current": "400",
            "pod/memory.max": "1000",
            "pod/memory.current": "700",
            "pod/memory.stat": "anon 100\ninactive_file 200",
        },
    )
    assert ControlGroups(system.root).memory() == MemoryLimit(1000, 500)
    system.write({"sys/fs/cgroup/pod/memory.current": "1400"})
    assert ControlGroups(system.root).memory() == MemoryLimit(1000, 0)
    # A limit that leaves less, although it is higher than the one below would be.
    system.write(
        {"sys/fs/cgroup/pod/box/memory.max": "450", "sys/fs/cgroup/pod/memory.current": "300"}
    )
    assert ControlGroups(system.root).memory() == MemoryLimit(450, 50)


def test_memory_that_is_throttled_is_not_free(system: FakeSystem) -> None:
    system.unified("/", {"memory.max": "1000", "memory.high": "800", "memory.current": "100"})
    assert ControlGroups(system.root).memory() == MemoryLimit(800, 700)


def test_version_1(system: FakeSystem) -> None:
    system.groups("5:memory:/job/7\n4:cpu,cpuacct:/job/7\n1:name=systemd:/job", CPU, MEMORY)
    memory, cpu = "sys/fs/cgroup/memory", "sys/fs/cgroup/cpu,cpuacct"
    system.write(
        {
            f"{memory}/memory.limit_in_bytes": V1_UNLIMITED,
            f"{memory}/memory.usage_in_bytes": "9000",
            f"{memory}/job/memory.limit_in_bytes": "2000",
            f"{memory}/job/memory.usage_in_bytes": "1500",
            f"{memory}/job/memory.stat": "inactive_file 1\ntotal_inactive_file 100",
            f"{memory}/job/7/memory.limit_in_bytes": V1_UNLIMITED,
            f"{memory}/job/7/memory.usage_in_bytes": "100",
            f"{cpu}/cpu.cfs_quota_us": "-1",
            f"{cpu}/cpu.cfs_period_us": "100000",
            f"{cpu}/job/7/cpu.cfs_quota_us": "150000",
            f"{cpu}/job/7/cpu.cfs_period_us": "100000",
        }
    )
    groups = ControlGroups(system.root)
    assert groups.memory() == MemoryLimit(2000, 600)
    assert groups.cores() == 1.5


def test_both_versions_at_once(system: FakeSystem) -> None:
    unified = UNIFIED.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    system.groups("4:memory:/a\n0::/b", MEMORY, unified)
    system.write(
        {
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "700",
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "300",
            "sys/fs/cgroup/unified/b/cpu.max": "200000 100000",
        }
    )
    groups = ControlGroups(system.root)
    assert groups.memory() == MemoryLimit(700, 400)
    assert groups.cores() == 2


@pytest.mark.parametrize("group", ["/docker/abc", "/docker/abc/inner", "/elsewhere", "/../up"])
def test_a_container_that_sees_its_own_part(system: FakeSystem, group: str) -> None:
    """The mount shows the container's group as its root, whatever the group is called outside."""
    system.groups(f"0::{group}", UNIFIED.replace("0:27 / ", "0:27 /docker/abc "))
    system.write({"sys/fs/cgroup/cpu.max": "100000 50000"})
    (system.root / "sys/fs/cgroup/inner").mkdir()
    assert ControlGroups(system.root).cores() == 2


def test_a_mount_with_a_space(system: FakeSystem) -> None:
    system.groups("0::/", UNIFIED.replace("/sys/fs/cgroup", "/sys/my\\040groups"))
    system.write({"sys/my groups/cpu.max": "100000 50000"})
    assert ControlGroups(system.root).cores() == 2


def test_lines_that_make_no_sense_are_passed_over(system: FakeSystem) -> None:
    system.groups("what\n0::/", "short - cgroup2", "1 2 3 / /x rw", UNIFIED)
    system.write({"sys/fs/cgroup/cpu.max": "100000 50000"})
    assert ControlGroups(system.root).cores() == 2
