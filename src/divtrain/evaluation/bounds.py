"""Bounds on what an evaluation's numbers can be: whoever builds one, or reads one, checks them."""

from typing import Annotated

from pydantic import ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A share of some images."""
Count = Annotated[int, Field(ge=0)]
"""A number of images."""
Several = Annotated[int, Field(ge=1)]
"""A number of which there is at least one."""
Spent = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A number of passes, mean per image."""

CHECKED = ConfigDict(extra="forbid")
"""For dataclasses: an unknown field is refused."""
