"""Requests read and answers written by botocore's model, with moto's parsers and serializers."""

from typing import Any
from wsgiref.types import WSGIEnvironment

from botocore.model import OperationModel
from botocore.utils import parse_timestamp
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import determine_request_protocol
from moto.core.routing import NotFound, get_service_router
from moto.core.serialize import DefaultAttributePicker, get_serializer_class
from moto.moto_server.werkzeug_app import BackendRequest

from local.aws.call import Answer, Record


class Messages:
    """One request's parameters, and the writer of its answer."""

    def __init__(self, operation: OperationModel, path_params: Record, environ: WSGIEnvironment, body: bytes) -> None:
        self._operation, self._path_params, self._body = operation, path_params, body
        self._request = BackendRequest(environ)
        self.protocol: str = determine_request_protocol(operation.service_model, self._request.content_type)
        writer = get_serializer_class(operation.service_model.service_name, self.protocol)
        self._writer = writer(operation_model=operation, value_picker=DefaultAttributePicker())

    def parsed(self) -> Record:
        """The request's members."""
        parser = PROTOCOL_PARSERS[self.protocol](self._operation, timestamp_parser=parse_timestamp)
        request = {
            "method": self._request.method,
            "values": self._request.values,
            "headers": self._request.headers,
            "body": self._body,
            "url_path": self._request.path,
            "url_params": self._path_params,
        }
        parsed: Record = parser.parse(request)
        return parsed

    def serialized(self, result: Any) -> Answer:
        """An answer, or a modelled refusal, as it goes out."""
        sent = self._writer.serialize(result)
        body = sent["body"].encode() if isinstance(sent["body"], str) else sent["body"] or b""
        return Answer(f"{sent['status_code']} -", [(name, str(value)) for name, value in sent["headers"].items()], body)


def routed(service: str, environ: WSGIEnvironment) -> tuple[OperationModel, Record] | None:
    """The operation that method and path name, None when there is none. Never reads the body."""
    try:
        matched: tuple[OperationModel, Record] = get_service_router(service).match(BackendRequest(dict(environ)))
    except (NotFound, NotImplementedError):
        return None
    return matched
