"""How large this container is, and what the app derives from it."""

from __future__ import annotations

import http.client
import json
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

METADATA_SECONDS = 1.0
METADATA_BYTES = 1 << 20
MIB = 1 << 20

BASE_MEMORY_MIB = 192  # Python, the clients and their buffers before the first request
REQUEST_MEMORY_KIB = 512  # a request in flight: its body, the answer's chunks, two sockets
REQUESTS_PER_CPU = 400  # streams mostly wait; at 0.1-0.2 ms a chunk this leaves a core half free
FEWEST_REQUESTS, MOST_REQUESTS = 32, 4_000
FILES_PER_REQUEST = 2  # the caller's socket and OpenAI's
RESERVED_FILES = 128  # AWS, Valkey, logs, listening sockets
SPARE_CONNECTIONS = 16  # the product's own calls besides the ones it makes for a caller
CACHE_SHARE = 20  # one part in 20 of the memory is for what the process remembers
BODY_SHARE = 16  # one part in 16 for long bodies as they came, about a quarter while they are parsed
ANSWER_SHARE = 16  # one part in 16 for answers that are kept in the process
MOST_ANSWER_BYTES = 24 * MIB  # what is asked often fits; the rest is a round trip away, and a process stays small
LONG_ANSWER_SHARE = 16  # one part in 16 for answers over 1 MiB, until their callers have them
LEAST_LONG_ANSWER_BYTES = 32 * MIB
LEAST_BODY_BYTES = 2 * 10 * MIB  # two of the longest
ENTRY_BYTES = 1_024  # an identity or a local bucket, with its key and its place in a dict
DOCUMENT_MEMORY_MIB = 64  # a document being read: its text, its passages and their vectors
DOCUMENTS_PER_CPU = 16  # most of the time it waits for embeddings
MOST_DOCUMENTS = 64
REQUESTS_PER_CACHE_CONNECTION = 8
FEWEST_CACHE_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Container:
    """Limits of the container that this process runs in."""

    cpu: float
    """vCPU."""
    memory_mib: int
    source: str
    """Where the numbers come from: `metadata`, `cgroup` or `system`."""
    open_files: int = 65_536

    @property
    def max_concurrent_requests(self) -> int:
        """Requests served at once; more are shed with 503 so that the admitted ones stay fast."""
        by_cpu = int(self.cpu * REQUESTS_PER_CPU)
        by_memory = (self.memory_mib - BASE_MEMORY_MIB) * 1024 // REQUEST_MEMORY_KIB
        by_files = (self.open_files - RESERVED_FILES) // FILES_PER_REQUEST
        return max(FEWEST_REQUESTS, min(by_cpu, by_memory, by_files, MOST_REQUESTS))

    @property
    def max_waiting(self) -> int:
        """Requests that wait for their turn at a rate limit: half of the places, so that others are always served."""
        return self.max_concurrent_requests // 2

    @property
    def upstream_connections(self) -> int:
        """Connections to OpenAI: one for each request in flight, so that none queues inside this process."""
        return self.max_concurrent_requests + SPARE_CONNECTIONS

    @property
    def documents_at_once(self) -> int:
        """Documents that a worker reads at once; more throughput is more workers."""
        by_memory = (self.memory_mib - BASE_MEMORY_MIB) // DOCUMENT_MEMORY_MIB
        return max(1, min(int(self.cpu * DOCUMENTS_PER_CPU), by_memory, MOST_DOCUMENTS))

    @property
    def cache_connections(self) -> int:
        """Connections to Valkey: an operation holds one for a millisecond, a request for a fraction of its life."""
        return max(FEWEST_CACHE_CONNECTIONS, self.max_concurrent_requests // REQUESTS_PER_CACHE_CONNECTION)

    @property
    def cache_bytes(self) -> int:
        """Memory for what the process remembers between requests, in bytes."""
        return self.memory_mib * MIB // CACHE_SHARE

    @property
    def answer_bytes(self) -> int:
        """Memory for answers that are kept in the process, in bytes."""
        return min(self.memory_mib * MIB // ANSWER_SHARE, MOST_ANSWER_BYTES)

    @property
    def body_bytes(self) -> int:
        """Memory for long request bodies in flight, in bytes: a body costs several times its size once it is parsed."""
        return max(LEAST_BODY_BYTES, self.memory_mib * MIB // BODY_SHARE)

    @property
    def long_answer_bytes(self) -> int:
        """Memory for long answers that are being read or sent, in bytes, beside one of the longest."""
        return max(LEAST_LONG_ANSWER_BYTES, self.memory_mib * MIB // LONG_ANSWER_SHARE)

    @property
    def identity_entries(self) -> int:
        """Entries of the identity cache, and of the local buckets: each gets half of `cache_bytes`."""
        return self.cache_bytes // 2 // ENTRY_BYTES

    def as_fields(self) -> dict[str, float | str]:
        """What the container has and what was derived from it, for the log."""
        return {
            "cpu": self.cpu,
            "memory_mib": self.memory_mib,
            "source": self.source,
            "max_concurrent_requests": self.max_concurrent_requests,
            "upstream_connections": self.upstream_connections,
            "documents_at_once": self.documents_at_once,
            "cache_connections": self.cache_connections,
            "cache_bytes": self.cache_bytes,
            "answer_bytes": self.answer_bytes,
        }


def container(metadata_uri: str | None, cgroup: Path = Path("/sys/fs/cgroup")) -> Container:
    """The limits by task metadata v4 at `metadata_uri`, else by cgroup v2 or v1, else the machine's own; never raises.

    Fargate enforces its limits outside the container's own cgroup, so the metadata go first. Blocks up to a second.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = MOST_REQUESTS * FILES_PER_REQUEST + RESERVED_FILES if files == resource.RLIM_INFINITY else files
    machine_cpu, machine_mib = _machine()
    cpu, memory_mib = _metadata(metadata_uri) if metadata_uri else (None, None)
    source = "metadata"
    if cpu is None or memory_mib is None:
        group_cpu, group_mib = _cgroup(cgroup)
        source = "system" if group_cpu is None and group_mib is None else "cgroup"
        cpu, memory_mib = cpu or group_cpu or machine_cpu, memory_mib or group_mib or machine_mib
    return Container(cpu=cpu, memory_mib=memory_mib, source=source, open_files=files)


def _metadata(uri: str) -> tuple[float | None, int | None]:
    try:
        document = json.loads(_get(uri.rstrip("/") + "/task"))
    except (OSError, http.client.HTTPException, ValueError):
        # A container that cannot reach its metadata still has a cgroup and a machine to read.
        return None, None
    limits = document.get("Limits") if isinstance(document, dict) else None
    if not isinstance(limits, dict):
        return None, None
    cpu, memory = limits.get("CPU"), limits.get("Memory")
    return (
        float(cpu) if isinstance(cpu, int | float) and cpu > 0 else None,
        int(memory) if isinstance(memory, int | float) and memory >= 1 else None,
    )


def _get(address: str) -> bytes:
    """The body at a plain HTTP address, asked directly: a proxy of the environment would answer for another host."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=METADATA_SECONDS)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"status {answer.status}")
        return answer.read(METADATA_BYTES)
    finally:
        connection.close()


def _cgroup(root: Path) -> tuple[float | None, int | None]:
    quota = _numbers(root / "cpu.max") or [
        *_numbers(root / "cpu/cpu.cfs_quota_us"),
        *_numbers(root / "cpu/cpu.cfs_period_us"),
    ]
    memory = _numbers(root / "memory.max") or _numbers(root / "memory/memory.limit_in_bytes")
    cpu = quota[0] / quota[1] if len(quota) == 2 and quota[0] > 0 and quota[1] > 0 else None
    # cgroup v1 says "no limit" with a number near 2^63.
    memory_mib = memory[0] // MIB if memory and MIB <= memory[0] < 1 << 60 else None
    return cpu, memory_mib


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file; an unlimited (`max`) or missing one has none."""
    try:
        return [int(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []


def _machine() -> tuple[float, int]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(cpus), memory // MIB
