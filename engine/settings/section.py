"""The base of all sections of the settings, and the types that many of them use."""

from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict

PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]


class Section(BaseModel):
    """One table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
