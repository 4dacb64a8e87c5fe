"""Forward passes that stop at every layer, so that many of them can go on side by side."""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from causal_prune.compensation.output_paths import ADDITIONS, OutputPaths
from causal_prune.network.ambient_modes import lifting_here
from causal_prune.network.hooks import Further, calls_seen
from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.running import Inputs, call

NOTHING = Further()


@dataclass(frozen=True)
class LayerStop:
    """A convolution or linear layer has run.

    Attributes:
        layer: Its name.
        source: Its input.
        out: Its output; the reply takes its place.
        further: What else it was given.
    """

    layer: str
    source: Tensor
    out: Tensor
    further: Further = NOTHING


@dataclass(frozen=True)
class SumStop:
    """The output of a layer is about to be added to another tensor; the reply is the sum.

    Attributes:
        layer: Name of the layer.
        source: What the layer read.
        unspoilt: Whether `source` still holds what the layer read.
        summands: The two tensors; the second is multiplied by `factor`.
        factor: Of the second summand.
        branch: Which of them comes from the layer.
        in_place: Whether the sum is written into the first.
        further: What else the layer was given.
    """

    layer: str
    source: Tensor
    unspoilt: bool
    summands: tuple[Tensor, Tensor]
    factor: float
    branch: int
    in_place: bool
    further: Further = NOTHING


Stop = LayerStop | SumStop


@dataclass(frozen=True)
class _Branch:
    layer: str
    source: Tensor
    version: int
    tensor: Tensor
    further: Further = NOTHING


class _Closed(BaseException):
    """Ends a forward pass that nobody waits for."""


_HERE = threading.local()


class Stream:
    """One forward pass, in a thread of its own that runs only while `advance` waits for it.

    A thread keeps what torch and Python keep per thread (modes, contexts) apart from that of other passes, whatever
    the network's code does between two layers.

    Args:
        model: A network inside `stopping`.
        inputs: One batch.
        paths: Where sums are.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, paths: OutputPaths) -> None:
        self.stop: Stop | None = None
        self.paths = paths
        self.branches: dict[int, _Branch] = {}
        self._model, self._inputs = model, inputs
        self._error: BaseException | None = None
        self._reply: Any = None
        self.further = NOTHING
        self._closing = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._run), daemon=True)
        self._thread.start()

    @property
    def place(self) -> tuple[str, str]:
        """What kind of stop it stands at, and the layer's name; two empty texts at the end."""
        if self.stop is None:
            return "", ""
        return ("layer" if isinstance(self.stop, LayerStop) else "sum"), self.stop.layer

    def advance(self, reply: Any = None) -> None:
        """Run on to the next stop; `stop` is None at the end.

        Args:
            reply: The tensor that takes the place of what was computed at the current stop.

        Raises:
            BaseException: What the network raised.
        """
        self.stop, self._reply = None, reply
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the pass where it stands."""
        self._closing = True
        self._go.release()
        self._thread.join()
        self.branches.clear()

    def wait(self, stop: Stop) -> Any:
        """Called by the pass itself: stand still until the next `advance`.

        Args:
            stop: Where it stands.

        Returns:
            The reply.
        """
        self.stop = stop
        self._back.release()
        self._go.acquire()
        if self._closing:
            raise _Closed
        reply, self._reply = self._reply, None
        return reply

    def _run(self) -> None:
        self._go.acquire()
        _HERE.stream = self
        try:
            if not self._closing:
                with lifting_here(), torch.no_grad(), _AtSums(self):
                    call(self._model, self._inputs)
        except _Closed:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again where `advance` was called
            self._error = error
        self._inputs = ()
        self.branches.clear()
        self._back.release()


@dataclass
class Pair:
    """The passes of the dense and of the cut network over the same images.

    Attributes:
        dense: Of the dense network.
        pruned: Of the cut network.
        held_out: Whether the images judge the fits instead of making them.
        index: Position among the pairs.
    """

    dense: Stream
    pruned: Stream
    held_out: bool
    index: int

    def advance(self, dense: Tensor | None, pruned: Tensor | None) -> None:
        """Let both run on.

        Args:
            dense: Reply to the dense network's pass.
            pruned: Reply to the cut network's pass.
        """
        self.dense.advance(dense)
        self.pruned.advance(pruned)


class _AtSums(TorchDispatchMode):
    """Stops a pass where the output of one of its layers is added to something."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stream = stream

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in ADDITIONS:
            for position, summand in enumerate(args[:2]):
                branch = self.stream.branches.pop(id(summand), None)
                if branch is not None:
                    return self._meet(func, args, kwargs or {}, position, branch)
        return func(*args, **(kwargs or {}))

    def _meet(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], position: int, branch: _Branch
    ) -> Any:
        return self.stream.wait(
            SumStop(
                branch.layer,
                branch.source,
                branch.source._version == branch.version,
                (args[0], args[1]),
                float(kwargs.get("alpha", 1)),
                position,
                func is ADDITIONS[1],
                branch.further,
            )
        )


@contextmanager
def stopping(model: nn.Module, paths: OutputPaths) -> Iterator[None]:
    """Let every `Stream` of a network stop behind each convolution and linear layer, and at sums.

    Args:
        model: The network; its hooks are taken off at the end.
        paths: Where sums are.

    Yields:
        Nothing.
    """
    norms = {norm: layer for layer, norm in paths.norms.items() if layer in paths.sums}

    def behind_layer(name: str, _: nn.Module, source: Tensor, out: Tensor) -> Tensor:
        stream: Stream = _HERE.stream
        version, further = source._version, stream.further
        reply: Tensor = stream.wait(LayerStop(name, source, out, further))
        if name in paths.sums:
            stream.branches[id(reply)] = _Branch(name, source, version, reply, further)
        return reply

    def note(_: str, further: Further) -> None:
        _HERE.stream.further = further

    def behind_norm(name: str, _: nn.Module, source: Tensor, out: Tensor) -> None:
        branches = _HERE.stream.branches
        branch = branches.pop(id(source), None)
        if branch is not None and branch.layer == norms[name]:
            branches[id(out)] = replace(branch, tensor=out)

    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, MIXING)}
    behind = {name: module for name, module in modules.items() if name in norms}
    with (
        calls_seen(layers, behind_layer, first=True, further=note),
        calls_seen(behind, behind_norm, first=True),
    ):
        yield
