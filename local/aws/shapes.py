"""Answers held to the service's own model before they are sent: a misspelt member is an error here, not later."""

from botocore.model import OperationModel
from botocore.validate import ParamValidator

from local.aws.call import Record

_NOT_JUDGED = ("invalid range", "invalid length")
"""AWS itself answers below its modelled minimums."""


class ShapeError(TypeError):
    """A handler's answer does not fit botocore's model of the operation."""


def check(operation: OperationModel, answer: Record) -> None:
    """Refuse unknown, missing and mistyped members.

    Raises:
        ShapeError: naming the operation and each member.
    """
    if operation.output_shape is None:
        return
    report = ParamValidator().validate(answer, operation.output_shape)
    report._errors = [error for error in report._errors if error[0] not in _NOT_JUDGED]
    if report.has_errors():
        name = f"{operation.service_model.service_name} {operation.name}"
        raise ShapeError(f"{name}: the answer does not fit the model: {report.generate_report()}")
