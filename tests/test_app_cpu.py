"""The container's share of the CPUs, from files as the kernel writes them."""

from pathlib import Path

import pytest

from app.inference.cpu import available_cpus, cpu_quota, model_threads


def control_groups(tmp_path: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A fake /sys/fs/cgroup and a fake /proc/self/cgroup."""
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="ascii")
    member = tmp_path / "self"
    member.write_text(membership, encoding="ascii")
    return root, member


V1 = "4:memory:/x\n1:cpu,cpuacct:/docker/abc\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {}, None),
        ("", {}, None),
        # A machine's own view: the group is deep inside, and the tightest above it holds.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a\n", {"a/cpu.max": "400000 100000", "other/cpu.max": "100000 100000"}, 4),
        # Version 1: in a container the group is the root, outside it has its path.
        (V1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (
            V1,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "25000",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "50000",
            },
            0.5,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (V1, {"memory/x/cpu.max": "100000 100000"}, None),
        # Files that are not what they should be limit nothing.
        ("0::/\n", {"cpu.max": "plenty"}, None),
        ("0::/\n", {"cpu.max": "0 100000"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "100000"}, None),
    ],
)
def test_the_quota_is_what_the_control_groups_say(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(*control_groups(tmp_path, membership, files)) == quota


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("wanted", "available", "quota", "threads"),
    [
        (0, 16, 2.0, 2),
        (0, 16, 2.9, 2),  # the tenth part of a period with all threads stopped is worse
        (0, 16, 0.5, 1),
        (0, 16, None, 16),
        (0, 4, 8.0, 4),
        (3, 16, 2.0, 3),  # whoever sets it knows why
    ],
)
def test_threads_fill_the_quota_and_no_more(
    wanted: int, available: int, quota: float | None, threads: int
) -> None:
    assert model_threads(wanted, available, quota) == threads


def test_this_machine_has_a_cpu() -> None:
    assert available_cpus() >= 1
