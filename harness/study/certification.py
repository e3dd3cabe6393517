"""The certification of a study: what it is given, and a cell for each network and seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from harness.evaluation.certified import largest_radius
from harness.results.cells import Cell
from harness.settings import Count, Mistakes, Settings, distinct
from harness.study.trainings import Ground, Network
