"""What all parts of progressive.json share: a record of checked fields, and what is said where they do not fit."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tprog.errors import MOST_FINDINGS, FormatError


class Record(BaseModel):
    """Fields that are checked and cannot be assigned to; unknown ones are kept."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        strict=True,
        populate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def to_json(self) -> dict[str, Any]:
        """The fields that were given, by their names in the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def plain(value: object) -> object:
    """A value of a field as JSON has it: records become objects, tuples lists."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


_T = TypeVar("_T", bound=Record)


def validated(kind: type[_T], data: Mapping[str, Any], where: object) -> _T:
    """A record of parsed JSON.

    Raises:
        FormatError: fields are missing or malformed.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        count = len(problems)
        findings = [f"{'.'.join(map(str, each['loc']))}: {_reason(each)}" for each in problems[:MOST_FINDINGS]]
    raise FormatError(
        where,
        expected="the fields of progressive.json",
        got=f"{count} that do not fit",
        remedy="Mend these fields, or delete the file to open the directory with default metadata:",
        findings=findings,
        more=count - len(findings),
    )


def _reason(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing":
        return "missing"
    value = problem["input"]
    got = f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else f"{value!r}"
    return f"{problem['msg']}, got {got}"
