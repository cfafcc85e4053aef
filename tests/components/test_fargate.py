import pytest
from hypothesis import given
from hypothesis import strategies as st

from components._fargate import SIZES, check_size

PAIRS = [(cpu, memory) for cpu, memories in SIZES.items() for memory in memories]


@given(st.sampled_from(PAIRS))
def test_every_size_in_the_table_is_accepted(pair: tuple[int, int]) -> None:
    check_size(*pair)


@given(st.sampled_from(sorted(SIZES)), st.integers(0, 130_000))
def test_a_pair_is_accepted_exactly_when_fargate_offers_it(cpu: int, memory_mib: int) -> None:
    if (cpu, memory_mib) in PAIRS:
        check_size(cpu, memory_mib)
    else:
        with pytest.raises(ValueError, match=f"cpu={cpu} does not allow memory_mib={memory_mib}; choose "):
            check_size(cpu, memory_mib)


def test_the_table_is_the_documented_one() -> None:
    assert {cpu: (memories[0], memories[-1], len(memories)) for cpu, memories in SIZES.items()} == {
        256: (512, 2048, 3),
        512: (1024, 4096, 4),
        1024: (2048, 8192, 7),
        2048: (4096, 16_384, 13),
        4096: (8192, 30_720, 23),
        8192: (16_384, 61_440, 12),
        16_384: (32_768, 122_880, 12),
    }


def test_the_message_names_the_memories_that_fit() -> None:
    with pytest.raises(
        ValueError, match=r"^cpu=512 does not allow memory_mib=8192; choose 1024, 2048, 3072 or 4096\.$"
    ):
        check_size(512, 8192)


def test_a_long_row_is_named_by_its_ends_and_step() -> None:
    with pytest.raises(ValueError, match=r"choose 8192 to 30720 in steps of 1024\.$"):
        check_size(4096, 8193)


def test_an_unknown_processor_size_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^cpu=300 is not a Fargate size; choose 256, 512, .* or 16384\.$"):
        check_size(300, 512)
