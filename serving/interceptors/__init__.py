"""What happens around every call, on the server's side and on the client's."""

from __future__ import annotations

import grpc
from opentelemetry.trace import TracerProvider

from serving.field_rules import FieldRules
from serving.interceptors.admit import AdmitInterceptor
from serving.interceptors.around import Chain
from serving.interceptors.client import client_interceptors
from serving.interceptors.device import DeviceInterceptor
from serving.interceptors.errors import ErrorsInterceptor
from serving.interceptors.identify import IdentifyInterceptor
from serving.interceptors.observe import ObserveInterceptor
from serving.interceptors.trace import TraceInterceptor
from serving.interceptors.validate import ValidateInterceptor
from serving.telemetry.metrics import Metrics

__all__ = ["client_interceptors", "server_interceptors"]


def server_interceptors(
    metrics: Metrics,
    *,
    admit: AdmitInterceptor | None = None,
    device: DeviceInterceptor | None = None,
    provider: TracerProvider | None = None,
) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a server, as one; inside it, outermost first:

    Id, then span, so that the log line has both; the line and the counters see the code that the errors
    interceptor puts on the wire; admission comes before validation, so that a busy server does not check what
    it refuses; so does the question whether there still is a device.
    """
    return [
        Chain(
            [
                IdentifyInterceptor(),
                TraceInterceptor(provider),
                ObserveInterceptor(metrics),
                ErrorsInterceptor(),
                *([] if device is None else [device]),
                *([] if admit is None else [admit]),
                ValidateInterceptor(FieldRules()),
            ]
        )
    ]
