"""How APGD climbs: gradient ascent within a ball that finds its step size by itself, image by image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness import seeds
from harness.attacks.autoattack.radii import PNorm
from harness.attacks.ball import each, nearest, size
from harness.attacks.batch import State, compacted, input_gradient, logits, margin, may_leave

# Logits [B, classes] and the images' state -> what is maximised, [B].
Loss = Callable[[Tensor, State], Tensor]

_MOMENTUM = 0.75
_RISING = 0.75  # share of a window's steps that must raise the loss
# In l1 a run goes through larger balls first: (times the radius, share of the steps).
_SHRINKING = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
_FIRST_DENSITY = 0.2  # share of the values that a first step in l1 changes
# In l1 steps are sparser than the best image's change by this, and shrink by it, too.
_SPARSER = 1.5
_SMALLEST_STEP = 0.1  # in l1, of the largest


@dataclass(frozen=True)
class _Starts:
    """Which images of a batch begin in a ball, bool [B]; whether all of them do, and any."""

    each: Tensor
    all: bool
    any: bool


@dataclass(frozen=True)
class Search:
    """APGD: algorithm 1, every image by its own clock.

    An image leaves where it first fools the network, decided in float32, or after ``runs`` starts (for each
    of which the draws are those of its number); it is then the image of the smallest margin that was met.
    A ``run`` goes through one ball after the other (``phase``; in linf and l2 there is one), and begins each
    with step -1, which evaluates its start.
    """

    network: nn.Module
    through: nn.Module
    loss: Loss
    norm: PNorm
    steps: int
    runs: int
    seed: int
    batch_size: int

    def run(self, images: State, epsilon: float) -> Tensor:
        """Images [B, C, H, W] within epsilon of the ``clean`` ones, beside which are ``label`` and ``id``."""
        clean, label = images["clean"], images["label"]
        outputs = logits(self.network, clean, self.batch_size)
        going = torch.arange(len(label), device=label.device)
        if may_leave(self.network):
            going = going[outputs.argmax(1) == label]
        moved = clean.clone()
        if len(going):
            given = {name: value[going] for name, value in images.items()}
            step = self._step(epsilon, clean.device)
            moved[going] = compacted(self._begun(given), self.batch_size, step)
        return moved

    def _begun(self, images: State) -> State:
        clean, label = images["clean"], images["label"]
        number, count = torch.zeros_like(clean[:, 0, 0, 0]), torch.zeros_like(label)
        points = dict.fromkeys(("x", "old", "gradient", "best", "best_gradient", "kept"), clean)
        numbers = dict.fromkeys(("largest", "last", "at_check", "step_size"), number)
        clocks = {"step": count - 1, **dict.fromkeys(("phase", "run", "rises"), count)}
        marks = {"was_reduced": torch.ones_like(label, dtype=torch.bool), "margin": number + torch.inf}
        sparse = {"density": number, "changed": number} if self.norm == "l1" else {}
        return images | points | numbers | clocks | marks | sparse

    def _step(self, epsilon: float, device: torch.device) -> Callable[[State], tuple[State, Tensor]]:
        phases = _phases(self.norm, epsilon, self.steps)
        radii = torch.tensor([phase.radius for phase in phases], device=device)
        steps = torch.tensor([phase.steps for phase in phases], device=device)
        windows = _windows(self.norm, phases).to(device)
        leaves = may_leave(self.network)

        def step(state: State) -> tuple[State, Tensor]:
            phase, number = state["phase"], state["step"]
            radius, is_start, counts = radii[phase], number < 0, phase == len(phases) - 1
            window = windows[phase, number.clamp(min=0)]
            checked = ~is_start & (window > 0)
            # The host waits once for all that it has to know.
            all_start, any_starts, any_checked = torch.stack(
                [is_start.all(), is_start.any(), checked.any()]
            ).tolist()
            starts = _Starts(is_start, all_start, any_starts)
            point = self._next(state, radius, starts)
            loss, gradient, distance, fooled = self._evaluated(point, state)
            closer = counts & ((distance < state["margin"]) | (fooled & leaves))
            state["kept"] = torch.where(each(closer), point, state["kept"])
            state["margin"] = torch.where(closer, distance, state["margin"])
            state = self._advanced(state, point, loss, gradient, starts, radius)
            if any_checked:
                state = self._checked(state, checked, window, radius)
            ends = number + 1 == steps[phase]
            state["step"] = torch.where(ends, -1, number + 1)
            state["phase"] = torch.where(ends & counts, 0, phase + ends)
            state["run"] = state["run"] + (ends & counts)
            return state, (fooled & counts & leaves) | (state["run"] == self.runs)

        return step

    def _next(self, state: State, radius: Tensor, starts: _Starts) -> Tensor:
        """Where each image is looked at: lines 3 and 7 of the algorithm."""
        if starts.all:
            return self._start(state, radius)
        x, clean = state["x"], state["clean"]
        if self.norm == "l1":
            moved = nearest(clean, x + self._sparse(state) - clean, radius, "l1")
        else:
            gradient = state["gradient"]
            ascent = gradient.sign()
            if self.norm == "l2":
                ascent = gradient / each(size(gradient, "l2").clamp(min=1e-12))
            moved = nearest(clean, x + each(state["step_size"]) * ascent - clean, radius, self.norm)
            share = each(torch.where(state["step"] > 0, _MOMENTUM, 1.0))
            moved = x + share * (moved - x) + (1 - share) * (x - state["old"])
            moved = nearest(clean, moved - clean, radius, self.norm)
        if starts.any:
            moved = torch.where(each(starts.each), self._start(state, radius), moved)
        return moved

    def _start(self, state: State, radius: Tensor) -> Tensor:
        """A point drawn by (seed, image id, run) in the first ball, in a later one the best so far."""
        clean, ids, run = state["clean"], state["id"], state["run"]
        if self.norm == "linf":
            drawn = 2 * seeds.uniform(self.seed, ids, run, clean[0].numel()) - 1
        else:
            drawn = seeds.normal(self.seed, ids, run, clean[0].numel())
        drawn = drawn.view_as(clean)
        if self.norm != "l1":
            drawn = each(radius / size(drawn, self.norm).clamp(min=1e-12)) * drawn
        change = torch.where(each(state["phase"] > 0), state["best"] - clean, drawn)
        return nearest(clean, change, radius, self.norm)

    def _sparse(self, state: State) -> Tensor:
        """A step in l1: the largest values of the gradient change, all by the same."""
        gradient = state["gradient"].flatten(1)
        values = gradient.shape[1]
        position = ((1 - state["density"]) * values).long().clamp(0, values - 1)
        smallest = gradient.abs().sort(1).values.gather(1, position[:, None])
        ascent = torch.where(gradient.abs() >= smallest, gradient.sign(), 0.0)
        length = state["step_size"] / ascent.abs().sum(1).clamp(min=1e-10)
        return (length[:, None] * ascent).view_as(state["gradient"])

    def _evaluated(self, point: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss [B], its gradient, margin [B], and whether the image fools the network itself, bool [B]."""
        x, label = point.detach().requires_grad_(), state["label"]
        outputs = self.through(x)
        loss = self.loss(outputs, state)
        gradient = input_gradient(loss.sum(), x)
        outputs = outputs.detach()
        fooled = outputs.argmax(1) != label
        if self.through is not self.network and fooled.any():
            rows = fooled.nonzero()[:, 0]
            fooled[rows] = logits(self.network, point[rows], self.batch_size).argmax(1) != label[rows]
        return loss.detach(), gradient, margin(outputs, label), fooled

    def _advanced(
        self, state: State, point: Tensor, loss: Tensor, gradient: Tensor, starts: _Starts, radius: Tensor
    ) -> State:
        """The state at the new point, whose loss may be the best: lines 8 to 11."""
        is_start = starts.each
        improved = is_start | (loss > state["largest"])
        # The official code compares a run's first step with 0.
        before = torch.where(state["step"] > 0, state["last"], 0.0)
        state["rises"] = torch.where(is_start, 0, state["rises"] + (loss > before))
        state["old"] = torch.where(each(is_start), point, state["x"])
        state["x"], state["gradient"], state["last"] = point, gradient, loss
        state["best"] = torch.where(each(improved), point, state["best"])
        state["best_gradient"] = torch.where(each(improved), gradient, state["best_gradient"])
        state["largest"] = torch.where(improved, loss, state["largest"])
        if starts.any:
            state |= self._reset(state, is_start, radius)
        return state

    def _reset(self, state: State, is_start: Tensor, radius: Tensor) -> State:
        """What a start sets."""
        first_step = radius if self.norm == "l1" else 2 * radius
        again = {
            "at_check": torch.where(is_start, state["last"], state["at_check"]),
            "was_reduced": is_start | state["was_reduced"],
            "step_size": torch.where(is_start, first_step, state["step_size"]),
        }
        if self.norm == "l1":
            change = state["x"] - state["clean"]
            values = change[0].numel()
            changed = _changed(change)
            is_drawn = state["phase"] == 0
            density = torch.where(is_drawn, _FIRST_DENSITY, changed / values / _SPARSER)
            changed = torch.where(is_drawn, float(values), changed)
            again["density"] = torch.where(is_start, density, state["density"])
            again["changed"] = torch.where(is_start, changed, state["changed"])
        return again

    def _checked(self, state: State, checked: Tensor, window: Tensor, radius: Tensor) -> State:
        """At a checkpoint: smaller steps, from the best point, where the window brought too little."""
        if self.norm == "l1":
            restarted, state = self._checked_l1(state, checked, radius)
        else:
            # Conditions 1 and 2 of section 3.2.
            rarely = state["rises"] <= _RISING * window
            stuck = ~state["was_reduced"] & (state["at_check"] >= state["largest"])
            restarted = checked & (rarely | stuck)
            state["step_size"] = torch.where(restarted, state["step_size"] / 2, state["step_size"])
            state["was_reduced"] = torch.where(checked, restarted, state["was_reduced"])
        state["x"] = torch.where(each(restarted), state["best"], state["x"])
        state["gradient"] = torch.where(each(restarted), state["best_gradient"], state["gradient"])
        state["at_check"] = torch.where(checked, state["largest"], state["at_check"])
        state["rises"] = torch.where(checked, 0, state["rises"])
        return state

    def _checked_l1(self, state: State, checked: Tensor, radius: Tensor) -> tuple[Tensor, State]:
        """Croce and Hein 2021, section 3.2: as dense as the best change, long again once it is sparser."""
        changed = _changed(state["best"] - state["clean"])
        sparser = checked & (changed / state["changed"] < 0.95)
        smaller = (state["step_size"] / _SPARSER).clamp(min=_SMALLEST_STEP * radius)
        step_size = torch.where(sparser, radius, torch.where(checked, smaller, state["step_size"]))
        density = changed / state["best"][0].numel() / _SPARSER
        told = {
            "step_size": step_size,
            "density": torch.where(checked, density, state["density"]),
            "changed": torch.where(checked, changed, state["changed"]),
        }
        return sparser, state | told


def _changed(change: Tensor) -> Tensor:
    """How many values of each image changed, float32 [B]."""
    return change.flatten(1).count_nonzero(1).float()


@dataclass(frozen=True)
class _Phase:
    """Part of a run, in one ball."""

    radius: float
    steps: int


def _phases(norm: PNorm, epsilon: float, steps: int) -> list[_Phase]:
    """The balls of a run, that of ``epsilon`` last."""
    if norm != "l1":
        return [_Phase(epsilon, steps)]
    shares = [round(share * steps) for _, share in _SHRINKING[:-1]]
    counts = [*shares, steps - sum(shares)]
    factors = [factor for factor, _ in _SHRINKING]
    return [_Phase(factor * epsilon, count) for factor, count in zip(factors, counts, strict=True) if count]


def _windows(norm: PNorm, phases: list[_Phase]) -> Tensor:
    """[phases, steps]: at a checkpoint the steps since the one before, elsewhere 0 (section 3.2)."""
    table = torch.zeros(len(phases), max(phase.steps for phase in phases), dtype=torch.int64)
    for row, phase in zip(table, phases, strict=True):
        length, shortest, shorter = (max(int(share * phase.steps), 1) for share in (0.22, 0.06, 0.03))
        if norm == "l1":
            length, shorter = max(int(0.04 * phase.steps), 1), 0
        end = length
        while end <= phase.steps:
            row[end - 1] = length
            length = max(length - shorter, shortest) if shorter else length
            end += length
    return table
