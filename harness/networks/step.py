"""The steps of an epoch, one after the other; on a GPU recorded once as a CUDA graph and then replayed.

A step of the defense is some 350 kernels, which a CPU starts in 2 to 3 ms and an H100 has done in less. The
rules are those of https://docs.pytorch.org/docs/stable/notes/cuda.html, 'CUDA Graphs': batches come in one
buffer, the first steps run as they are on the stream that records, gradients are made within the graph, and
Adam keeps its state on the device (``capturable``). Dropout is as without a graph: a replay takes the
generator's seed and offset, and moves the offset as far as the kernels would have.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], None]  # of a batch int64 [B]
Replay = Callable[[], None]
Recorder = Callable[[Callable[[], None]], Replay]  # records what a function would launch, and does not do it

_WARM_UP = 3  # steps: libraries and Adam allocate in the first
_WORTHWHILE = 50  # full batches of an epoch: recording one costs some tens of milliseconds
_KNOWN = ("torch", "torchvision", "harness")  # packages whose layers draw on torch's generators alone


class Steps:
    """Runs the steps of a training.

    ``size``: images of a full batch; a smaller one, the last of an epoch, runs as it is. ``recorder`` None:
    all do.
    """

    def __init__(self, size: int, device: torch.device, recorder: Recorder | None) -> None:
        self._size, self._device, self._recorder = size, device, recorder
        self._warm = 0
        self._batch = torch.zeros(size if recorder else 0, dtype=torch.int64, device=device)
        self._stream = torch.cuda.Stream(device) if recorder and device.type == "cuda" else None

    @contextmanager
    def epoch(self, step: Step, batches: int) -> Iterator[Step]:
        """What runs ``step`` for each of so many batches.

        Recorded anew each epoch: plain numbers that ``step`` uses, as the epoch's, become part of the graph.
        """
        replay: Replay | None = None

        def run(batch: Tensor) -> None:
            nonlocal replay
            if self._recorder is None or len(batch) < self._size or batches < _WORTHWHILE:
                step(batch)
            elif self._warm < _WARM_UP:
                self._warm += 1
                step(batch)
            else:
                self._batch.copy_(batch)
                replay = replay or self._recorded(step)
                replay()

        with self._beside():
            yield run

    def _recorded(self, step: Step) -> Replay:
        """The graph of a step on ``_batch``; the step itself, with a warning why, where there can be none."""
        assert self._recorder is not None, "asked for without a recorder"
        try:
            return self._recorder(lambda: step(self._batch))
        except RuntimeError as error:  # CUDA's: nothing that was being recorded has been done
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warnings.warn(f"steps run without a CUDA graph, as recording one failed: {reason}", stacklevel=2)
            self._recorder = None
            _end_recording(self._device)
            return lambda: step(self._batch)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On a stream that can be recorded, as the default one can't: after what was, before what will be."""
        if self._stream is None:
            yield
            return
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            yield
        before.wait_stream(self._stream)


def recorder_for(network: nn.Module, device: torch.device) -> Recorder | None:
    """None where steps can't be recorded: on a CPU, and of layers that may draw where no graph sees it."""
    packages = {type(layer).__module__.split(".")[0] for layer in network.modules()}
    return cuda_graph if device.type == "cuda" and packages.issubset(_KNOWN) else None


def cuda_graph(work: Callable[[], None]) -> Replay:
    """Record ``work`` on the current stream, which is not the default one. RuntimeError where it can't be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    replay: Replay = graph.replay
    return replay


def _end_recording(device: torch.device) -> None:
    """After a failed recording the generator still believes in it: give it its state without that."""
    if device.type == "cuda":
        generator = torch.cuda.default_generators[device.index or torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
