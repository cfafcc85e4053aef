"""The sizes that a Fargate task on Linux can have.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_definition_parameters.html#task_size
"""

from enum import StrEnum

_GIB = 1024

# CPU units (1024 = one vCPU) -> memory in MiB
SIZES: dict[int, tuple[int, ...]] = {
    256: (512, 1 * _GIB, 2 * _GIB),
    512: tuple(range(1 * _GIB, 4 * _GIB + 1, _GIB)),
    1024: tuple(range(2 * _GIB, 8 * _GIB + 1, _GIB)),
    2048: tuple(range(4 * _GIB, 16 * _GIB + 1, _GIB)),
    4096: tuple(range(8 * _GIB, 30 * _GIB + 1, _GIB)),
    8192: tuple(range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB)),
    16384: tuple(range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB)),
}


def check_size(cpu: int, memory_mib: int) -> None:
    """Refuses a pair that Fargate does not offer.

    Args:
        cpu: CPU units, 1024 a vCPU.
        memory_mib: memory in MiB.

    Raises:
        ValueError: naming the legal values.
    """
    memories = SIZES.get(cpu)
    if memories is None:
        raise ValueError(f"cpu={cpu} is not a Fargate size; choose {_either(tuple(SIZES))}.")
    if memory_mib not in memories:
        raise ValueError(f"cpu={cpu} does not allow memory_mib={memory_mib}; choose {_either(memories)}.")


def _either(values: tuple[int, ...]) -> str:
    """The values as prose; a long regular row by its ends and step."""
    if len(values) > 8:
        return f"{values[0]} to {values[-1]} in steps of {values[1] - values[0]}"
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"


class Architecture(StrEnum):
    """Processor that tasks run on and images are built for."""

    ARM64 = "ARM64"
    """Graviton: about a fifth cheaper than x86 for the same vCPU."""
    X86_64 = "X86_64"
    """Intel or AMD, for a dependency that has no arm64 build."""
