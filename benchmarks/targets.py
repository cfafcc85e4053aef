"""What is measured: each gateway as its own documentation says to run it, asking the same stub."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks import installs
from benchmarks._http import SERIAL_DIGITS, Template, template
from benchmarks.stub import MODEL
from benchmarks.world import World, prodkit_environment, start_ready
from local.cache import free_port
from local.children import Child, Children, base_environment

PATH = "/v1/chat/completions"
PROMPT_BYTES = 200
REPEATED = 16
"""Different questions that are asked again and again where a cache is measured."""
_MARK = "#" * SERIAL_DIGITS
_SERIALS = itertools.count(secrets.randbits(48) << 8)

_NGINX = """worker_processes 1;
daemon off;
pid {home}/nginx.pid;
error_log {home}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  keepalive_requests 1000000000;
  upstream stub {{ server 127.0.0.1:{stub}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    location / {{ proxy_pass http://stub; }}
  }}
}}
"""


@dataclass(frozen=True)
class Target:
    """Something that answers chat completions on a port of loopback."""

    name: str
    child: Child
    port: int
    version: str
    callers: tuple[Mapping[str, str], ...] = ({},)
    """Headers of each caller; requests go round."""
    model: str = MODEL
    ready_seconds: float | None = None
    cache_options: Mapping[str, object] | None = None
    """What a body says so that an answer is kept and given again; None = it has no cache."""

    @property
    def templates(self) -> Mapping[str, list[Template]]:
        """Templates of `whole`, `stream` and `cached` requests, one a caller."""
        forms: dict[str, dict[str, object]] = {
            "whole": {},
            "stream": {"stream": True, "stream_options": {"include_usage": True}},
            "cached": dict(self.cache_options or {}),
        }
        return {form: [_template(self, headers, more) for headers in self.callers] for form, more in forms.items()}

    def requests(self, form: str) -> Callable[[], bytes]:
        """An endless row of requests: each a new question, or of form `cached` a few questions over and over."""
        templates = itertools.cycle(self.templates[form])
        if form != "cached":
            return lambda: next(templates).request(next(_SERIALS))
        few = itertools.cycle([one.request(next(_SERIALS)) for one in itertools.islice(templates, REPEATED)])
        return lambda: next(few)


def _template(target: Target, headers: Mapping[str, str], more: Mapping[str, object]) -> Template:
    prompt = f"Question {_MARK}: " + "what does production need? " * PROMPT_BYTES
    messages = [{"role": "user", "content": prompt[:PROMPT_BYTES]}]
    body = {"model": target.model, "messages": messages, "max_completion_tokens": 100, **more}
    return template(PATH, headers, json.dumps(body).encode(), _MARK.encode())


Start = Callable[[Children, World], Awaitable[Target]]


async def direct(children: Children, world: World) -> Target:
    """The stub itself: what every latency is compared with."""
    return Target("direct", world.stub, world.stub_port, "-")


async def prodkit(children: Children, world: World) -> Target:
    """A real web replica with every policy on; a second one shares its cache, limits and ledger."""
    callers = tuple({"Authorization": f"Bearer {key}"} for key in world.keys)
    started = None
    for name in ("prodkit-second", "prodkit"):
        port = free_port()
        environment = prodkit_environment(world, service="web", port=port, upstream=world.stub_url + "/v1")
        started = await start_ready(
            children, name, world.interpreter.module("app", "web"), environment, port, "/health/ready"
        )
    assert started is not None
    return Target("prodkit", started[0], port, _own_version(world), callers, ready_seconds=started[1], cache_options={})


async def prodkit_switched(children: Children, world: World) -> Target:
    """A web replica like the others whose policies can be taken out while it runs."""
    callers = tuple({"Authorization": f"Bearer {key}"} for key in world.keys)
    port = free_port()
    environment = prodkit_environment(world, service="web", port=port, upstream=world.stub_url + "/v1")
    name = "prodkit-switched"
    child, _ = await start_ready(
        children, name, world.interpreter.module("benchmarks.without"), environment, port, "/health/ready"
    )
    return Target(name, child, port, _own_version(world), callers)


async def passthrough(children: Children, world: World) -> Target:
    """Raw ASGI and aiohttp without any policy: the floor of this language."""
    port = free_port()
    command = world.interpreter.module("benchmarks.passthrough", "--port", str(port), "--upstream", world.stub_url)
    child, seconds = await start_ready(children, "passthrough", command, base_environment(), port, "/stats")
    return Target("passthrough", child, port, f"aiohttp {version('aiohttp')}", ready_seconds=seconds)


async def nginx(children: Children, world: World) -> Target:
    """A reverse proxy in C without any policy: the floor of the machine."""
    command = installs.nginx()
    port = free_port()
    home = children.directory
    config = home / "nginx.conf"
    config.write_text(_NGINX.format(home=home, port=port, stub=world.stub_port))
    line = [str(command), "-p", str(home), "-e", f"{home}/nginx-error.log", "-c", str(config)]
    child, seconds = await start_ready(children, "nginx", line, base_environment(), port, "/stats")
    return Target("nginx", child, port, installs.nginx_version(command), ready_seconds=seconds)


async def litellm(children: Children, world: World) -> Target:
    """LiteLLM's proxy: one worker, a master key, no database, no callbacks; its cache in memory, only when asked."""
    command = installs.litellm(world.interpreter.home)
    port = free_port()
    key = "sk-" + secrets.token_hex(24)
    entry = {"model": f"openai/{MODEL}", "api_base": world.stub_url + "/v1", "api_key": "sk-" + secrets.token_hex(24)}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": entry}],
        "litellm_settings": {"cache": True, "cache_params": {"type": "local", "mode": "default_off"}},
        "general_settings": {"master_key": key},
    }
    file = children.directory / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    environment = {
        **base_environment(),
        "HOME": str(children.directory),
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    line = [str(command), "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    child, seconds = await start_ready(children, "litellm", line, environment, port, "/health/liveliness")
    callers = ({"Authorization": f"Bearer {key}"},)
    options = {"cache": {"use-cache": True}}
    shown = installs.LITELLM.partition("==")[2]
    return Target("litellm", child, port, shown, callers, ready_seconds=seconds, cache_options=options)


async def portkey(children: Children, world: World) -> Target:
    """Portkey's open-source gateway on Node; its npm build has no cache."""
    node, script = installs.portkey()
    port = free_port()
    environment = {**base_environment(), "NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    line = [str(node), str(script), f"--port={port}", "--headless"]
    child, seconds = await start_ready(children, "portkey", line, environment, port, "/")
    caller = {
        "Authorization": "Bearer sk-" + secrets.token_hex(24),
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": world.stub_url + "/v1",
    }
    return Target("portkey", child, port, installs.PORTKEY.rpartition("@")[2], (caller,), ready_seconds=seconds)


async def naive(children: Children, world: World) -> Target:
    """FastAPI in front of the official SDK, as teams write it first."""
    interpreter = installs.naive(world.interpreter.home)
    port = free_port()
    script = Path(__file__).with_name("naive.py")
    line = [str(interpreter), str(script), "--port", str(port), "--upstream", world.stub_url + "/v1"]
    environment = {**base_environment(), "OPENAI_API_KEY": "sk-" + secrets.token_hex(24)}
    child, seconds = await start_ready(children, "naive", line, environment, port, "/openapi.json")
    return Target("naive", child, port, " ".join(installs.NAIVE), ready_seconds=seconds)


STARTS: Mapping[str, Start] = {
    "direct": direct,
    "prodkit": prodkit,
    "passthrough": passthrough,
    "nginx": nginx,
    "naive": naive,
    "portkey": portkey,
    "litellm": litellm,
}
"""Every target by name, in the order of the report."""

TITLES: Mapping[str, str] = {
    "direct": "the stub, called directly",
    "prodkit": "prodkit, every policy on",
    "passthrough": "floor in Python: raw ASGI + aiohttp, no policy",
    "nginx": "floor in C: nginx reverse proxy, no policy",
    "naive": "naive app: FastAPI + OpenAI SDK",
    "portkey": "Portkey",
    "litellm": "LiteLLM",
}


def _own_version(world: World) -> str:
    """The packages that the gateway's speed depends on."""
    names = ("uvicorn", "uvloop", "httptools", "orjson", "hiredis")
    return f"Python {world.interpreter.version}, " + ", ".join(f"{name} {version(name)}" for name in names)
