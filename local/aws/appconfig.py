"""AppConfig, control plane and data plane, as far as a stack and its app use it.

moto has applications, profiles and hosted versions, but no environments, strategies, deployments or sessions. Here a
deployment checks the content against the profile's JSON Schema and completes at once; a session is served the newest
deployed version, its tokens work once, and an unchanged version is answered with an empty body, as on AWS.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jsonschema

POLL_SECONDS = 60
"""What AWS suggests to a client that did not ask for an interval."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class Request(NamedTuple):
    """One REST-JSON request: path parameters are passed apart."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object; an empty body is an empty one."""
        parsed: dict[str, Any] = json.loads(self.body or b"{}")
        return parsed


class Answer(NamedTuple):
    """One response; `body` is the payload as it goes out."""

    status: int
    headers: dict[str, str]
    body: bytes


class AppConfigError(Exception):
    """A modelled refusal: the code that botocore turns into an exception, and its text."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class _Profile:
    record: dict[str, Any]
    versions: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    """Number -> (content, content type)."""


@dataclass
class _Session:
    environment: str
    profile: str
    poll_seconds: int
    served: int | None = None


class AppConfig:
    """The service's whole state, for one account and region. Not thread-safe: call it under a lock."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.environments: dict[str, dict[str, Any]] = {}
        self.profiles: dict[str, _Profile] = {}
        self.strategies: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, list[dict[str, Any]]] = {}
        self._sessions: dict[str, _Session] = {}

    def answer(self, request: Request) -> Answer:
        """Serve one request of either service; an operation that is not here is refused by name."""
        for method, pattern, operation in _ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                try:
                    return operation(self, request, *match.groups())
                except AppConfigError as refusal:
                    text = json.dumps({"Message": str(refusal)}).encode()
                    return Answer(
                        refusal.status, {"Content-Type": "application/json", "x-amzn-ErrorType": refusal.code}, text
                    )
        text = json.dumps({"Message": f"{request.method} {request.path} is not emulated"}).encode()
        return Answer(501, {"Content-Type": "application/json", "x-amzn-ErrorType": "NotImplemented"}, text)

    def create_application(self, request: Request) -> Answer:
        """CreateApplication."""
        record = {"Id": _new_id(), **request.json()}
        self.applications[record["Id"]] = record
        return _created(record)

    def create_environment(self, request: Request, application: str) -> Answer:
        """CreateEnvironment."""
        _found(self.applications, application)
        record = {"Id": _new_id(), "ApplicationId": application, "State": "READY_FOR_DEPLOYMENT", **request.json()}
        self.environments[record["Id"]] = record
        return _created(record)

    def create_profile(self, request: Request, application: str) -> Answer:
        """CreateConfigurationProfile."""
        _found(self.applications, application)
        record = {"Id": _new_id(), "ApplicationId": application, **request.json()}
        self.profiles[record["Id"]] = _Profile(record)
        return _created(record)

    def create_version(self, request: Request, application: str, profile: str) -> Answer:
        """CreateHostedConfigurationVersion: the body is the content itself."""
        kept = _found(self.profiles, profile)
        number = max(kept.versions, default=0) + 1
        kind = request.headers.get("content-type", "application/octet-stream")
        kept.versions[number] = (request.body, kind)
        headers = {"Application-Id": application, "Configuration-Profile-Id": profile, "Version-Number": str(number)}
        return Answer(201, {**headers, "Content-Type": kind}, request.body)

    def create_strategy(self, request: Request) -> Answer:
        """CreateDeploymentStrategy."""
        record = {"Id": _new_id(), "GrowthType": "LINEAR", "FinalBakeTimeInMinutes": 0, **request.json()}
        self.strategies[record["Id"]] = record
        return _created(record)

    def start_deployment(self, request: Request, application: str, environment: str) -> Answer:
        """StartDeployment: the content is validated, then served at once whatever the strategy's duration is."""
        _found(self.environments, environment)
        body = request.json()
        strategy: str = body["DeploymentStrategyId"]
        if not strategy.startswith("AppConfig."):
            _found(self.strategies, strategy)
        profile = _found(self.profiles, body["ConfigurationProfileId"])
        number = int(body["ConfigurationVersion"])
        content, _ = _found(profile.versions, number)
        _validate(profile.record.get("Validators", []), content)
        history = self.deployments.setdefault(environment, [])
        deployment = {
            **body,
            "ApplicationId": application,
            "EnvironmentId": environment,
            "DeploymentNumber": len(history) + 1,
            "State": "COMPLETE",
            "PercentageComplete": 100.0,
        }
        history.append(deployment)
        return _created(deployment)

    def start_session(self, request: Request) -> Answer:
        """StartConfigurationSession."""
        body = request.json()
        environment, profile = body["EnvironmentIdentifier"], body["ConfigurationProfileIdentifier"]
        _found(self.applications, body["ApplicationIdentifier"])
        _found(self.environments, environment)
        _found(self.profiles, profile)
        poll = body.get("RequiredMinimumPollIntervalInSeconds", POLL_SECONDS)
        return _json(201, {"InitialConfigurationToken": self._token(_Session(environment, profile, poll))})

    def latest_configuration(self, request: Request) -> Answer:
        """GetLatestConfiguration: an empty body when the session has been served this version already."""
        session = self._sessions.pop(request.query.get("configuration_token", ""), None)
        if session is None:
            raise AppConfigError(400, "BadRequestException", "Request token is invalid, expired or already used")
        headers = {"Next-Poll-Interval-In-Seconds": str(session.poll_seconds)}
        content = b""
        number = self._deployed(session)
        if number is not None and number != session.served:
            content, kind = self.profiles[session.profile].versions[number]
            headers["Content-Type"] = kind
            session.served = number
        headers["Next-Poll-Configuration-Token"] = self._token(session)
        return Answer(200, headers, content)

    def _token(self, session: _Session) -> str:
        token = secrets.token_urlsafe(24)
        self._sessions[token] = session
        return token

    def _deployed(self, session: _Session) -> int | None:
        for deployment in reversed(self.deployments.get(session.environment, [])):
            if deployment["ConfigurationProfileId"] == session.profile:
                return int(deployment["ConfigurationVersion"])
        return None


def _found(table: Mapping[_K, _V], key: _K) -> _V:
    if key not in table:
        raise AppConfigError(404, "ResourceNotFoundException", f"{key} does not exist")
    return table[key]


def _validate(validators: list[dict[str, str]], content: bytes) -> None:
    for validator in validators:
        if validator["Type"] != "JSON_SCHEMA":
            continue  # a LAMBDA validator would have to run code
        try:
            jsonschema.validate(json.loads(content), json.loads(validator["Content"]))
        except (ValueError, jsonschema.ValidationError) as error:
            reason = getattr(error, "message", str(error))
            raise AppConfigError(
                400, "BadRequestException", f"JSON Schema validation failed for content: {reason}"
            ) from None


def _new_id() -> str:
    return secrets.token_hex(4)[:7]


def _json(status: int, record: Mapping[str, Any]) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(record).encode())


def _created(record: Mapping[str, Any]) -> Answer:
    return _json(201, record)


_ID = "([^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("POST", "/applications", AppConfig.create_application),
    ("POST", f"/applications/{_ID}/environments", AppConfig.create_environment),
    ("POST", f"/applications/{_ID}/configurationprofiles", AppConfig.create_profile),
    ("POST", f"/applications/{_ID}/configurationprofiles/{_ID}/hostedconfigurationversions", AppConfig.create_version),
    ("POST", "/deploymentstrategies", AppConfig.create_strategy),
    ("POST", f"/applications/{_ID}/environments/{_ID}/deployments", AppConfig.start_deployment),
    ("POST", "/configurationsessions", AppConfig.start_session),
    ("GET", "/configuration", AppConfig.latest_configuration),
]
