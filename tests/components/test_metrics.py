from app.observability import metrics as emitted
from components import _metrics


def test_alarms_and_scaling_read_what_the_app_writes() -> None:
    assert emitted.NAMESPACE == _metrics.NAMESPACE
    assert emitted.DIMENSIONS == (_metrics.STACK_DIMENSION, _metrics.SERVICE_DIMENSION)
    assert emitted.EMIT_SECONDS == _metrics.INTERVAL_SECONDS
    assert set(emitted.UNITS) == _metrics.NAMES


def test_every_named_metric_is_in_the_list_that_the_app_is_compared_with() -> None:
    dimensions = {"STACK_DIMENSION", "SERVICE_DIMENSION", "WEB", "WORKER", "ROTATE_KEY", "SETTLE_SUSPENSE"}
    not_metrics = {"NAMESPACE", *dimensions}
    named = {
        value
        for key, value in vars(_metrics).items()
        if key.isupper() and isinstance(value, str) and key not in not_metrics
    }
    assert named == _metrics.NAMES


def test_a_metric_has_no_dimension_beyond_stack_and_service() -> None:
    assert _metrics.dimensions("dev", "web") == {"Stack": "dev", "Service": "web"}
