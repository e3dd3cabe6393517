"""What networks, attacks and defenses from outside have in common in a study: ``use`` and ``settings``."""

import json
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from harness.errors import HarnessError
from harness.extensions.marks import Kind
from harness.extensions.resolving import Extension, place, resolve
from harness.settings import Mistakes, Settings, validated

FOREIGN = "foreign"  # the word for all of them, which a study need not write


class Used(Settings):
    """Which function makes it and the function's settings, checked against its signature, defaults filled in.

    Holds plain values alone and finds the function where it is needed: so it can be sent to other processes,
    and read from a record.
    """

    kind: ClassVar[Kind]
    # The mark's title: elsewhere a constant of the class, here it takes an instance to tell.
    title: ClassVar[Any] = property(lambda self: self.extension().title)

    use: str = Field(description="'package.module:name', or 'package/name' for an entry point")
    settings: dict[str, Any] = Field({}, validate_default=True, description="the function's, by name")

    @field_validator("use")
    @classmethod
    def _leads_somewhere(cls, use: str) -> str:
        try:
            resolve(use, cls.kind)
        except HarnessError as error:
            raise Mistakes([("", str(error))]) from error
        return use

    @field_validator("settings")
    @classmethod
    def _fit(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """As they are recorded, all of them."""
        if "use" not in info.data:
            return settings
        extension = resolve(info.data["use"], cls.kind)
        try:
            complete = validated(extension.settings, settings).model_dump(mode="json")
            for keywords in extension.keywords(complete):
                for what in extension.mark.numbers:
                    extension.number(what, keywords)
        except HarnessError as error:
            raise Mistakes([("", str(error))]) from error
        except TypeError as error:
            raise Mistakes([("", f"should be plain values: {error}")]) from error
        return complete

    def __hash__(self) -> int:
        return hash(json.dumps(self.model_dump(mode="json")))

    @property
    def algorithm(self) -> str:
        """'package.module.name' of the function, told without importing it."""
        return ".".join(place(self.use, self.kind))

    @property
    def package(self) -> str:
        """The top-level package whose code it is."""
        return self.algorithm.partition(".")[0]

    def extension(self) -> Extension:
        """The function with all that is known of it; imports its package. HarnessError where that fails."""
        return resolve(self.use, self.kind)
