"""WHAT is run: frozen, strict models. A study that builds is a study that can be run.

Images are in [0, 1], so is every epsilon; YAML may write one as a fraction ("8/255"). All mistakes
of a study are reported at once, each with its dotted path, what was expected and what came.
"""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from harness.errors import HarnessError, did_you_mean
from harness.settings import Count, Epsilon, Epsilons, Name, Settings, distinct

_SETTINGS_LIMIT = 1_000_000  # characters of a study as JSON; the presets have about 2,000

Protocol = Literal["prediction", "label"]
Neighbours = Literal["other_class", "any_class"]
Gradients = Annotated[
    Literal["float32", "bfloat16"],
    Field(description="arithmetic of gradients; what enters a result is decided in float32 either way"),
]
PgdEngine = Annotated[
    Literal["foolbox", "early_stop"],
    Field(description="Foolbox's takes all steps; early_stop leaves an image where it is fooled"),
]
Restarts = Annotated[int, Field(ge=1, description="starts tried on an image until one fools it")]


def _not_zero(value: float) -> float:
    """A step of JSMA must change a pixel, or its loop has no end."""
    if abs(value) < 1e-3:
        raise ValueError("should differ from 0 by at least 0.001")
    return value


Theta = Annotated[float, Field(ge=-1, le=1), AfterValidator(_not_zero)]

# --- data ---------------------------------------------------------------------------------------


class DatasetSpec(Settings):
    """Which images. Subsets are stratified and drawn by the study's seed."""

    source: Literal["digits", "mnist", "fashion_mnist", "cifar10", "tinyimagenet", "parquet"]
    name: Name | None = Field(None, description="name in the tables; the source's name unless given")
    folder: str | None = Field(
        None, description="for 'parquet': folder below the data folder, or an absolute path"
    )
    title: str | None = Field(None, description="how tables call it, e.g. 'CIFAR-10 (JPEG copies)'")
    paper: Literal["mnist", "cifar10", "tinyimagenet"] | None = Field(
        None,
        description="data set of the paper whose numbers stand beside ours; by name where it is one of the paper's",
    )
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None, description="keep this many classes, drawn by seed"
    )
    train_limit: Count | None = Field(None, description="training images kept, stratified")
    test_limit: Count | None = Field(None, description="test images kept, stratified")

    @model_validator(mode="after")
    def _folder_goes_with_parquet(self) -> Self:
        if (self.source == "parquet") != (self.folder is not None):
            raise ValueError("'folder' belongs to source 'parquet', and to it alone")
        if not self.label:
            raise ValueError(f"folder '{self.folder}' names nothing: give the data set a 'name'")
        if self.label == ".." or not self.label.isprintable():
            raise ValueError(f"'{self.label}' is no name for a data set: give it one with 'name'")
        return self

    @property
    def label(self) -> str:
        """The data set's name in paths and tables."""
        return self.name or (Path(self.folder).name.lower() if self.folder else self.source)

    @property
    def paper_dataset(self) -> str | None:
        """The paper's data set to compare with, or None."""
        return self.paper or (self.source if self.source in ("mnist", "cifar10", "tinyimagenet") else None)


class NetworkSpec(Settings):
    """The classifier f1 (paper IV: VGG16)."""

    architecture: Literal["convnet", "vgg16"] = "vgg16"
    pretrained: bool = Field(False, description="start from torchvision's ImageNet weights (vgg16 only)")
    weights: str | None = Field(
        None, description="file with those weights (.safetensors, or torchvision's .pth)"
    )
    width: Count = Field(32, description="channels of convnet's first block")

    @model_validator(mode="after")
    def _pretrained_is_vgg16(self) -> Self:
        if self.pretrained and self.architecture != "vgg16":
            raise ValueError("'pretrained' needs architecture 'vgg16'")
        if self.weights and not self.pretrained:
            raise ValueError("'weights' needs 'pretrained: true'")
        return self


# --- training -----------------------------------------------------------------------------------


class TrainingSpec(Settings):
    """Settings of the one epoch loop. Adam, constant learning rate."""

    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.001
    batch_size: Count = Field(128, description="images a step over all workers together")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the products in a step; all that is kept is float32"
    )
    workers: Count = Field(1, description="DDP workers of one training; 1 needs no process group")
    threads: Count = Field(1, description="CPU cores of each of these workers")


class DefenseSpec(TrainingSpec):
    """The paper's defense (eq. 4-7): one training for every (k, n)."""

    epochs: Annotated[int, Field(ge=0)] = 10
    k: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1), AfterValidator(distinct)] = (
        1.0,
        2.0,
        2.5,
        3.0,
    )
    n: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(distinct)] = (10, 15, 20)
    redraw: bool = Field(False, description="draw the perturbations anew each epoch instead of once")


class Source(Settings):
    """One attack of the study, at one epsilon where it has several."""

    attack: str
    epsilon: Epsilon | None = None


class AdversarialTrainingSpec(TrainingSpec):
    """f1 fine-tuned on clean and adversarial images (V-D): one training for each source."""

    epochs: Annotated[int, Field(ge=0)] = 10
    sources: Annotated[tuple[Source, ...], AfterValidator(distinct)] = ()


# --- attacks ------------------------------------------------------------------------------------


class Fgsm(Settings):
    """Fast gradient sign method: Goodfellow et al. 2015. l-inf radius ``epsilon``."""

    method: Literal["fgsm"]
    epsilon: Epsilons


class DeepFool(Settings):
    """DeepFool, l2: Moosavi-Dezfooli et al. 2016, over all classes."""

    method: Literal["deepfool"]
    steps: Count = 100
    overshoot: Annotated[float, Field(ge=0, le=1)] = Field(
        1e-6, description="ART's default, the paper's; .02 survives rounding"
    )
    rule: Literal["art", "authors"] = Field(
        "art", description="overshoot at the end, or (the authors' code, Foolbox) at every step"
    )
    gradients: Gradients = "float32"


class Jsma(Settings):
    """JSMA by ART's rule: the two free pixels of largest target gradient, reusable, random target."""

    method: Literal["jsma"]
    theta: Theta = Field(0.1, description="change of a pixel a step, in [0, 1] units")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="largest share of pixels changed")


class JsmaPairs(Settings):
    """JSMA by Papernot et al. 2016, algorithm 3: the pair with the largest saliency; saturated pixels leave."""

    method: Literal["jsma_pairs"]
    theta: Theta = 1.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class CwL2(Settings):
    """Carlini & Wagner 2017, l2, with binary search over the constant, each image on its own."""

    method: Literal["cw_l2"]
    binary_search_steps: Count = 5
    steps: Count = 200
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    initial_constant: Annotated[float, Field(gt=0)] = 0.1
    confidence: Annotated[float, Field(ge=0)] = 0.0
    warm_start: bool = Field(
        False, description="a constant goes on from the last one's image: a quarter of the steps, e.g. 8 x 32"
    )
    gradients: Gradients = "float32"


class Ddn(Settings):
    """Decoupled direction and norm, l2: Rony et al. 2019. Every value of a pixel is possible, not 256 levels."""

    method: Literal["ddn"]
    steps: Count = 100
    gamma: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="the norm shrinks or grows by this share a step"
    )
    initial_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="l2 in [0, 1] units")
    gradients: Gradients = "float32"


class PgdSpec(Settings):
    """How projected gradient descent is run, whatever its step sizes."""

    epsilon: Epsilons
    steps: Count = 40
    random_start: bool = True
    restarts: Restarts = 1
    engine: PgdEngine = "foolbox"
    gradients: Gradients = "float32"

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("'restarts' without 'random_start' would all be the same")
        return self


class Pgd(PgdSpec):
    """Projected gradient descent, l-inf: Madry et al. 2018."""

    method: Literal["pgd"]
    step_divisor: Annotated[float, Field(ge=1)] = Field(
        10.0, description="step size = epsilon / step_divisor"
    )


AttackSpec = Annotated[Fgsm | DeepFool | Jsma | JsmaPairs | CwL2 | Ddn | Pgd, Field(discriminator="method")]
METHODS: dict[str, type[Settings]] = {
    get_args(model.model_fields["method"].annotation)[0]: model
    for model in (Fgsm, DeepFool, Jsma, JsmaPairs, CwL2, Ddn, Pgd)
}


class WhiteBoxSpec(PgdSpec):
    """PGD with full knowledge of the network (V-E), on f1 and on the strongest defended network."""

    step_divisors: Annotated[
        tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1), AfterValidator(distinct)
    ] = (
        4,
        5,
        6,
        7,
        8,
        9,
        10,
    )


# --- the study ----------------------------------------------------------------------------------


class ComputeSpec(Settings):
    """How the work is spread. Changes no number of a bound, an attack or an evaluation."""

    workers: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="shards at once; all of the cluster's GPUs or cores unless given; 0: in this process, without Ray",
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
    interface: str | None = Field(
        None,
        description="network interface of trainings on several machines, e.g. eth0; the one that Ray uses unless given",
    )


class Study(Settings):
    """Everything that determines a study's numbers (``compute`` only where they are made)."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    dataset: DatasetSpec
    neighbours: Neighbours = Field(
        "other_class", description="whose distance gives sigma downstream (III-A: other_class)"
    )
    network: NetworkSpec = NetworkSpec()
    base: TrainingSpec
    protocol: Protocol = Field(
        "prediction", description="attacks start from f1's prediction (the paper, ART) or from the true label"
    )
    attacks: Annotated[dict[Name, AttackSpec], Field(min_length=1)]
    batch_size: Count = Field(
        128, description="images in the network at once; blocks of them are fixed by image order"
    )
    effectiveness_k: Annotated[float, Field(gt=0)] = Field(
        2.0, description="k of the bound that scores attacks (Table III: 2)"
    )
    defense: DefenseSpec = DefenseSpec()
    adversarial_training: AdversarialTrainingSpec = AdversarialTrainingSpec()
    white_box: WhiteBoxSpec
    compute: ComputeSpec = ComputeSpec()

    @model_validator(mode="after")
    def _sources_are_attacks(self) -> Self:
        for reserved in ("none", "clean"):
            if reserved in self.attacks:
                raise ValueError(
                    f"attacks.{reserved}: an attack can't have the name by which tables call clean images"
                )
        for position, source in enumerate(self.adversarial_training.sources):
            where = f"adversarial_training.sources.{position}"
            attack = self.attacks.get(source.attack)
            if attack is None:
                raise ValueError(
                    f"{where}: unknown attack '{source.attack}'{did_you_mean(source.attack, self.attacks)}"
                )
            has = getattr(attack, "epsilon", None)
            if has is None and source.epsilon is not None:
                raise ValueError(f"{where}: '{source.attack}' has no epsilon, got {source.epsilon}")
            if has is not None and source.epsilon not in has:
                raise ValueError(
                    f"{where}: epsilon of '{source.attack}' must be one of {list(has)}, got {source.epsilon}"
                )
        return self


# --- reading ------------------------------------------------------------------------------------


def presets() -> dict[str, Path]:
    """Preset name -> its YAML file."""
    folder = Path(str(resources.files("harness"))) / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name_or_path: str, overrides: tuple[str, ...] = ()) -> Study:
    """The study of a preset's name or a YAML file, with ``a.b=value`` overrides applied in order.

    Raises HarnessError that lists every mistake: unknown keys with a suggestion, wrong values with
    what was expected and what came.
    """
    known = presets()
    path = known.get(name_or_path, Path(name_or_path))
    try:
        found = path.is_file()
    except OSError:  # a name too long for a path
        found = False
    if not found:
        raise HarnessError(
            f"no study '{name_or_path}': neither a preset nor a YAML file{did_you_mean(name_or_path, known)}"
        )
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror}") from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # PyYAML lets the ValueErrors of odd numbers and dates through
        raise HarnessError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(data, dict):
        raise HarnessError(f"{path}: expected a mapping of settings, got {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    return build(data)


def build(data: dict[str, Any]) -> Study:
    """A study from plain data; an attack without ``method`` is the method that its key names.

    Raises HarnessError with all mistakes.
    """
    attacks = data.get("attacks")
    if isinstance(attacks, dict):
        filled = {
            key: {"method": key, **(value or {})} if isinstance(value, dict | None) else value
            for key, value in attacks.items()
        }
        data = {**data, "attacks": filled}
    try:
        # Strict in JSON's sense: lists are tuples there, but "3" is no number and 1 no boolean.
        return Study.model_validate_json(_as_json(data))
    except ValidationError as error:
        raise HarnessError(_explain(error)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise HarnessError(f"a study is made of plain values: {error}") from error


def _as_json(data: dict[str, Any]) -> str:
    """Plain data as JSON, not too much of it: a few lines of YAML whose aliases name one another can stand for gigabytes."""
    parts, length = [], 0
    for part in json.JSONEncoder().iterencode(data):
        parts.append(part)
        length += len(part)
        if length > _SETTINGS_LIMIT:
            raise ValueError(f"expected at most {_SETTINGS_LIMIT:,} characters of settings")
    return "".join(parts)


def _override(data: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=value`` in place; the value is read as YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise HarnessError(f"--set expects a.b=value, got '{override}'")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise HarnessError(f"--set {path}: '{text}' is not a YAML value: {error}") from error
    here: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise HarnessError(f"--set {path}: '{key}' must be a position from 0 to {len(here) - 1}")
            key = int(key)  # type: ignore[assignment]
        elif not isinstance(here, dict):
            raise HarnessError(
                f"--set {path}: '{'.'.join(keys[:depth])}' is a value, not a group of settings"
            )
        if last:
            here[key] = value
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
            here = here[key]


def _explain(error: ValidationError) -> str:
    """All mistakes, a line each: dotted path, what was expected, what came."""
    lines = []
    places = [item["loc"] for item in error.errors()]
    for item in error.errors():
        where = item["loc"]
        if item["type"] == "too_short" and any(
            place[: len(where)] == where and len(place) > len(where) for place in places
        ):
            continue  # the list is short only of the entries that are reported themselves
        # Below an attack pydantic adds the method that it was read as.
        path = ".".join(
            str(part) for depth, part in enumerate(where) if not (where[0] == "attacks" and depth == 2)
        )
        if item["type"] == "extra_forbidden":
            line = (
                f"{path}: unknown setting{did_you_mean(str(item['loc'][-1]), _known_keys(item['loc'][:-1]))}"
            )
        elif item["type"] == "union_tag_invalid":
            came = str(item["ctx"]["tag"])
            line = f"{path}: unknown attack method '{came}'{did_you_mean(came, METHODS)}"
        elif item["type"] == "literal_error":
            came, known = str(item["input"]), re.findall("'([^']+)'", item["ctx"]["expected"])
            line = f"{path}: '{came}' is not possible{did_you_mean(came, known)}"
        elif item["type"] == "missing":
            line = f"{path}: required, but not given"
        else:
            text = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
            line = f"{path}: {text}" if path else text
            if item["type"] != "value_error":
                line += f", got {json.dumps(item['input'])}"
        lines.append(line)
    head = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    shown = lines[:20] + ([f"... and {len(lines) - 20} more"] if len(lines) > 20 else [])
    return f"the study has {head}:\n" + "\n".join(f"  {line}" for line in shown)


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    """The settings that the model at a path of the study knows."""
    model: type[BaseModel] = Study
    for part in path:
        if part in METHODS:
            model = METHODS[str(part)]
        elif part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            inner = [
                a
                for a in (annotation, *get_args(annotation))
                if isinstance(a, type) and issubclass(a, BaseModel)
            ]
            model = inner[0] if inner else model
    return list(model.model_fields)
