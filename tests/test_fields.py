"""Dataclasses from JSON: what fits comes back, what does not is told by its place."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divtrain.errors import DamagedFileError
from divtrain.fields import from_json


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
    rows: list[int] = field(default_factory=list)
    maybe: float | None = None
    sure: bool = True


WHOLE: dict[str, Any] = {
    "count": 3,
    "kind": "two",
    "inner": {"share": 0.5, "names": ["a"]},
    "many": {"x": {"share": 1}},
    "rows": [1, 2],
    "maybe": None,
}


def test_what_fits_comes_back() -> None:
    expected = Outer(3, "two", Inner(0.5, ("a",)), {"x": Inner(1)}, [1, 2])
    assert from_json(Outer, WHOLE, "file") == expected


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
        st.lists(st.integers(0, 9)),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
    )
)
def test_every_dataclass_survives_json(made: Outer) -> None:
    assert from_json(Outer, json.loads(json.dumps(asdict(made))), "file") == made


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"count": 3.0}, "a int for count, got 3.0"),
        ({"count": True}, "a int for count, got True"),
        ({"count": 2**63}, "a int for count"),
        ({"count": None}, "a int for count, got None"),
        ({"kind": "three"}, "one of one, two for kind, got 'three'"),
        ({"kind": ["one"]}, "one of one, two for kind"),
        ({"inner": []}, "an object for inner"),
        ({"inner": {}}, "a value for inner.share"),
        ({"inner": {"share": float("nan")}}, "a float for inner.share, got nan"),
        ({"inner": {"share": float("inf")}}, "a float for inner.share, got inf"),
        ({"inner": {"share": 10**400}}, "a float for inner.share"),
        ({"inner": {"share": False}}, "a float for inner.share, got False"),
        ({"inner": {"share": 1, "names": "ab"}}, "a list for inner.names"),
        ({"inner": {"share": 1, "names": ["a", 1]}}, r"a str for inner.names\[1\], got 1"),
        ({"inner": {"share": 1, "names": ["\ud800"]}}, r"a str for inner.names\[0\]"),
        ({"many": {"x": {"share": "1"}}}, "a float for many.x.share, got '1'"),
        ({"many": []}, "an object for many"),
        ({"rows": {"0": 1}}, "a list for rows"),
        ({"maybe": "0"}, "a float for maybe, got '0'"),
        ({"sure": 1}, "a bool for sure, got 1"),
        ({"other": 1}, "no field 'other' for the whole, got 1"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(DamagedFileError, match=f"^file.json is damaged, .*expected {expected}"):
        from_json(Outer, WHOLE | change, "file.json")


def test_long_values_are_shown_in_short() -> None:
    with pytest.raises(DamagedFileError) as caught:
        from_json(Outer, "x" * 10_000, "file.json")
    assert len(str(caught.value)) < 200
