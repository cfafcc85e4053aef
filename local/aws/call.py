"""One request to the emulated AWS, parsed by its service model, and what a handler may do with it."""

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlencode
from wsgiref.types import StartResponse, WSGIEnvironment

from botocore.model import OperationModel
from botocore.parsers import ResponseParserFactory
from botocore.serialize import create_serializer
from moto.core.exceptions import ServiceException

from local.aws.state import table

Record: TypeAlias = dict[str, Any]
"""A request's or an answer's members, as botocore shapes them."""
Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
_parsers = ResponseParserFactory()


class Answer(NamedTuple):
    """One response as it goes out."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes


class AwsError(ServiceException):  # type: ignore[misc]  # moto is untyped
    """A modelled refusal: the code that botocore turns into an exception, and its text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)


class MotoRefusedError(Exception):
    """moto refused; its answer is handed on as it is."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Call:
    """One parsed request, for one account and region."""

    def __init__(
        self,
        moto: Application,
        environ: WSGIEnvironment,
        body: bytes,
        operation: OperationModel,
        protocol: str,
        params: Record,
        account: str,
        region: str,
    ) -> None:
        self._moto, self._environ, self._body, self._protocol = moto, environ, body, protocol
        self.model = operation
        self.service: str = operation.service_model.service_name
        self.operation = operation.name
        self.params = params
        self.account, self.region = account, region

    def __getitem__(self, name: str) -> Any:
        return self.params[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A parameter, or the default when it was not sent."""
        value = self.params.get(name)
        return default if value is None else value

    def pick(self, *names: str) -> Record:
        """Those of the named parameters that were sent."""
        return {name: self.params[name] for name in names if self.params.get(name) is not None}

    def table(self, name: str, service: str | None = None, region: str | None = None) -> dict[Any, Any]:
        """A dictionary of this account, region and service that lives until a reset."""
        return table(self.account, region or self.region, service or self.service, name)

    def tags(self, arn: str) -> dict[str, str]:
        """The tags kept here for a resource."""
        kept: dict[str, str] = self.table("tags").setdefault(arn, {})
        return kept

    def find(self, name: str, key: Any, code: str = "ResourceNotFoundException") -> Record:
        """A row of a table; refused with the code when there is none."""
        found: Record | None = self.table(name).get(key)
        if found is None:
            raise AwsError(code, f"{name}: {key} does not exist")
        return found

    def arn(self, resource: str, service: str | None = None) -> str:
        """The ARN of a resource of this account and region."""
        return f"arn:aws:{service or self.service}:{self.region}:{self.account}:{resource}"

    def moto(self, **changes: Any) -> Record:
        """moto's own answer to this request; `changes` replace parameters first, None leaves one out."""
        body = self._body
        if changes:
            params = {name: value for name, value in {**self.params, **changes}.items() if value is not None}
            serializer = create_serializer(self._protocol, include_validation=False)
            sent = serializer.serialize_to_request(params, self.model)["body"]
            body = sent if isinstance(sent, bytes) else sent.encode() if isinstance(sent, str) else _form(sent)
        answer = run(self._moto, with_body(self._environ, body))
        if not answer.status.startswith("2"):
            raise MotoRefusedError(answer)
        response = {"headers": _Headers(answer.headers), "body": answer.body, "status_code": int(answer.status[:3])}
        shape = self.model.output_shape
        parsed: Record = _parsers.create_parser(self._protocol).parse(response, shape) if shape else {}
        parsed.pop("ResponseMetadata", None)
        return parsed


class _Headers(dict[str, str]):
    """Headers by any spelling, as botocore's parsers look them up."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        super().__init__((name.lower(), value) for name, value in pairs)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


def _form(fields: Mapping[str, Any]) -> bytes:
    return urlencode(fields).encode()


def run(application: Application, environ: WSGIEnvironment) -> Answer:
    """A WSGI application's whole answer."""
    seen: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        seen.append((status, headers))
        return lambda _data: None

    chunks = application(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        getattr(chunks, "close", lambda: None)()
    status, headers = seen[-1]
    return Answer(status, headers, body)


def read(environ: WSGIEnvironment) -> bytes:
    """The request's body, whatever way its end is told."""
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):  # a chunked body
        whole: bytes = stream.read()
        return whole
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body: bytes = stream.read(length) if length else b""
    return body


def with_body(environ: WSGIEnvironment, body: bytes) -> WSGIEnvironment:
    """The request with a body that can be read (again)."""
    parsed_already = ("HTTP_TRANSFER_ENCODING", "wsgi.input_terminated", "werkzeug.request")
    kept = {name: value for name, value in environ.items() if name not in parsed_already}
    return {**kept, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
