"""How a study's work is spread over processes and machines."""

from typing import Annotated

from pydantic import Field

from harness.settings import Count, Settings


class ComputeSpec(Settings):
    """How the work is spread. Changes no number of a bound, an attack or an evaluation."""

    workers: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="shards at once; all of the cluster's GPUs or cores unless given; "
        "0: in this process, without Ray",
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        2, description="times a crashed worker or training is started again"
    )
    nodes: Count | None = Field(
        None, description="machines that the Ray cluster must have before work starts"
    )
    wait_s: Annotated[float, Field(ge=0)] = Field(
        600.0, description="seconds to wait for those, or for cores for the workers"
    )
    block_limit_s: Annotated[float, Field(gt=0)] = Field(
        600.0, description="seconds after which an attack from outside is stopped at a block of images"
    )
    interface: str | None = Field(
        None,
        description="network interface of trainings on several machines, e.g. eth0; "
        "the one that Ray uses unless given",
    )
    cuda_graphs: bool = Field(
        False, description="on a GPU, record a training's step once an epoch and replay it (one worker)"
    )
    checkpoint_s: Annotated[float, Field(ge=0)] = Field(
        60.0, description="seconds of a training that a kill loses at most, beside an epoch; 0: none"
    )
