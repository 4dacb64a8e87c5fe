"""A pruning plan: which units stay, the cuts that follow from it, and its JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from causal_prune.errors import InputError
from causal_prune.report import Target
from causal_prune.surgery.cuts import Cuts, LayerCut, ParameterCut
from causal_prune.surgery.lineage import Stage
from causal_prune.surgery.options import Dependencies

PLAN_FORMAT = 1


@dataclass(frozen=True)
class PruningPlan:
    """Which units of every group stay, and the cuts that follow from it.

    Attributes:
        target: Requested and achieved.
        kept_units: Ascending units that stay, by group.
        cuts: What that asks of every layer.
        earlier: The cuts that had led to the network that this plan was made for, the first first.
    """

    target: Target
    kept_units: Mapping[str, tuple[int, ...]]
    cuts: Cuts
    earlier: tuple[Stage, ...] = ()

    def __str__(self) -> str:
        """Widths before and after, layer by layer, and the target."""
        lines = [
            f"{name}: {cut.filters} -> {len(cut.keep_filters)} filters"
            for name, cut in self.layers.items()
            if cut.keep_filters is not None and len(cut.keep_filters) < cut.filters
        ]
        target = (
            f"{self.target.kind}: requested {self.target.requested:.3g}, planned {self.target.achieved:.3g}"
        )
        return "\n".join([*lines, target])

    @property
    def dependencies(self) -> Dependencies:
        """Whose graph it was made with: "labels" or "torch-pruning"."""
        return "torch-pruning" if self.cuts.example is not None else "labels"

    @property
    def layers(self) -> Mapping[str, LayerCut]:
        """Cuts by layer name; layers that are not cut are absent."""
        return self.cuts.layers

    @property
    def parameters(self) -> Mapping[str, ParameterCut]:
        """Cuts of bare parameters and buffers by name."""
        return self.cuts.parameters

    def save(self, path: Path) -> None:
        """Write the plan as JSON.

        Args:
            path: The file.
        """
        values = asdict(self)
        if not self.cuts.folds:
            del values["cuts"]["folds"]  # as in files of before there were any
        if not self.cuts.roots:
            del values["cuts"]["roots"], values["cuts"]["example"]
        if not self.earlier:
            del values["earlier"]
        made_with = {} if self.dependencies == "labels" else {"dependencies": self.dependencies}
        path.write_text(json.dumps({"format": PLAN_FORMAT, **made_with, **values}) + "\n")

    @classmethod
    def load(cls, path: Path) -> "PruningPlan":
        """Read a plan that `save` wrote.

        Args:
            path: The file.

        Returns:
            The plan.

        Raises:
            InputError: If the file is missing, damaged or of another format.
        """
        try:
            text = path.read_text(encoding="utf-8")
            found = json.loads(text)["format"]
            if found != PLAN_FORMAT:
                raise InputError(f"{path}: plan format {found} is not {PLAN_FORMAT}")
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"{path}: not a pruning plan ({place}: {first['msg']})") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a pruning plan ({type(error).__name__}: {error})") from error
