"""Moderations: the 13 categories of omni-moderation-latest, scored by word lists."""

import hashlib
import re
import secrets
from typing import Any

from local.openai import checks
from local.openai.ask import content_text
from local.openai.errors import bad
from local.openai.models import Model

_FLAGGED_FROM = 0.5
_WORDS = {
    "harassment": r"idiots?|stupid|morons?|losers?|pathetic",
    "harassment/threatening": r"(?:i will|i'll|going to) (?:hurt|kill|find|destroy) you",
    "hate": r"(?:hate|despise) (?:all )?(?:immigrants|foreigners|women|men|jews|muslims|christians)|subhumans?",
    "hate/threatening": r"(?:exterminate|kill) (?:all )?(?:immigrants|foreigners|women|men|jews|muslims|christians)",
    "illicit": r"(?:steal|shoplift|launder money|counterfeit|hack into|cook meth|buy drugs)",
    "illicit/violent": r"(?:build|make) a (?:bomb|pipe bomb|gun)|hire a hitman",
    "self-harm": r"suicide|self[- ]harm|cut(?:ting)? myself|kill(?:ing)? myself",
    "self-harm/intent": r"(?:want|going|plan) to (?:kill|hurt|cut) myself|want to die",
    "self-harm/instructions": r"how (?:to|do i|can i) (?:kill|hurt|cut) myself",
    "sexual": r"porn(?:ography)?|explicit sex|erotica?",
    "sexual/minors": r"(?:porn|sexual|erotic)[\w ]{0,20}(?:child\w*|minors?)|(?:child|minor)[\w ]{0,20}(?:porn|sex)",
    "violence": r"kill(?:s|ed|ing)?|murder(?:s|ed)?|stab(?:s|bed)?|shoot|bomb",
    "violence/graphic": r"gore|dismember(?:ed)?|disembowel(?:led)?|blood everywhere",
}
_PATTERNS = {name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for name, words in _WORDS.items()}
_SEE_IMAGES = ("self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "violence", "violence/graphic")


def read(body: dict[str, Any]) -> list[tuple[str, int]]:
    """Check a request body and return (text, images) of each input; a list of parts is one input."""
    checks.check(body, checks.MODERATIONS, "input")
    value = body["input"]
    if isinstance(value, str):
        return [(value, 0)]
    if not isinstance(value, list) or not value:
        raise checks.wrong_type("input", "a string, an array of strings or an array of parts", value)
    if all(isinstance(item, str) for item in value):
        return [(item, 0) for item in value]
    if not all(isinstance(item, dict) and item.get("type") in ("text", "image_url") for item in value):
        raise bad("Invalid value in 'input': parts have type 'text' or 'image_url'.", "input", "invalid_value")
    return [content_text(value)]


def render(model: Model, items: list[tuple[str, int]]) -> dict[str, Any]:
    """The answer, one result for each input."""
    return {"id": f"modr-{secrets.token_hex(16)}", "model": model.name, "results": [_result(*item) for item in items]}


def _result(text: str, images: int) -> dict[str, Any]:
    scores = {name: _score(name, text) for name in _PATTERNS}
    categories = {name: score >= _FLAGGED_FROM for name, score in scores.items()}
    seen = {
        name: (["text"] if text else []) + (["image"] if images and name in _SEE_IMAGES else []) for name in _PATTERNS
    }
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": seen,
    }


def _score(name: str, text: str) -> float:
    """Almost nothing without a word of the list, and more with each one, always the same for the same text."""
    noise = hashlib.sha256(f"{name}\n{text}".encode()).digest()[0] / 255
    found = len(_PATTERNS[name].findall(text))
    return round(0.99 - 0.4 * 0.25**found + noise * 1e-3 if found else 1e-6 + noise * 1e-4, 8)
