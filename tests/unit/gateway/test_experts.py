"""A request to an expert is the picture's bytes, encoded once, followed by what else is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.dummies import REQUESTS
from gateway.experts import KINDS, ExpertOptions, ImageField
from polysight.common.v1 import geometry_pb2, image_pb2, model_pb2
from polysight.gateway.v1 import polysight_pb2
from polysight.vision.v1 import panoptic_pb2


def test_the_table_agrees_with_the_contract() -> None:
    assert [kind.expert for kind in KINDS] == polysight_pb2.Expert.values()[1:]
    assert {kind.field for kind in KINDS} == {
        field.name for field in polysight_pb2.ExpertReport.DESCRIPTOR.oneofs_by_name["result"].fields
    }
    for kind in KINDS:
        request = REQUESTS[kind.expert].DESCRIPTOR
        service_name, _, method_name = kind.method.strip("/").partition("/")
        (service,) = (s for s in request.file.services_by_name.values() if s.full_name == service_name)
        method = service.methods_by_name[method_name]
        assert method.input_type.full_name == request.full_name
        assert kind.parse(b"").DESCRIPTOR.full_name == method.output_type.full_name


def test_every_expert_takes_the_same_message_in_the_same_field() -> None:
    for request in REQUESTS.values():
        image = request.DESCRIPTOR.fields_by_name["image"]
        assert (image.number, image.message_type.full_name) == (1, "polysight.common.v1.Image")


@given(
    st.binary(max_size=300),
    st.lists(st.text(max_size=8), max_size=3),
    st.sampled_from(geometry_pb2.MaskEncoding.values()),
    st.none() | st.tuples(st.integers(1, 512), st.integers(1, 512)),
    st.sampled_from(model_pb2.Profile.values()),
    st.none() | st.tuples(st.integers(1, 512), st.integers(1, 512)),
)
def test_what_is_sent_is_what_was_meant(
    data: bytes,
    vocabulary: list[str],
    masks: geometry_pb2.MaskEncoding,
    grid: tuple[int, int] | None,
    profile: model_pb2.Profile,
    segments: tuple[int, int] | None,
) -> None:
    options = ExpertOptions(tuple(vocabulary), masks, grid, profile, segments)
    for kind in KINDS:
        sent = REQUESTS[kind.expert].FromString(
            ImageField(data).request(kind.options(options).SerializeToString())
        )
        assert sent.image.data == data
        assert sent.HasField("image")
        if kind.name == "panoptic":
            wanted = [size for size in dict.fromkeys((grid, segments)) if size is not None]
            assert [(g.height, g.width) for g in sent.grids] == wanted
        if kind.name in {"panoptic", "scene_graph"}:
            assert sent.mask_encoding == masks
        if kind.name != "ocr":
            assert sent.profile == profile
        if kind.name == "detection":
            assert list(sent.vocabulary) == vocabulary


@pytest.mark.parametrize(("second", "asked"), [(35, [(35, 35)]), (36, [(35, 35), (35, 36)])])
def test_a_grid_for_two_purposes_is_asked_for_once(second: int, asked: list[tuple[int, int]]) -> None:
    request = KINDS[0].options(ExpertOptions(crayon_grid=(35, 35), segment_grid=(35, second)))
    assert isinstance(request, panoptic_pb2.SegmentRequest)
    assert [(grid.height, grid.width) for grid in request.grids] == asked


@pytest.mark.parametrize("size", [0, 1, 123, 124, 125, 126, 127, 128, 16379, 16380, 16384, 2_097_152])
def test_the_picture_is_written_as_protobuf_writes_it(size: int) -> None:
    data = bytes(size)
    expected = panoptic_pb2.SegmentRequest(image=image_pb2.Image(data=data)).SerializeToString()
    assert ImageField(data).request(b"") == expected
