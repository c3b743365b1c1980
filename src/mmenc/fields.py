"""What every section of a recipe is built of: the strict base class and the types of single values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from mmenc.errors import nearest


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z]{3}_[A-Z][a-z]{3}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
Folder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """Base of every section: frozen, strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, Mapping):
            known = {f.alias or k for k, f in cls.model_fields.items()}
            for key in data:
                if key not in known and key not in cls.model_fields:
                    hint = nearest(str(key), known) or f"; known keys: {', '.join(sorted(known))}"
                    raise PydanticCustomError("unknown_key", "unknown key '{key}'{hint}", {"key": str(key), "hint": hint})
        return data
