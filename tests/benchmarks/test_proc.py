"""What is read from /proc."""

import os
import subprocess
import sys

import pytest

from benchmarks._proc import Stat, cpu_seconds, own_seconds, parse_resident_kib, parse_stat, resident_mib, tree

LINE = "42 (a ) name) S 7 42 42 0 -1 4194304 1 2 3 4 11 22 33 44 20 0 1 0 99 1000 200 18446744073709551615"

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")  # noqa: PTH110


def test_a_name_with_spaces_and_parentheses_moves_no_field() -> None:
    assert parse_stat(LINE) == Stat(pid=42, parent=7, ended_ticks=33 + 44)


def test_resident_memory_is_read_and_a_process_that_ended_has_none() -> None:
    assert parse_resident_kib("Name:\tx\nVmPeak:\t 9 kB\nVmRSS:\t  2048 kB\n") == 2048
    assert parse_resident_kib("Name:\tx\nState:\tZ (zombie)\n") == 0


def test_a_tree_holds_grandchildren_and_no_strangers() -> None:
    stats = [Stat(4, 3, 1), Stat(3, 2, 1), Stat(2, 1, 1), Stat(9, 1, 1), Stat(1, 0, 1)]
    assert [stat.pid for stat in tree(2, stats)] == [4, 3, 2]
    assert tree(77, stats) == []


@needs_proc
def test_this_process_uses_memory_and_time() -> None:
    assert resident_mib(os.getpid()) > 1
    assert cpu_seconds(os.getpid()) > 0


@needs_proc
@pytest.mark.process
def test_the_time_of_a_child_counts_after_its_end_too() -> None:
    before = cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert cpu_seconds(os.getpid()) - before >= 0.19


@needs_proc
def test_time_is_known_to_less_than_a_tick_and_a_process_that_is_gone_used_none() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    seen = {own_seconds(os.getpid()) for _ in range(100)}
    assert len(seen) > 10
    assert max(seen) - min(seen) < 5 / ticks
    assert own_seconds(2**22 + 1) == 0
