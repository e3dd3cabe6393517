"""What a study says of the checks of its networks."""

from typing import Annotated

from pydantic import Field

from harness.settings import Epsilon, Settings


class ChecksSpec(Settings):
    """Checks of each network's robustness, with verdicts: see docs/checks.md."""

    enabled: bool = True
    epsilon: Epsilon | None = Field(
        None,
        description="l-inf radius that they attack in; the smallest of the white box unless given, or 8/255",
    )
    images: Annotated[int, Field(ge=10)] = Field(
        400, description="test images that they take at most, evenly from all"
    )
