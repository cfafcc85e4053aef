"""The command: what it refuses, and one tiny run of everything but the rivals."""

import pytest

from benchmarks import __main__ as command
from benchmarks import interpreter, measure, run
from benchmarks.awake import can_keep_awake
from benchmarks.interpreter import running
from benchmarks.measure import Lengths
from local import cache

TINY = Lengths(
    warm_seconds=0.1,
    closed_seconds=0.3,
    slow_seconds=0.2,
    fast_seconds=0.3,
    waves=1,
    cached_seconds=0.3,
    turns=5,
)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--only", "prodkit,nobody"], "unknown: nobody; choose from direct, prodkit"),
        (["--rounds", "0"], "a whole number from 1 to 50"),
        (["--rounds", "many"], "a whole number from 1 to 50"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["run", *arguments])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("arguments", [[], ["--quick"]])
def test_without_a_real_cache_server_the_command_says_what_to_install(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "installed", lambda: None)
    monkeypatch.setattr(interpreter, "best", lambda _say: running())
    assert command.main(["run", *arguments]) == 1
    assert "redis-server or valkey-server is needed" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.skipif(cache.installed() is None, reason="neither redis-server nor valkey-server is on PATH")
async def test_a_tiny_run_measures_every_figure_of_prodkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "STREAMS", 10)
    said: list[str] = []
    result = await run.full(["direct", "passthrough", "prodkit"], 1, TINY, said.append, running())
    assert result.skipped == {}
    own = result.summary["prodkit"]
    # Every question is new and reaches the model; a question asked again does not.
    assert own["calls_per_request"].median >= 0.9
    assert own["calls_per_hit"].median < 0.05
    assert own["streams_failed_percent"].median == 0
    assert {"cpu_us_per_request", "cpu_ms_per_stream", "resident_mib", "ready_seconds", "everything_mib"} <= set(own)
    assert {"ledger_percent", "limits_percent", "nothing_percent"} <= set(own)
    assert "cpu_us_per_request" in result.summary["passthrough"]
    assert ("added_polling_p50_ms" in own) == can_keep_awake()
    assert [0 < pace["least"] <= pace["median"] for pace in result.paces] == [True]
    assert result.settings["rounds"] == 1
