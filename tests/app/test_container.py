from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.container import MIB, Container, container
from tests.app.conftest import free_port


@contextmanager
def metadata(body: bytes, status: int = 200) -> Iterator[str]:
    """The task metadata endpoint: its base address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v4/abc/task" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v4/abc"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_task_metadata_go_before_the_cgroup(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    (tmp_path / "memory.max").write_text(f"{8192 * MIB}\n")
    with metadata(json.dumps({"Limits": {"CPU": 0.5, "Memory": 1024}}).encode()) as uri:
        size = container(uri, tmp_path)
    assert (size.cpu, size.memory_mib, size.source) == (0.5, 1024, "metadata")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"Limits": 3}', b'{"Limits": {"CPU": 0, "Memory": "x"}}'])
def test_metadata_that_say_nothing_leave_it_to_the_cgroup(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{512 * MIB}\n")
    with metadata(body) as uri:
        size = container(uri, tmp_path)
    assert (size.cpu, size.memory_mib, size.source) == (0.5, 512, "cgroup")


def test_metadata_that_fail_leave_it_to_the_cgroup(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{512 * MIB}\n")
    with metadata(b'{"Limits": {"CPU": 4, "Memory": 4096}}', status=500) as uri:
        assert container(uri, tmp_path).memory_mib == 512
    assert container(f"http://127.0.0.1:{free_port()}", tmp_path).memory_mib == 512


def test_cgroup_version_1_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{2048 * MIB}\n")
    size = container(None, tmp_path)
    assert (size.cpu, size.memory_mib, size.source) == (2.0, 2048, "cgroup")


@pytest.mark.parametrize(("cpu", "memory"), [("max 100000", "max"), ("", ""), ("-1", str(0x7FFFFFFFFFFFF000))])
def test_without_any_limit_the_machine_is_the_limit(cpu: str, memory: str, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(cpu)
    (tmp_path / "memory.max").write_text(memory)
    size = container(None, tmp_path)
    assert size.source == "system"
    assert size.cpu >= 1
    assert size.memory_mib > 64


def test_a_small_and_a_large_task_size_themselves() -> None:
    small, large = Container(0.25, 512, "metadata"), Container(4, 8192, "metadata")
    assert (small.max_concurrent_requests, large.max_concurrent_requests) == (100, 1600)
    assert (small.upstream_connections, large.upstream_connections) == (116, 1616)
    assert (small.documents_at_once, large.documents_at_once) == (4, 64)
    assert (small.cache_connections, large.cache_connections) == (16, 200)
    assert (small.cache_bytes, large.cache_bytes) == (512 * MIB // 20, 8192 * MIB // 20)
    assert (small.identity_entries, large.identity_entries) == (13_107, 209_715)


def test_the_log_says_what_was_derived_from_what() -> None:
    size = Container(0.5, 1024, "metadata")
    fields = size.as_fields()
    assert (fields["cpu"], fields["memory_mib"], fields["source"]) == (0.5, 1024, "metadata")
    assert {name: getattr(size, name) for name in fields} == fields


def test_a_larger_task_keeps_no_more_answers_in_the_process_than_fit_beside_a_small_gateway() -> None:
    assert Container(0.25, 256, "metadata").answer_bytes == 16 * MIB
    assert Container(4, 16_384, "metadata").answer_bytes == 24 * MIB


def test_few_open_files_mean_few_requests() -> None:
    assert Container(4, 8192, "metadata", open_files=1024).max_concurrent_requests == 448


@given(st.floats(0.01, 64), st.integers(64, 250_000), st.integers(64, 1 << 20))
def test_more_of_anything_never_means_less(cpu: float, memory_mib: int, files: int) -> None:
    size = Container(cpu, memory_mib, "metadata", files)
    larger = Container(2 * cpu, 2 * memory_mib, "metadata", 2 * files)
    derived = (
        "max_concurrent_requests",
        "upstream_connections",
        "documents_at_once",
        "cache_connections",
        "cache_bytes",
        "body_bytes",
        "answer_bytes",
        "long_answer_bytes",
    )
    for name in derived:
        assert 0 < getattr(size, name) <= getattr(larger, name)
