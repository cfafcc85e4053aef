"""What a text request asks, in one form for Responses and Chat Completions."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from local.openai.models import Model

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_TURN = 4
IMAGE_TOKENS = 765


def count_tokens(text: str) -> int:
    """Tokens of `text`, estimated as a quarter of its characters: GPT-6's own tokenizer is not published."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def pieces(text: str) -> list[str]:
    """`text` cut into as many pieces as it has tokens."""
    return [text[at : at + CHARACTERS_PER_TOKEN] for at in range(0, len(text), CHARACTERS_PER_TOKEN)]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: who speaks (`system`, `user`, `assistant`, `tool`), its text, and how many images it holds."""

    role: str
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call, with the JSON schema of its arguments."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """A checked text request. `schema` is the JSON schema of the answer, `must_call` None, "any" or a function name."""

    body: dict[str, Any]
    model: Model
    turns: list[Turn]
    effort: str
    service_tier: str
    max_output_tokens: int | None = None
    tools: list[Tool] = field(default_factory=list)
    must_call: str | None = None
    may_call: bool = False
    schema: dict[str, Any] | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.body.get("stream") is True

    @property
    def obfuscates(self) -> bool:
        """Whether a stream hides the length of its tokens, which is so unless the caller turned it off."""
        return (self.body.get("stream_options") or {}).get("include_obfuscation") is not False

    @cached_property
    def prompt(self) -> str:
        """Everything the model reads, in order: tools, then turns."""
        tools = [f"tool {tool.name} {tool.parameters}" for tool in self.tools]
        return "\n".join(tools + [f"{turn.role}: {turn.text}" for turn in self.turns])

    @cached_property
    def input_tokens(self) -> int:
        """Estimated tokens of the prompt, with the overhead of each turn and a flat price for each image."""
        images = sum(turn.images for turn in self.turns)
        return count_tokens(self.prompt) + TOKENS_PER_TURN * len(self.turns) + IMAGE_TOKENS * images

    @property
    def charged_tokens(self) -> int:
        """What the token limit is charged at admission: the larger of the output cap and the input estimate."""
        return max((self.max_output_tokens or 0) * self.choices, self.input_tokens)


def content_text(content: Any) -> tuple[str, int]:
    """The text of a message's content (a string or a list of parts) and the number of images in it."""
    if isinstance(content, str):
        return content, 0
    texts, images = [], 0
    for part in content if isinstance(content, list) else []:
        if not isinstance(part, dict):
            continue
        if "image" in str(part.get("type")):
            images += 1
        else:
            texts.append(str(part.get("text") or part.get("refusal") or ""))
    return "\n".join(texts), images
