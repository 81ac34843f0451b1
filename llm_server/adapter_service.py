"""`llm.v1.AdapterAdminService`: adapters come and go while answers are being written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from llm_server.adapter_files import AdapterRefused
from llm_server.adapter_manager import AdapterManager
from llm_server.faults import EngineClosedFault, UnknownAdapterFault
from llm_server.replies import adapter_info, on_the_wire
from llm_server.request import check_model
from llm_server.served_model import ServedModel
from polysight.llm.v1 import adapter_admin_pb2, adapter_admin_pb2_grpc
from serving.errors import (
    AdapterMismatchError,
    AdapterNotFoundError,
    PolysightError,
    UnsupportedOptionError,
)
from serving.grpc_server import Servicer

FULL_NAME = adapter_admin_pb2.DESCRIPTOR.services_by_name["AdapterAdminService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)


class AdapterService(adapter_admin_pb2_grpc.AdapterAdminServiceServicer):
    """Translates between the contract and :class:`llm_server.adapter_manager.AdapterManager`."""

    def __init__(self, model: Callable[[], ServedModel]) -> None:
        """``model`` gives the model that is served, or raises NotReadyError."""
        self._model = model
        self._changing = asyncio.Lock()

    def servicer(self) -> Servicer:
        """This service, as a server takes it."""
        return Servicer(FULL_NAME, lambda server: _register(self, server))

    async def LoadAdapter(
        self, request: adapter_admin_pb2.LoadAdapterRequest, context: Context
    ) -> adapter_admin_pb2.LoadAdapterResponse:
        """Load or replace; one at a time, so that two callers do not fill the memory with what they read."""
        model = self._model()
        check_model(request.model, model)
        manager = _manager(model)
        by_default = request.by_default if request.HasField("by_default") else None
        async with self._changing:
            try:
                after, before = await asyncio.to_thread(
                    manager.load, request.name, folder=request.folder, by_default=by_default
                )
            except AdapterRefused as refused:
                raise _refused(refused, model) from refused
            except FileNotFoundError as missing:
                raise AdapterNotFoundError(
                    f"there is no folder {request.folder or request.name!r} in the adapter store",
                    metadata={"adapter": request.name},
                ) from missing
            except EngineClosedFault as fault:
                raise on_the_wire(fault, model) from fault
        replaced = "" if before is None else before.files.sha256
        log.info("adapter loaded", adapter=request.name, sha256=after.files.sha256, replaced=replaced)
        return adapter_admin_pb2.LoadAdapterResponse(
            adapter=adapter_info(after, model), replaced_sha256=replaced
        )

    async def UnloadAdapter(
        self, request: adapter_admin_pb2.UnloadAdapterRequest, context: Context
    ) -> adapter_admin_pb2.UnloadAdapterResponse:
        """Take away."""
        model = self._model()
        check_model(request.model, model)
        manager = _manager(model)
        try:
            before = await asyncio.to_thread(manager.unload, request.name)
        except (UnknownAdapterFault, EngineClosedFault) as fault:
            raise on_the_wire(fault, model) from fault
        log.info("adapter unloaded", adapter=request.name, sha256=before.files.sha256)
        return adapter_admin_pb2.UnloadAdapterResponse(adapter=adapter_info(before, model))


def _register(service: AdapterService, server: grpc.aio.Server) -> None:
    adapter_admin_pb2_grpc.add_AdapterAdminServiceServicer_to_server(service, server)


def _manager(model: ServedModel) -> AdapterManager:
    """Raises UnsupportedOptionError for a model without adapters."""
    if model.manager is None:
        raise UnsupportedOptionError(f"{model.name} takes no adapters", metadata={"option": "adapter"})
    return model.manager


def _refused(refused: AdapterRefused, model: ServedModel) -> PolysightError:
    """Made for another base, or of a kind that is not served."""
    if refused.base is not None:
        return AdapterMismatchError(
            f"{refused}; {model.name} has the base {model.base}",
            metadata={"adapter": refused.name, "base": refused.base or "unnamed"},
        )
    return UnsupportedOptionError(str(refused), metadata={"option": "adapter", "adapter": refused.name})
