"""Lets the reference's parser of docstrings understand ours."""

import re
from typing import Any

import griffe

_TITLE = r"^( *){}:$"


class OurDocstrings(griffe.Extension):
    """Renames sections before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """An example is a session, for which the parser has the plural alone."""
        _rename(obj, "Example", "Examples")

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """The parser sees no signature in a named tuple: its arguments are its attributes."""
        if any(str(base) == "NamedTuple" for base in cls.bases):
            _rename(cls, "Args", "Attributes")


def _rename(obj: griffe.Object, ours: str, theirs: str) -> None:
    if obj.docstring is not None:
        obj.docstring.value = re.sub(_TITLE.format(ours), rf"\1{theirs}:", obj.docstring.value, flags=re.MULTILINE)
