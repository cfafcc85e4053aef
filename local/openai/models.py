"""The models that the simulator serves, as dated data: what each accepts, how fast it is, when it shuts down.

Checked 2026-11-22. Dates and refusals come from OpenAI's changelog, model and deprecation pages; times to first token
and token rates are round figures for the size of the model, since OpenAI publishes none.
"""

from dataclasses import dataclass

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class Model:
    """One model: `kind` is text, embedding or moderation; times in seconds, limits per minute, sizes in tokens."""

    name: str
    kind: str = "text"
    created: int = 1_700_000_000
    shutdown_date: str | None = None
    efforts: tuple[str, ...] = ()
    sampling: bool = True
    writes_cache: bool = False
    service_tiers: tuple[str, ...] = ("auto", "default", "flex", "scale", "priority", "fast")
    max_tokens_parameter: bool = True
    stop_parameter: bool = True
    chat_tools_need_no_effort: bool = False
    context_tokens: int = 1_050_000
    max_output_tokens: int = 128_000
    dimensions: int = 0
    first_token_seconds: float = 0.5
    tokens_per_second: float = 100.0
    requests_per_minute: int = 5_000
    tokens_per_minute: int = 1_000_000

    @property
    def default_effort(self) -> str:
        """Reasoning effort when the request names none: `medium`, and `none` for a model that does not reason."""
        return "medium" if self.efforts else "none"


_WITHOUT_NONE = EFFORTS[1:]
_WITHOUT_NONE_AND_MINIMAL = EFFORTS[2:]
_TIERS_WITHOUT_FLEX = ("auto", "default", "scale", "priority", "fast", "ultrafast")
_GONE_IN_OCTOBER = "2026-10-23"


def _gpt6(name: str, created: int, first_token: float, rate: float, efforts: tuple[str, ...] = EFFORTS) -> Model:
    """A GPT-6 model: cache writes are billed, and Chat Completions takes tools only without reasoning."""
    return Model(
        name,
        created=created,
        efforts=efforts,
        sampling=name != "gpt-6-astra",
        writes_cache=True,
        service_tiers=_TIERS_WITHOUT_FLEX if name.startswith("gpt-6.2") else Model("").service_tiers,
        chat_tools_need_no_effort=True,
        first_token_seconds=first_token,
        tokens_per_second=rate,
    )


def _gpt5(name: str, first_token: float, rate: float, shutdown: str | None = None, writes: bool = False) -> Model:
    return Model(
        name,
        created=1_754_524_800,
        shutdown_date=shutdown,
        efforts=EFFORTS,
        writes_cache=writes,
        context_tokens=400_000,
        first_token_seconds=first_token,
        tokens_per_second=rate,
    )


def _gpt4(name: str, shutdown: str, context: int = 128_000, output: int = 16_384, rate: float = 100.0) -> Model:
    return Model(
        name,
        shutdown_date=shutdown,
        context_tokens=context,
        max_output_tokens=output,
        tokens_per_second=rate,
    )


def _embedding(name: str, dimensions: int) -> Model:
    return Model(name, kind="embedding", dimensions=dimensions, context_tokens=8_192, first_token_seconds=0.08)


_ALL = (
    _gpt6("gpt-6.2-astra", 1_794_873_600, 1.2, 60, _WITHOUT_NONE_AND_MINIMAL),
    _gpt6("gpt-6.2-sol", 1_794_873_600, 0.6, 90, _WITHOUT_NONE_AND_MINIMAL),
    _gpt6("gpt-6.1-sol", 1_790_640_000, 0.6, 90, _WITHOUT_NONE),
    _gpt6("gpt-6.1-terra", 1_792_972_800, 0.45, 120),
    _gpt6("gpt-6-sol", 1_788_393_600, 0.6, 90),
    _gpt6("gpt-6-astra", 1_788_393_600, 1.2, 60, _WITHOUT_NONE),
    _gpt6("gpt-6-luna", 1_788_393_600, 0.25, 200),
    _gpt5("gpt-5.6-sol", 0.7, 80, writes=True),
    _gpt5("gpt-5.6-terra", 0.5, 110, writes=True),
    _gpt5("gpt-5.6-luna", 0.3, 180, writes=True),
    _gpt5("gpt-5.5", 0.8, 70),
    _gpt5("gpt-5.4", 0.8, 70),
    _gpt5("gpt-5.4-mini", 0.4, 120),
    _gpt5("gpt-5.4-nano", 0.3, 160, shutdown="2027-04-01"),
    _gpt5("gpt-5.1", 0.8, 70, shutdown="2027-04-01"),
    _gpt5("gpt-5", 0.8, 70, shutdown="2026-12-11"),
    _gpt5("gpt-5-mini", 0.5, 110, shutdown="2026-12-11"),
    _gpt5("gpt-5-nano", 0.3, 160, shutdown="2026-12-11"),
    Model(
        "o3",
        shutdown_date="2026-12-11",
        efforts=("low", "medium", "high"),
        sampling=False,
        max_tokens_parameter=False,
        stop_parameter=False,
        context_tokens=200_000,
        max_output_tokens=100_000,
        first_token_seconds=1.5,
        tokens_per_second=60,
    ),
    _gpt4("gpt-4.1", "2027-01-14", context=1_047_576, output=32_768),
    _gpt4("gpt-4.1-mini", "2027-01-14", context=1_047_576, output=32_768, rate=140),
    _gpt4("gpt-4o", "2027-01-14"),
    _gpt4("gpt-4o-mini", "2027-01-14", rate=140),
    _gpt4("gpt-4", _GONE_IN_OCTOBER, context=8_192, output=8_192),
    _gpt4("gpt-4-turbo", _GONE_IN_OCTOBER, output=4_096),
    _gpt4("gpt-4.1-nano", _GONE_IN_OCTOBER),
    _gpt4("gpt-3.5-turbo", _GONE_IN_OCTOBER, context=16_385, output=4_096),
    _gpt4("o1", _GONE_IN_OCTOBER),
    _gpt4("o3-mini", _GONE_IN_OCTOBER),
    _gpt4("o4-mini", _GONE_IN_OCTOBER),
    _embedding("text-embedding-3-small", 1_536),
    _embedding("text-embedding-3-large", 3_072),
    _embedding("text-embedding-ada-002", 1_536),
    Model("omni-moderation-latest", kind="moderation", context_tokens=32_768, first_token_seconds=0.1),
)

MODELS = {model.name: model for model in _ALL}


def served(today: str) -> list[Model]:
    """The models still served on `today` (ISO date); a model is gone on its shutdown date."""
    return [model for model in _ALL if model.shutdown_date is None or today < model.shutdown_date]
