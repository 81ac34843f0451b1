"""Every benchmark reads its public file format, asks in the published form, and reads answers by the published rule."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.evaluation.benchmarks.benchmark import Answered, BenchmarkDataError
from llm_server.evaluation.benchmarks.published import PUBLISHED
from llm_server.evaluation.benchmarks.registry import BENCHMARKS
from llm_server.evaluation.harness.example import Example

DATA = Path(__file__).parent / "data"
NAMES = sorted(BENCHMARKS)


def folder(name: str, tmp_path: Path) -> Path:
    """The data we wrote for a benchmark, with pictures where its reader looks for them."""
    copy = tmp_path / name
    shutil.copytree(DATA / name, copy)
    if name == "mme":
        # The two that we wrote, and the same again for the tasks we did not.
        for task in ("count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
                     "commonsense_reasoning", "numerical_calculation", "text_translation"):  # fmt: skip
            shutil.copytree(copy / "existence", copy / task)
        (copy / "code_reasoning" / "images").mkdir()
        for text in list(copy.rglob("*.txt")):
            place = (
                text.parent.parent / "images" if text.parent.name == "questions_answers_YN" else text.parent
            )
            (place / f"{text.stem}.png").write_bytes(b"picture")
    return copy


def answers(name: str, data: Path, said: Sequence[str]) -> list[Answered]:
    benchmark = BENCHMARKS[name]
    examples = benchmark.questions(data)
    return [
        Answered(example, answer, benchmark.mark(example, answer))
        for example, answer in zip(examples, said, strict=True)
    ]


ONE_WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("name", "questions"),
    [
        ("gqa", ["What colour is the kettle?" + ONE_WORD, "Is the kettle on the stove?" + ONE_WORD]),
        ("textvqa", ["what does the shop sign say?" + ONE_WORD, "what number is on the door?" + ONE_WORD]),
        (
            "chartqa",
            [q + ONE_WORD for q in ("What share is blue?", "Which bar is tallest?", "What was it in 2010?")],
        ),
        ("pope", ["Is there a dog in the image?" + ONE_WORD, "Is there a bus in the image?" + ONE_WORD] * 3),
        (
            "scienceqa",
            [
                "Two magnets are shown.\nWhich magnet pulls harder?\nA. the left one\nB. the right one"
                + LETTER,
                "Which state is marked?\nA. Ohio\nB. Utah\nC. Iowa" + LETTER,
            ],
        ),
        (
            "mmbench",
            [
                "What is on the shelf?\nA. a clock\nB. a vase" + LETTER,
                "What is on the shelf?\nA. a vase\nB. a clock" + LETTER,
                "A pond in spring.\nHow many birds?\nA. one\nB. two\nC. three\nD. four" + LETTER,
            ],
        ),
        ("mmbench-cn", ["架子上是什么？\nA. 钟\nB. 花瓶\n请直接回答选项字母。"]),
        ("qbench", ["How sharp is this image?\nA. Sharp\nB. Blurry\nC. Medium\n" + LETTER]),
        ("ai2d", ["What eats the leaf?\nA. snail\nB. hawk\nC. root\nD. sun\n" + LETTER]),
        ("seed", ["Where was this taken?\nA. a kitchen B. a garage C. a park D. a shop" + LETTER]),
        ("mm-vet", ["What is the total on the bill?"]),
        (
            "mathvista",
            [
                "Hint: Please answer the question requiring an integer answer.\nQuestion: How long is the side?"
            ],
        ),
        ("hallusionbench", ["Is the upper line longer?", "Does the table have two rows?"]),
    ],
)
def test_questions_are_asked_as_published(name: str, questions: list[str], tmp_path: Path) -> None:
    examples = BENCHMARKS[name].questions(folder(name, tmp_path))
    assert [example.question for example in examples] == questions
    assert len({example.id for example in examples}) == len(examples)
    assert {example.max_new_tokens for example in examples} == {5 if name == "pope" else 128}


def test_mme_asks_its_raw_questions_of_both_layouts(tmp_path: Path) -> None:
    examples = BENCHMARKS["mme"].questions(folder("mme", tmp_path))
    assert len(examples) == 28
    assert {example.question for example in examples} == {
        "Is there a cat in this image? Please answer yes or no.",
        "Is there a kite in this image? Please answer yes or no.",
        "Does the loop print five lines? Please answer yes or no.",
        "Does the loop print six lines? Please answer yes or no.",
    }
    assert {example.picture.read() for example in examples} == {b"picture"}
    assert {example.max_new_tokens for example in examples} == {5}


@pytest.mark.parametrize(
    ("name", "said", "figures"),
    [
        ("gqa", ["Red.", "no"], {"accuracy": 50.0, "query": 100.0, "verify": 0.0}),
        # Six said "open" of whom each is left out once: full agreement; one of ten said "we are open": .3 but for him.
        ("textvqa", ["Open", "12"], {"accuracy": 100.0}),
        ("textvqa", ["we are open", "Twelve"], {"accuracy": 30.0}),
        ("chartqa", ["41%", "norway.", "189"], {"relaxed_accuracy": 50.0, "human": 100.0, "augmented": 0.0}),
        ("scienceqa", ["B", "The answer is A."], {"accuracy": 100.0}),
        ("scienceqa", ["B. the right one", "Ohio"], {"accuracy": 50.0}),
        ("mmbench", ["B", "A.", "(C)"], {"accuracy": 100.0, "vanilla": 100.0}),
        ("mmbench", ["B", "B", "three"], {"accuracy": 50.0, "vanilla": 200 / 3}),
        ("mmbench-cn", ["B"], {"accuracy": 100.0}),
        ("qbench", ["B. Blurry"], {"accuracy": 100.0, "0": 100.0}),
        ("qbench", [""], {"accuracy": 0.0}),
        ("ai2d", ["The option is A"], {"accuracy": 0.0}),
        ("ai2d", ["A. snail"], {"accuracy": 100.0}),
        ("seed", ["c"], {"accuracy": 100.0, "Scene Understanding": 100.0}),
        ("hallusionbench", ["No, they are equal.", "Yes."], {"accuracy": 100.0, "VD": 100.0, "VS": 100.0}),
    ],
)
def test_answers_are_read_as_published(
    name: str, said: list[str], figures: dict[str, float], tmp_path: Path
) -> None:
    measured = BENCHMARKS[name].figures(answers(name, folder(name, tmp_path), said))
    assert {figure: measured[figure] for figure in figures} == pytest.approx(figures)
    assert next(iter(measured)) == next(iter(figures))


def test_pope_figures(tmp_path: Path) -> None:
    said = ["Yes, a dog.", "There is not. Yes.", "No", "yes", "yes", "no bus"]
    measured = BENCHMARKS["pope"].figures(answers("pope", folder("pope", tmp_path), said))
    assert measured["accuracy"] == pytest.approx(200 / 3)
    assert [measured[f"random_{figure}"] for figure in ("accuracy", "precision", "recall", "f1", "yes_ratio")] == [
        100.0, 100.0, 100.0, 100.0, 50.0,
    ]  # fmt: skip
    assert [measured[f"popular_{figure}"] for figure in ("accuracy", "precision", "recall", "f1")] == [
        0.0
    ] * 4


def test_mme_counts_accuracy_and_pictures_with_both_right(tmp_path: Path) -> None:
    said = ["Yes", "No"] + ["yes.", "Maybe"] * 13
    measured = BENCHMARKS["mme"].figures(answers("mme", folder("mme", tmp_path), said))
    assert measured["existence"] == 200.0
    assert measured["count"] == 50.0
    assert (measured["perception"], measured["cognition"], measured["total"]) == (650.0, 200.0, 850.0)


def test_answers_are_exported_as_the_graders_take_them(tmp_path: Path) -> None:
    exports = {}
    for name, said in (("mm-vet", ["14.20"]), ("mathvista", ["4"]), ("mmbench", ["B", "A", "C"])):
        export = BENCHMARKS[name].export
        assert export is not None
        exports[name] = export(answers(name, folder(name, tmp_path), said))
    assert json.loads(exports["mm-vet"][1]) == {"v1_0": "14.20"}
    told = json.loads(exports["mathvista"][1])["1"]
    assert (told["response"], told["answer_type"]) == ("4", "integer")
    assert exports["mmbench"] == (
        "mmbench.tsv",
        "index\tquestion\tA\tB\tC\tD\tprediction\n7\tWhat is on the shelf?\ta clock\ta vase\t\t\tB\n"
        "1000007\tWhat is on the shelf?\ta vase\ta clock\t\t\tA\n8\tHow many birds?\tone\ttwo\tthree\tfour\tC\n",
    )
    assert [BENCHMARKS[name].figures([]) for name in ("mm-vet", "mathvista")] == [{}, {}]


def test_pictures_within_a_table_are_decoded_and_turned_rows_share_them(tmp_path: Path) -> None:
    pictures = [one.picture for one in BENCHMARKS["mmbench"].questions(folder("mmbench", tmp_path))]
    assert [picture.read() for picture in pictures] == [b"PICTURE"] * 3
    assert [picture.name for picture in pictures] == ["7", "7", "8"]


@pytest.mark.parametrize("name", NAMES)
def test_absent_data_says_where_to_put_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError) as caught:
        BENCHMARKS[name].questions(tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere/{BENCHMARKS[name].layout[0]}" in str(caught.value)
    assert BENCHMARKS[name].source in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mme"])
@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '[{"a": 1}]', '{"data": [1], "questions": [1]}'])
def test_malformed_data_is_refused(name: str, text: str, tmp_path: Path) -> None:
    data = folder(name, tmp_path)
    for file in data.rglob("*.*"):
        if file.is_file():
            file.write_text(text)
    with pytest.raises(BenchmarkDataError):
        BENCHMARKS[name].questions(data)


@pytest.mark.parametrize("name", NAMES)
@given(said=st.text(max_size=30))
def test_no_answer_breaks_a_parser(name: str, said: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    key = f"any-{name}"
    if key not in _READ:
        _READ[key] = BENCHMARKS[name].questions(folder(name, tmp_path_factory.mktemp("data")))
    for example in _READ[key]:
        assert 0.0 <= BENCHMARKS[name].mark(example, said).score <= 1.0


_READ: dict[str, list[Example]] = {}


def test_published_figures_are_there_for_all_and_name_figures_that_exist(tmp_path: Path) -> None:
    assert set(PUBLISHED) == set(BENCHMARKS)
    for name, figures in PUBLISHED.items():
        examples = BENCHMARKS[name].questions(folder(name, tmp_path))
        graded = BENCHMARKS[name].figures(answers(name, tmp_path / name, [""] * len(examples)))
        assert set(figures) <= {*graded, *(["graded"] if not graded else [])}
    assert PUBLISHED["mme"]["total"]["CoLLaVO-7B"] == pytest.approx(1689.7 + 525.0)
    assert PUBLISHED["gqa"]["accuracy"]["CoLLaVO-7B"] == 61.4
