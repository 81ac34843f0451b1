"""`docs/adding-an-expert.md`, followed to the letter: its files typed in, its process started, called and stopped.

The rooms that an expert stands on are copied, what the page says is written among the copies, and the code of the
contract is generated as `scripts/generate` does. Nothing here reaches into the copy: a process is asked over gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from cli.mesh import HOST, free_ports, is_serving
from polysight.common.v1 import image_pb2
from polysight.gateway.v1 import polysight_pb2, polysight_pb2_grpc
from serving.errors import error_info, status_from_rpc_error

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding-an-expert.md"
SERVICE = "polysight.vision.v1.FocusService"
SIDE = 258
START_S, CALL_S = 240.0, 60.0
# A section's heading ends with the file that its one block is.
_FILE = re.compile(r"^## [^\n]*?: `(?P<path>[^`\n]+)`\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def files_of_the_page() -> dict[str, str]:
    return {found["path"]: found["text"] for found in _FILE.finditer(PAGE.read_text())}


@dataclass(frozen=True)
class Checkout:
    """A copy of the project in which the page has been followed."""

    root: Path

    def environment(self, settings: Mapping[str, str] = {}) -> dict[str, str]:
        paths = os.pathsep.join((str(self.root), str(self.root / "gen")))
        return {**os.environ, "PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE", **settings}

    def run(self, *arguments: str, module: str | None = None) -> str:
        command = [sys.executable, *(("-m", module) if module else ()), *arguments]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def serving(self, module: str, port: int, settings: Mapping[str, str]) -> Iterator[str]:
        """The address of a process of the checkout, until it has been told to end and has ended well."""
        log, address = self.root / f"{module}.log", f"{HOST}:{port}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=self.root,
                env=self.environment(settings),
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + START_S
            while not is_serving(address, 5):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield address
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def insert(self, path: str, after: str, *lines: str) -> None:
        """Type `lines` after the one place in a file where `after` stands."""
        before, found, rest = (self.root / path).read_text().partition(after)
        assert found, f"{path}: {after}"
        assert after not in rest, f"{path}: {after} stands there twice"
        (self.root / path).write_text("".join((before, found, *(f"\n{line}" for line in lines), rest)))

    def generate(self, *protos: str) -> None:
        """What `scripts/generate` does, for some files of the contract."""
        includes = ("-Iprotos", "-Iprotos/third_party")
        out = ("--python_out=gen", "--grpc_python_out=gen")
        self.run(*includes, *out, *protos, module="grpc_tools.protoc")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    root = tmp_path_factory.mktemp("checkout")
    for room in ("protos", "gen", "serving", "gateway"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "services").mkdir()
    (root / "services" / "__init__.py").touch()
    for path, text in files_of_the_page().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    made = Checkout(root)
    made.generate("polysight/vision/v1/focus.proto")
    made.run(module="services.focus.export")
    return made


@dataclass(frozen=True)
class Expert:
    """The expert in a process of its own. `messages`: the generated module of its contract."""

    address: str
    metrics_port: int
    messages: Any

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics") as page:
            lines = page.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture(scope="module")
def expert(checkout: Checkout) -> Iterator[Expert]:
    port, metrics_port = free_ports(2)
    settings = {
        "FOCUS_PORT": str(port),
        "FOCUS_METRICS_PORT": str(metrics_port),
        "FOCUS_MODEL_PATH": "focus.onnx",
        "FOCUS_THREADS": "1",
        "FOCUS_DRAIN_PAUSE_S": "0",
    }
    with checkout.serving("services.focus", port, settings) as address:
        yield Expert(address, metrics_port, _messages(checkout))


def _messages(checkout: Checkout) -> Any:
    path = checkout.root / "gen" / "polysight" / "vision" / "v1" / "focus_pb2.py"
    spec = importlib.util.spec_from_file_location("polysight.vision.v1.focus_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def channel(expert: Expert) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(expert.address) as opened:
        yield opened


async def measure(expert: Expert, channel: grpc.aio.Channel, image: bytes) -> Any:
    call = channel.unary_unary(
        f"/{SERVICE}/MeasureFocus",
        request_serializer=expert.messages.MeasureFocusRequest.SerializeToString,
        response_deserializer=expert.messages.MeasureFocusResponse.FromString,
    )
    return await call(expert.messages.MeasureFocusRequest(image=image_pb2.Image(data=image)), timeout=CALL_S)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def stripes(contrast: int) -> bytes:
    """Columns that change by `contrast` grey levels from one to the next."""
    row = np.where(np.arange(SIDE) % 2, contrast, 0).astype(np.uint8)
    return png(np.broadcast_to(row[None, :, None], (SIDE, SIDE, 3)).copy())


def energy(contrast: int) -> float:
    """What the expert must say of stripes, computed by hand: the Laplacian of a column is twice the step."""
    return (2 * contrast / 255) ** 2


def test_the_page_is_short_and_has_all_the_files_of_an_expert() -> None:
    assert len(PAGE.read_text().splitlines()) <= 120
    assert list(files_of_the_page()) == [
        "protos/polysight/vision/v1/focus.proto",
        *(f"services/focus/{name}.py" for name in ("export", "model", "service", "__main__")),
    ]


def test_what_the_page_points_to_is_there() -> None:
    text = PAGE.read_text()
    named = {name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name and "focus" not in name}
    assert len(named) > 15
    assert not [name for name in named if not (ROOT / name).exists()]
    for file, symbol in {
        "gateway/experts.py": "KINDS",
        "gateway/translation.py": "class Seen",
        "gateway/settings.py": "def addresses",
        "cli/mesh.py": "class ProcessSpec",
        "cli/graphs.py": "GRAPHS",
    }.items():
        assert f"`{file}`" in text
        assert symbol in (ROOT / file).read_text()
        assert symbol.split()[-1] in text


async def test_it_says_how_sharp_a_picture_is(expert: Expert, channel: grpc.aio.Channel) -> None:
    sharp = await measure(expert, channel, stripes(200))
    assert sharp.sharpness == pytest.approx(energy(200), rel=1e-4)
    assert (await measure(expert, channel, png(np.full((40, 60, 3), 255, np.uint8)))).sharpness < 1e-6
    assert (sharp.model.name, sharp.model.engine) == ("laplacian", "onnxruntime-cpu")
    assert sharp.timings.batch_size == 1
    assert sharp.timings.inference.ToNanoseconds() > 0


async def test_it_describes_itself(expert: Expert, channel: grpc.aio.Channel) -> None:
    describe = channel.unary_unary(
        f"/{SERVICE}/Describe",
        request_serializer=expert.messages.FocusServiceDescribeRequest.SerializeToString,
        response_deserializer=expert.messages.FocusServiceDescribeResponse.FromString,
    )
    card = (await describe(expert.messages.FocusServiceDescribeRequest(), timeout=CALL_S)).description
    assert (card.model.name, card.max_batch_size) == ("laplacian", 8)


async def test_health_knows_it_by_name(expert: Expert, channel: grpc.aio.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    reply = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_S)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_callers_share_batches_and_get_their_own_answers(
    expert: Expert, channel: grpc.aio.Channel
) -> None:
    contrasts = range(40, 240, 4)
    pictures = [stripes(contrast) for contrast in contrasts]
    shared = 1
    for _ in range(
        20
    ):  # whether callers meet in a queue is the scheduler's business: not at the first try, perhaps
        before = expert.metric("focus_batch_size_count"), expert.metric("focus_batch_size_sum")
        replies = await asyncio.gather(*(measure(expert, channel, picture) for picture in pictures))
        for contrast, reply in zip(contrasts, replies, strict=True):
            assert reply.sharpness == pytest.approx(energy(contrast), rel=1e-4)
        sizes = [reply.timings.batch_size for reply in replies]
        assert max(sizes) <= 8
        assert expert.metric("focus_batch_size_sum") - before[1] == len(pictures)
        assert expert.metric("focus_batch_size_count") - before[0] == pytest.approx(sum(1 / n for n in sizes))
        if (shared := max(shared, *sizes)) > 1:
            break
    assert shared > 1


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "IMAGE_EMPTY"),
        (b"no picture at all", "IMAGE_UNSUPPORTED_FORMAT"),
        (stripes(9)[:60], "IMAGE_CORRUPT"),
    ],
    ids=["empty", "text", "truncated"],
)
async def test_what_is_no_picture_has_a_typed_error(
    expert: Expert, channel: grpc.aio.Channel, image: bytes, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await measure(expert, channel, image)
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert info.reason == reason


async def test_a_request_without_a_picture_breaks_the_contracts_rule(
    expert: Expert, channel: grpc.aio.Channel
) -> None:
    call: Any = channel.unary_unary(f"/{SERVICE}/MeasureFocus")
    with pytest.raises(grpc.RpcError) as caught:
        await call(b"", timeout=CALL_S)
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert info.reason == "INVALID_FIELD"


NUMBER, FIELD = 5, 10


@pytest.fixture(scope="module")
def gateway(checkout: Checkout, expert: Expert) -> Iterator[str]:
    """The gateway of the checkout, told of the expert as the page's table says; nobody else is there."""
    contract = "polysight/gateway/v1/polysight.proto"
    checkout.insert(
        f"protos/{contract}",
        'import "polysight/vision/v1/detection.proto";',
        'import "polysight/vision/v1/focus.proto";',
    )
    checkout.insert(f"protos/{contract}", "  EXPERT_OCR = 4;", f"  EXPERT_FOCUS = {NUMBER};")
    checkout.insert(
        f"protos/{contract}",
        "RecognizeTextResponse ocr = 9;",
        f"    polysight.vision.v1.MeasureFocusResponse focus = {FIELD};",
    )
    checkout.generate(contract)
    checkout.insert(
        "gateway/experts.py",
        "KINDS: Sequence[ExpertKind] = (",
        "    ExpertKind(",
        "        polysight_pb2.EXPERT_FOCUS,",
        '        "focus",',
        '        "focus",',
        f'        "/{SERVICE}/MeasureFocus",',
        "        focus_pb2.MeasureFocusResponse.FromString,",
        "        lambda _: focus_pb2.MeasureFocusRequest(),",
        "    ),",
    )
    checkout.insert(
        "gateway/experts.py",
        "from serving.interceptors.client import Telling",
        "from polysight.vision.v1 import focus_pb2",
    )
    checkout.insert(
        "gateway/settings.py",
        '    ocr_address: Address = Field(description="of the OCR expert")',
        "    focus_address: Address",
    )
    checkout.insert(
        "gateway/settings.py",
        '            "ocr": self.ocr_address,',
        '            "focus": self.focus_address,',
    )
    checkout.insert(
        "gateway/translation.py",
        "    ocr: ocr_pb2.RecognizeTextResponse | None = None",
        "    focus: object | None = None",
    )
    port, nobody = free_ports(2)
    experts = ("panoptic", "detection", "scene_graph", "ocr", "llm_server")
    settings = {f"GATEWAY_{name.upper()}_ADDRESS": f"{HOST}:{nobody}" for name in experts}
    settings |= {
        "GATEWAY_FOCUS_ADDRESS": expert.address,
        "GATEWAY_PORT": str(port),
        "GATEWAY_METRICS_PORT": "0",
        "GATEWAY_DRAIN_PAUSE_S": "0",
    }
    with checkout.serving("gateway", port, settings) as address:
        yield address


async def test_the_gateway_asks_it_once_its_rows_are_there(expert: Expert, gateway: str) -> None:
    request = polysight_pb2.PerceiveRequest(image=image_pb2.Image(data=stripes(120)))
    request.options.experts.append(NUMBER)  # type: ignore[arg-type]
    request.options.budget.FromSeconds(int(CALL_S) // 2)
    async with grpc.aio.insecure_channel(gateway) as channel:
        stub: Any = polysight_pb2_grpc.PolysightServiceStub(channel)
        reply = await stub.Perceive(request, timeout=CALL_S)
    by_number = {report.expert: report for report in reply.reports}
    assert by_number.keys() == {1, 2, 3, 4, NUMBER}
    assert by_number[NUMBER].outcome == polysight_pb2.OUTCOME_OK
    # The field is unknown to the contract that this test was made with.
    unknown: Any = UnknownFieldSet(by_number[NUMBER])
    (seen,) = [field.data for field in unknown if field.field_number == FIELD]
    found = expert.messages.MeasureFocusResponse.FromString(seen)
    assert found.sharpness == pytest.approx(energy(120), rel=1e-4)
