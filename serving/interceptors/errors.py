"""The one place where an exception becomes a gRPC status."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog
from google.rpc import code_pb2, status_pb2

from serving.errors import DETAILS_METADATA_KEY, to_status
from serving.interceptors.around import Behaviour, Context
from serving.interceptors.metadata import add_trailer, trailers
from serving.request_id import REQUEST_ID_HEADER, current_request_id

_CODES = {code.value[0]: code for code in grpc.StatusCode}

log = structlog.get_logger(__name__)


class ErrorsInterceptor:
    """Ends a failed call with a `google.rpc.Status`, before or between the messages of its stream.

    A cancelled call and one that the handler aborted itself pass. An exception that is not in the contract is
    logged with its traceback, and the caller reads "internal error" and the request id.
    """

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Run the call; end it with a status if it fails."""
        try:
            return await behaviour(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            if context.cancelled() or context.done():
                # The caller is gone (writing to it fails in several ways): nobody to tell, nothing broken.
                log.debug("caller left", method=method, error=repr(error))
                raise asyncio.CancelledError from error
            status = to_status(error)
            if status.code in {code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.DATA_LOSS}:
                log.exception("call failed", method=method)
            await _abort(context, status)


async def _abort(context: Context, status: status_pb2.Status) -> None:
    add_trailer(context, REQUEST_ID_HEADER, current_request_id())
    await context.abort(
        _CODES[status.code],
        status.message,
        (*trailers(context), (DETAILS_METADATA_KEY, status.SerializeToString())),
    )
