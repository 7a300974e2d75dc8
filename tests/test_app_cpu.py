"""The container's share of the CPUs, from a file as the kernel writes it."""

from pathlib import Path

import pytest

from app.inference.cpu import available_cpus, cpu_quota, model_threads


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("150000 100000\n", 1.5),
        ("25000 50000\n", 0.5),
        ("max 100000\n", None),
        ("plenty\n", None),
        ("", None),
    ],
)
def test_the_quota_is_what_the_control_group_says(
    tmp_path: Path, text: str, quota: float | None
) -> None:
    cpu_max = tmp_path / "cpu.max"
    cpu_max.write_text(text, encoding="ascii")
    assert cpu_quota(cpu_max) == quota


def test_where_there_is_no_control_group_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "cpu.max") is None


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
