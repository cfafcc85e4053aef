"""ECS as a waiter sees it, over HTTP: services, their deployments and tasks, with a way to make the next one fail.

Only deployments are played: `deploy` is what UpdateService does, and each look at the service moves time on. POST
`/_emulator/ecs/fail-next-deployment` with `{"service", "reason", "exit_code", "alarms", "log"}` makes the next
deployment of a service roll back. Every answer is checked against botocore's model of ECS before it is sent.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

ACCOUNT = "123456789012"
REGION = "us-east-1"
CLUSTER = "prodkit"
LOOKS = 3
"""How often a deployment is looked at before it ends."""

_SESSION = botocore.session.get_session()
_MODELS = {name: _SESSION.get_service_model(name) for name in ("ecs", "logs")}
_START = datetime(2026, 11, 22, tzinfo=UTC)


def arn(kind: str, name: str) -> str:
    """An ARN of ECS in the played account."""
    return f"arn:aws:ecs:{REGION}:{ACCOUNT}:{kind}/{name}"


@dataclass
class Failure:
    """How the next deployment of a service ends."""

    reason: str
    exit_code: int = 1
    alarms: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


@dataclass
class Deployment:
    """One deployment; `looks` counts how often it was looked at."""

    number: int
    service: str
    definition: str
    before: str
    fails: Failure | None
    looks: int = 0

    @property
    def arn(self) -> str:
        return arn("service-deployment", f"{CLUSTER}/{self.service}/{self.number:021d}")

    @property
    def revision(self) -> str:
        return arn("service-revision", f"{CLUSTER}/{self.service}/{self.number:019d}")

    @property
    def ended(self) -> bool:
        return self.looks >= LOOKS

    @property
    def status(self) -> str:
        if not self.ended:
            return "IN_PROGRESS"
        return "ROLLBACK_SUCCESSFUL" if self.fails else "SUCCESSFUL"

    @property
    def made(self) -> datetime:
        return _START + timedelta(minutes=self.number)


class EcsPlay:
    """The played service; every method that answers an operation is named as the operation."""

    def __init__(self, lists_deployments: bool = True) -> None:
        self.lists_deployments = lists_deployments
        self.deployments: list[Deployment] = []
        self.failing: dict[str, Failure] = {}
        self.looked: list[str] = []

    def deploy(self, service: str, definition: str) -> str:
        """Starts a deployment, as UpdateService does; returns the task definition's ARN."""
        before = self.runs(service)
        wanted = arn("task-definition", definition)
        number = len(self.deployments) + 1
        self.deployments.append(Deployment(number, service, wanted, before or wanted, self.failing.pop(service, None)))
        return wanted

    def runs(self, service: str) -> str | None:
        """The task definition that a service runs, or is going to."""
        newest = self._newest(service)
        if newest is None:
            return None
        return newest.before if newest.fails and newest.ended else newest.definition

    def _newest(self, service: str) -> Deployment | None:
        return next((one for one in reversed(self.deployments) if one.service == service), None)

    def describe_services(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One look: the newest deployment moves on."""
        found = []
        for name in asked["services"]:
            newest = self._newest(name)
            if newest is not None:
                newest.looks += 1
                found.append(self._service(newest))
        missing = [{"arn": arn("service", name), "reason": "MISSING"} for name in asked["services"] if not found]
        return {"services": found, "failures": missing}

    def _service(self, newest: Deployment) -> dict[str, Any]:
        running = min(newest.looks, 2)
        primary = {
            "id": f"ecs-svc/{newest.number}",
            "status": "PRIMARY",
            "taskDefinition": newest.definition,
            "desiredCount": 2,
            "runningCount": running,
            "pendingCount": 2 - running,
            "failedTasks": 1 if newest.fails else 0,
            "rolloutState": "COMPLETED" if newest.ended else "IN_PROGRESS",
            "rolloutStateReason": f"ECS deployment ecs-svc/{newest.number} in progress.",
        }
        deployments = [primary]
        if newest.ended and newest.fails:
            failed = {**primary, "status": "ACTIVE", "rolloutState": "FAILED", "runningCount": 0}
            failed["rolloutStateReason"] = newest.fails.reason
            deployments = [{**primary, "id": "ecs-svc/back", "taskDefinition": newest.before}, failed]
        return {
            "serviceArn": arn("service", f"{CLUSTER}/{newest.service}"),
            "serviceName": newest.service,
            "clusterArn": arn("cluster", CLUSTER),
            "status": "ACTIVE",
            "desiredCount": 2,
            "taskDefinition": self.runs(newest.service),
            "deployments": deployments,
            "events": [{"id": "e", "message": f"(service {newest.service}) event {n}"} for n in range(9)],
        }

    def list_service_deployments(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Newest last, which no caller may rely on."""
        if not self.lists_deployments:
            raise PermissionError("not authorized to perform: ecs:ListServiceDeployments")
        ours = [one for one in self.deployments if one.service == asked["service"]]
        return {
            "serviceDeployments": [
                {
                    "serviceDeploymentArn": one.arn,
                    "serviceArn": arn("service", f"{CLUSTER}/{one.service}"),
                    "clusterArn": arn("cluster", CLUSTER),
                    "createdAt": one.made.timestamp(),
                    "targetServiceRevisionArn": one.revision,
                    "status": one.status,
                }
                for one in ours
            ]
        }

    def describe_service_deployments(self, asked: dict[str, Any]) -> dict[str, Any]:
        """With the reason and the alarms of one that was rolled back."""
        return {
            "serviceDeployments": [
                _deployment(one) for one in self.deployments if one.arn in asked["serviceDeploymentArns"]
            ],
            "failures": [],
        }

    def describe_service_revisions(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What a deployment was to bring."""
        found = [one for one in self.deployments if one.revision in asked["serviceRevisionArns"]]
        revisions = [{"serviceRevisionArn": one.revision, "taskDefinition": one.definition} for one in found]
        return {"serviceRevisions": revisions, "failures": []}

    def list_tasks(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Failed deployments leave stopped tasks."""
        failed = [one for one in self.deployments if one.service == asked["serviceName"] and one.fails]
        stopped = asked["desiredStatus"] == "STOPPED"
        return {"taskArns": [arn("task", f"{CLUSTER}/task{one.number}") for one in failed if stopped]}

    def describe_tasks(self, asked: dict[str, Any]) -> dict[str, Any]:
        """How they ended."""
        tasks = []
        for one in self.deployments:
            task = arn("task", f"{CLUSTER}/task{one.number}")
            if task in asked["tasks"] and one.fails:
                container = {"name": "app", "exitCode": one.fails.exit_code}
                tasks.append(
                    {
                        "taskArn": task,
                        "taskDefinitionArn": one.definition,
                        "lastStatus": "STOPPED",
                        "stoppedAt": one.made.timestamp(),
                        "stoppedReason": "Essential container in task exited",
                        "containers": [container],
                    }
                )
        return {"tasks": tasks, "failures": []}

    def get_log_events(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The log of a failed task."""
        number = int(asked["logStreamName"].rpartition("/task")[2])
        failure = self.deployments[number - 1].fails
        lines = failure.log[-asked["limit"] :] if failure else []
        return {"events": [{"timestamp": 1, "ingestionTime": 1, "message": line} for line in lines]}

    def answer(self, service: str, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The answer of one operation, by its AWS name, after botocore's model accepted it."""
        self.looked.append(operation)
        model = _MODELS[service].operation_model(operation)
        method = getattr(self, "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).lstrip("_"))
        answer: dict[str, Any] = method(asked)
        assert model.output_shape is not None
        report = ParamValidator().validate(answer, model.output_shape).generate_report()
        assert not report, f"{operation}: {report}"
        return answer


def _deployment(one: Deployment) -> dict[str, Any]:
    made: dict[str, Any] = {
        "serviceDeploymentArn": one.arn,
        "serviceArn": arn("service", f"{CLUSTER}/{one.service}"),
        "clusterArn": arn("cluster", CLUSTER),
        "createdAt": one.made.timestamp(),
        "status": one.status,
        "lifecycleStage": "CLEAN_UP" if one.ended else "PRODUCTION_TRAFFIC_SHIFT",
        "targetServiceRevision": {
            "arn": one.revision,
            "requestedTaskCount": 2,
            "runningTaskCount": min(one.looks, 2),
            "requestedProductionTrafficWeight": 10.0,
        },
    }
    if one.fails and one.ended:
        made["statusReason"] = one.fails.reason
        made["rollback"] = {"reason": one.fails.reason, "startedAt": one.made.timestamp()}
        if one.fails.alarms:
            made["alarms"] = {"status": "TRIGGERED", "triggeredAlarmNames": one.fails.alarms}
    return made


class _Handler(BaseHTTPRequestHandler):
    play: EcsPlay

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/_emulator/ecs/fail-next-deployment":
            service = body.pop("service")
            self.play.failing[service] = Failure(**body)
            self._send(200, {})
            return
        try:
            target, _, operation = self.headers["X-Amz-Target"].partition(".")
            self._send(200, self.play.answer("logs" if target.startswith("Logs") else "ecs", operation, body))
        except PermissionError as refused:
            self._send(400, {"__type": "AccessDeniedException", "message": str(refused)})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """A request is not news."""


@contextlib.contextmanager
def serving(play: EcsPlay) -> Iterator[str]:
    """The address at which the play answers."""
    handler = type("Handler", (_Handler,), {"play": play})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
