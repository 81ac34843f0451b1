"""A gateway as a model of lmms-eval: its `generate_until` requests become Answer calls.

Written against lmms-eval's documented base class `lmms_eval.api.model.lmms` ("simple" models): a request's `args` are
(context, generation arguments, doc_to_visual, doc_id, task, split), and `task_dict[task][split][doc_id]` is the
document whose picture `doc_to_visual` returns. The parts of that interface which are used are the protocols below.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from PIL import Image

from llm_server.evaluation.harness.client import GatewayClient, answer_request
from llm_server.evaluation.harness.example import Condition
from polysight.gateway.v1 import polysight_pb2
from serving.channel import open_channel

Visual = Image.Image | str
"""What `doc_to_visual` lists: pictures, or paths of image files."""

# lmms-eval passes strings for what is given in --model_args, and always these of its own.
_IGNORED_ARGUMENTS: Final = ("batch_size", "max_batch_size", "device")


class Request(Protocol):
    """An `lmms_eval.api.instance.Instance`, as far as it is used."""

    @property
    def args(self) -> tuple[Any, ...]:
        """(context, generation arguments, doc_to_visual, doc_id, task, split)."""


class CacheHook(Protocol):
    """Where lmms-eval keeps partial results."""

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Keep one."""


class Base(Protocol):
    """What the class takes from lmms-eval's base class."""

    task_dict: Mapping[str, Mapping[str, Sequence[Any]]]
    cache_hook: CacheHook


class UnsupportedVisualsError(ValueError):
    """A gateway answers about exactly one picture; a task shows none, several, or a video."""


class LoglikelihoodUnsupportedError(RuntimeError):
    """A gateway tells words, not their probabilities: tasks of type loglikelihood cannot be run on it."""


def image_bytes(visuals: Any) -> bytes:
    """The file of the one picture of a request: of a path its bytes, of a picture a PNG.

    Raises:
        UnsupportedVisualsError: there is not exactly one, or it is no picture.
        OSError: the path cannot be read.
    """
    listed = list(visuals) if isinstance(visuals, list | tuple) else [visuals]
    if len(listed) != 1:
        raise UnsupportedVisualsError(f"a gateway answers about one picture, not about {len(listed)}")
    (visual,) = listed
    if isinstance(visual, Image.Image):
        file = io.BytesIO()
        visual.convert("RGB").save(file, "PNG")
        return file.getvalue()
    if isinstance(visual, str):
        with open(visual, "rb") as opened:
            return opened.read()
    raise UnsupportedVisualsError(f"a {type(visual).__name__} is no picture")


def request_of(
    context: str, arguments: Mapping[str, Any], image: bytes, condition: Condition
) -> polysight_pb2.AnswerRequest:
    """The Answer call for a context, with lmms-eval's generation arguments.

    `max_new_tokens` and `until` hold; `temperature` and `top_p` hold if `do_sample` is set or `temperature` is above 0,
    else decoding is greedy. `num_beams` and whatever else a task gives is for other models and is passed over.
    """
    text = context.replace("<image>", "").strip()
    request = answer_request(image, text, condition, int(arguments.get("max_new_tokens") or 0))
    until = arguments.get("until") or []
    request.stop.extend(stop for stop in ([until] if isinstance(until, str) else until) if stop)
    temperature = float(arguments.get("temperature") or 0.0)
    if temperature > 0 or arguments.get("do_sample"):
        request.sampling.temperature = temperature or 1.0
        if arguments.get("top_p"):
            request.sampling.top_p = float(arguments["top_p"])
    return request


async def answers(
    requests: Sequence[polysight_pb2.AnswerRequest],
    *,
    address: str,
    concurrency: int,
    timeout_s: float,
    answered: Callable[[int, str], None],
) -> list[str]:
    """The answers in the order of the requests, at most `concurrency` on their way at once.

    Raises:
        grpc.aio.AioRpcError: a call failed, the last time it was tried.
    """
    channel = open_channel(address, max_attempts=1)
    try:
        client = GatewayClient(channel, timeout_s=timeout_s)
        free = asyncio.Semaphore(concurrency)

        async def one(number: int, request: polysight_pb2.AnswerRequest) -> str:
            async with free:
                answer = (await client.send(request)).answer
            answered(number, answer)
            return answer

        return await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    finally:
        await channel.close()


def gateway_model(base: type[Any]) -> type[Any]:
    """A subclass of lmms-eval's base class that answers through a gateway."""

    class Polysight(base):  # type: ignore[misc]
        """A gateway as lmms-eval's model.

        Args:
            gateway: host:port.
            model: which language model; empty: the gateway's default.
            adapters: names joined by "+", "none", or empty for the model's default.
            concurrency: questions on their way at once.
            timeout_s: until a question is given up.
        """

        is_simple = True

        def __init__(
            self,
            gateway: str = "127.0.0.1:50060",
            model: str = "",
            adapters: str = "",
            concurrency: int | str = 4,
            timeout_s: float | str = 300.0,
            **given: Any,
        ) -> None:
            super().__init__()
            unknown = sorted(set(given) - set(_IGNORED_ARGUMENTS))
            if unknown:
                raise TypeError(f"polysight knows no {', '.join(unknown)}")
            names = None if not adapters else () if adapters == "none" else tuple(adapters.split("+"))
            self._condition = Condition("lmms-eval", names, model)
            self._gateway, self._concurrency = gateway, int(concurrency)
            self._timeout_s = float(timeout_s)

        def generate_until(self, requests: Sequence[Request]) -> list[str]:
            """The answers, in the order of the requests.

            Raises:
                UnsupportedVisualsError: a request does not show exactly one picture.
                grpc.aio.AioRpcError: a call failed.
            """
            base_part = cast(Base, self)
            calls = []
            for request in requests:
                context, arguments, doc_to_visual, doc_id, task, split = request.args
                image = image_bytes(doc_to_visual(base_part.task_dict[task][split][doc_id]))
                calls.append(request_of(context, arguments, image, self._condition))

            def keep(number: int, answer: str) -> None:
                context, arguments, *_ = requests[number].args
                base_part.cache_hook.add_partial("generate_until", (context, arguments), answer)

            return asyncio.run(
                answers(
                    calls,
                    address=self._gateway,
                    concurrency=self._concurrency,
                    timeout_s=self._timeout_s,
                    answered=keep,
                )
            )

        def generate_until_multi_round(self, requests: Sequence[Request]) -> list[str]:
            """Several rounds need the task's own questions in between, which a gateway is not told.

            Raises:
                UnsupportedVisualsError: always.
            """
            raise UnsupportedVisualsError("tasks of several rounds are not answered through a gateway")

        def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
            """Raises LoglikelihoodUnsupportedError: a gateway tells no probabilities."""
            raise LoglikelihoodUnsupportedError("a gateway tells words, not their probabilities")

    return Polysight
