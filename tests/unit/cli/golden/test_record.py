"""The counting of golden cases is honest: differences, crashes and empty comparisons are all failures."""

from __future__ import annotations

from cli.golden.record import Case, Record
from gateway.reference import ReferenceFailure
from llm_server.prompts.colour_map import PaletteRangeError


def raiser(error: Exception) -> object:
    raise error


def reasons(compare: object) -> list[str]:
    assert callable(compare)
    record = Record()
    record.case("one", compare)
    report = record.report()
    assert report.cases == 1
    assert report.exact == 1 - len(report.failed)
    return [failed.reason for failed in report.failed]


def test_equal_values_of_one_type_are_exact() -> None:
    assert reasons(lambda case: case.equal("x", [1, 2], [1, 2])) == []
    assert reasons(lambda case: case.equal("x", 1, 1.0)) == ["x: 1 is not 1.0"]
    assert reasons(lambda case: case.equal("x", "a", "a ")) == ["x: 'a' is not 'a '"]


def test_every_difference_is_named() -> None:
    def compare(case: Case) -> None:
        case.equal("first", 1, 2)
        case.holds("second differs", False)
        case.equal("third", "y" * 500, "")

    (reason,) = reasons(compare)
    assert reason.startswith("first: 1 is not 2; second differs; third: 'yyy")
    assert len(reason) < 300


def test_a_crash_and_an_empty_comparison_are_failures() -> None:
    assert reasons(lambda case: raiser(KeyError("boxes"))) == ["KeyError: 'boxes'"]
    assert reasons(lambda case: None) == ["nothing in it could be compared"]


def test_a_failure_must_be_the_one_of_the_published_system() -> None:
    ours = ReferenceFailure("no", reference_error="IndexError")
    assert reasons(lambda case: case.fails_as("IndexError", lambda: raiser(ours))) == []
    assert reasons(lambda case: case.fails_as("IndexError", lambda: raiser(PaletteRangeError("no")))) == []
    assert len(reasons(lambda case: case.fails_as("TypeError", lambda: raiser(ours)))) == 1
    assert len(reasons(lambda case: case.fails_as("TypeError", lambda: raiser(PaletteRangeError("no"))))) == 1
    assert len(reasons(lambda case: case.fails_as("IndexError", lambda: "fine"))) == 1
    assert len(reasons(lambda case: case.fails_as("KeyError", lambda: raiser(KeyError("bug"))))) == 1


def test_what_nothing_compares_is_not_met() -> None:
    record = Record()
    record.unknown("model", ["new_section"])
    assert [failed.name for failed in record.report().failed] == ["model.new_section"]
