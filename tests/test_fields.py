"""Dataclasses from JSON: what fits comes back, what does not is told by its place."""

import json
import pickle
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.fields import checked, from_json, to_json


@dataclass(frozen=True)
class Inner:
    share: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["one", "two"]
    inner: Inner
    many: dict[str, Inner] = field(default_factory=dict)
    maybe: float | None = None
    sure: bool = True


WHOLE: dict[str, Any] = {
    "count": 3,
    "kind": "two",
    "inner": {"share": 0.5, "names": ["a"]},
    "many": {"x": {"share": 1}},
    "maybe": None,
}


inner = st.builds(
    Inner, st.floats(allow_nan=False, allow_infinity=False), st.lists(st.text()).map(tuple)
)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Outer,
        st.integers(-(2**63) + 1, 2**63 - 1),
        st.sampled_from(["one", "two"]),
        inner,
        st.dictionaries(st.text(), inner, max_size=3),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
    )
)
def test_every_dataclass_survives_json(made: Outer) -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(made))), "file") == made


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"count": 3.0}, "count: expected a valid integer, got 3.0"),
        ({"count": True}, "count: expected a valid integer, got True"),
        ({"kind": "three"}, "kind: unknown choice 'three'. Known: one, two"),
        ({"inner": []}, "inner: expected an object"),
        ({"inner": {}}, "inner.share: Field required"),
        ({"inner": {"share": float("nan")}}, "inner.share: expected a finite number, got nan"),
        ({"inner": {"share": 10**400}}, "inner.share: expected a (finite|valid) number"),
        ({"inner": {"share": 1, "names": ["a", 1]}}, "inner.names: expected a valid string, got 1"),
        ({"inner": {"share": 1, "names": ["\ud800"]}}, "content: Invalid JSON"),
        ({"inner": {"share": 1, "more": 0}}, "inner.more: Unexpected"),
        ({"many": {"x": {"share": "1"}}}, "many.x.share: expected a valid number, got '1'"),
        ({"sure": 1}, "sure: expected a valid boolean, got 1"),
        ({"other": 1}, "other: Unexpected"),
        ({"kind": "x" * 10_000}, "kind: "),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], expected: str) -> None:
    told = f"^file.json is damaged, or .* divtrain: {expected}"
    with pytest.raises(DamagedFileError, match=told) as caught:
        from_json(Outer, WHOLE | change, "file.json")
    assert len(str(caught.value)) < 300


@checked
class Low:
    """A part."""

    size: Annotated[int, Field(ge=1)] = 1


@checked
class High:
    """The whole."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    low: Low = field(default_factory=Low)
    kind: Literal["plain", "fancy"] = "plain"


def test_a_checked_dataclass_tells_every_mistake_whenever_it_is_built() -> None:
    with pytest.raises(DivtrainError) as caught:
        High(share=1.5, low={"size": 0}, kind="fance")  # type: ignore
    assert str(caught.value).split("\n") == [
        "`share`: expected less than or equal to 1, got 1.5",
        "`low.size`: expected greater than or equal to 1, got 0",
        "`kind`: unknown choice 'fance': did you mean 'fancy'? Known: plain, fancy.",
    ]
    with pytest.raises(DivtrainError, match="`share`: expected a finite number"):
        replace(High(), share=float("nan"))
    with pytest.raises(DamagedFileError, match="low.size: expected greater"):
        from_json(High, {"low": {"size": 0}}, "file.json")


def test_a_checked_dataclass_is_a_frozen_dataclass_like_any_other() -> None:
    made = High(0.25, Low(3))
    assert [each.name for each in fields(made)] == ["share", "low", "kind"]
    assert len({made, High(0.25, Low(3)), pickle.loads(pickle.dumps(made))}) == 1
    assert from_json(High, to_json(made), "file.json") == made
    with pytest.raises(AttributeError):
        made.share = 1.0  # type: ignore
