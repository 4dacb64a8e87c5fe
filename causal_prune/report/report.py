"""The data of a report: `report.json` as typed, frozen values; the only source of what is rendered."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from causal_prune.errors import InputError
from causal_prune.report.harm import Harm
from causal_prune.report.ladder import Ladder
from causal_prune.report.map_drift import MapDrift
from causal_prune.report.size_search import SizeSearch
from causal_prune.report.strict import Count, Positive, Share, Strict
from causal_prune.report.target import Target
from causal_prune.report.yardstick import ACCURACY, Yardstick

SCHEMA_VERSION = 1
ROUNDING = 1e-12  # differences of accuracies below this are rounding, not measurements

FIRST_NAMES = {
    "quality": "accuracy",
    "quality_after_cut": "accuracy_after_cut",
    "quality_after_batchnorm": "accuracy_after_batchnorm",
    "quality_after_compensation": "accuracy_after_compensation",
    "merits": "hits",
    "paired_p": "mcnemar_p",
}
"""Keys of a file in which quality is a share of right images: others rely on them."""
Model = TypeVar("Model", bound=BaseModel)


class Split(Strict):
    """Number of images per split."""

    train: Count
    validation: Count
    calibration: Count
    test: Count


class ParitySummary(Strict):
    """Largest difference between the outputs of the ONNX file and of the network it came from."""

    max_abs: Annotated[float, Field(ge=0)]
    tolerance: Positive
    passed: bool


class LatencySummary(Strict):
    """Latency of one ONNX file in milliseconds per batch; `iqr` is the width of the interquartile range."""

    median: Positive
    p90: Positive
    p99: Positive
    iqr: Annotated[float, Field(ge=0)]
    threads: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]


class Arm(Strict):
    """One network of the comparison, measured on the test split. What was not measured is None.

    `merits` holds what every image counts, packed: truth values (`hits_to_text`) or numbers (`numbers_to_text`).
    `change_ci95` is the 95 % interval of quality less that of the dense network, on the same images; None of the dense
    one, and in reports of earlier versions.
    """

    name: str
    importance: str | None
    seed: int | None
    quality_after_cut: float | None
    quality_after_batchnorm: float | None = None
    quality_after_compensation: float | None
    quality: float
    correct: Count | None
    total: Annotated[int, Field(ge=1)]
    ci95: tuple[float, float]
    macs: Count
    params: Count
    onnx_bytes: Count | None
    latency_ms: LatencySummary | None
    speedup: Positive | None
    predictions_sha256: str | None
    merits: str | None
    paired_p: Share | None
    change_ci95: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.correct is not None:
            self._counts(self.correct)
        low, high = self.ci95
        if not low - ROUNDING <= self.quality <= high + ROUNDING:
            name = "quality" if self.correct is None else "accuracy"
            raise ValueError(f"ci95 [{low}, {high}] does not hold the {name} {self.quality}")
        return self

    def _counts(self, correct: int) -> None:
        if correct > self.total:
            raise ValueError(f"correct {correct} exceeds total {self.total}")
        if abs(self.quality - correct / self.total) > 1e-9:
            raise ValueError(f"accuracy {self.quality} is not correct / total = {correct}/{self.total}")
        if self.merits is not None and _count_hits(self.merits, self.total) != correct:
            raise ValueError(f"hits do not count {correct} correct images")

    @property
    def accuracy(self) -> float:
        """The quality of a classifier.

        Raises:
            AttributeError: If quality is no share of right images.
        """
        if self.correct is None:
            raise AttributeError("the quality of this arm is no accuracy: read `quality`")
        return self.quality


class Comparison(Strict):
    """Causal against the random arms: mean difference of quality (causal - random).

    `ci95` is its interval over what `ci95_over` says; None of one seed. Reports of earlier versions do not say: theirs
    was over the seeds alone, which knows nothing of the images and gives no verdict.
    """

    arm: str
    versus: str
    mean_difference: float
    ci95: tuple[float, float] | None
    paired_p: Share | None
    wins_of: tuple[Count, Count]
    ci95_over: Literal["images and seeds", "seeds"] = "seeds"


class LayerWidths(Strict):
    """Width of one convolution before and after, and why it was not cut where it was frozen.

    `shrinkage` is the share (0..1) that was taken off the covariances between the channels that it reads, for what few
    images leave open; None where they were not needed, and in reports of earlier versions.
    """

    name: str
    filters_before: Annotated[int, Field(ge=1)]
    filters_after: Count
    frozen: str | None
    shrinkage: Annotated[float, Field(ge=0, le=1)] | None = None


class AgreementSummary(Strict):
    """Spearman rank correlation of the importances with ablation, per group (-1..1; None: undefined).

    `units` of the network were ablated on `images` validation images; `stability` is the median correlation between
    the importances from two halves of the calibration images, `reliability` that between ablations on two halves of the
    validation images. Reports of earlier versions lack these four.
    """

    method: str
    versus: str
    spearman_by_group: dict[str, float | None]
    median: float | None
    images: Count | None = None
    units: Count | None = None
    stability: float | None = None
    reliability: float | None = None


class Curve(Strict):
    """Quality against the share of units removed: one causal value and one random value per seed."""

    shares: tuple[Share, ...]
    causal: tuple[float, ...]
    random: tuple[tuple[float, ...], ...]
    split: str
    note: str

    @model_validator(mode="after")
    def _one_entry_per_share(self) -> Self:
        if not len(self.shares) == len(self.causal) == len(self.random):
            raise ValueError("shares, causal and random differ in length")
        if len({len(seeds) for seeds in self.random}) > 1:
            raise ValueError("random has a different number of seeds at different shares")
        return self


class Picture(Strict):
    """A picture in the bundle that cannot be drawn from numbers: `figures/<name>.png`."""

    name: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    title: str
    caption: str


class Report(Strict):
    """Everything that a bundle states. Accuracies are shares 0..1, latencies ms, sizes bytes.

    The arm `causal` is the network that the bundle ships; with mode "zero" an arm `causal-removed` may hold
    the same units physically removed. What `quality` means is told by the yardstick; where that counts images that are
    right, a file has the names that were there first: `accuracy`, `hits`, `mcnemar_p` (see `FIRST_NAMES`). `options`
    are those in force, by key of a configuration; `class_names` stand in the order of the labels. `harm` is told of
    classifiers, `drifts` if they were asked for, `pictures` are files of the bundle; `search` is what was tried for
    `max_drop`. Reports of earlier versions lack these six.
    classifiers, `drifts` if they were asked for, `pictures` are files of the bundle; there is no `ladder` where silent
    filters went. Reports of earlier versions lack these six.
    """

    schema_version: Literal[1]
    command: str
    seed: int
    created: str
    title: str
    mode: Literal["remove", "zero"]
    importance: str
    parents: str
    compensation: str
    epochs: Count
    target: Target
    split: Split
    data: str
    classes: Count
    yardstick: Yardstick = ACCURACY
    parity: ParitySummary | None
    dense: Arm
    arms: tuple[Arm, ...]
    comparison: Comparison | None
    layers: tuple[LayerWidths, ...]
    agreement: AgreementSummary | None
    curve: Curve | None
    importances: dict[str, tuple[float, ...]]
    importance_unit: str
    notes: tuple[str, ...]
    environment: dict[str, str | int | float | bool | None]
    options: dict[str, JsonValue] = Field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    harm: Harm | None = None
    drifts: tuple[MapDrift, ...] = ()
    pictures: tuple[Picture, ...] = ()
    search: SizeSearch | None = None
    ladder: Ladder | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_by_first_names(cls, content: Any) -> Any:
        return _in_measured(content, {first: name for name, first in FIRST_NAMES.items()})

    @model_serializer(mode="wrap")
    def _with_first_names(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        return _in_measured(content, FIRST_NAMES) if self.yardstick.kind == "share" else content

    @model_validator(mode="after")
    def _has_one_causal_arm(self) -> Self:
        found = sum(arm.name == "causal" for arm in self.arms)
        if found != 1:
            raise ValueError(f"arms hold {found} arms named 'causal' instead of one")
        return self

    @property
    def causal(self) -> Arm:
        """The arm that the bundle ships."""
        return next(arm for arm in self.arms if arm.name == "causal")

    @property
    def random(self) -> tuple[Arm, ...]:
        """The random arms, one per seed, in the order of the report; may be empty."""
        return tuple(arm for arm in self.arms if arm.name == "random")

    @property
    def removed(self) -> Arm | None:
        """With mode "zero": the causal arm's units physically removed, if that was measured."""
        return next((arm for arm in self.arms if arm.name == "causal-removed"), None)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a `report.json`.

        Args:
            path: The file.

        Returns:
            The report.

        Raises:
            InputError: Where the file cannot be read, is of another version, or does not fit the schema.
        """
        return checked(cls, read_json(path), path)

    def __str__(self) -> str:
        """The table of the arms and the sentences that go with it, as the terminal shows them."""
        from causal_prune.report.notebook import as_text  # it reads reports

        return as_text(self)

    def _repr_html_(self) -> str:
        """The same with the ladder, as a notebook shows it."""
        from causal_prune.report.notebook import as_html  # it reads reports

        return as_html(self)

    def save(self, path: Path) -> None:
        """Write the report as indented JSON; the same report always gives the same bytes.

        Args:
            path: The file to write.
        """
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _in_measured(content: Any, names: Mapping[str, str]) -> Any:
    """The content of a report with keys of its arms and its comparison renamed."""
    if not isinstance(content, dict):
        return content
    arms = content.get("arms")
    renamed_arms = [renamed(arm, names) for arm in arms] if isinstance(arms, list | tuple) else arms
    parts = {key: renamed(content[key], names) for key in ("dense", "comparison") if key in content}
    return {**content, **parts, **({"arms": renamed_arms} if "arms" in content else {})}


def renamed(content: Any, names: Mapping[str, str]) -> Any:
    """An object of a file with keys renamed.

    Args:
        content: The object; anything else is returned as it is.
        names: New keys by old ones.

    Returns:
        The object, with its keys in their order.
    """
    if not isinstance(content, dict):
        return content
    return {names.get(key, key): value for key, value in content.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of this project and check its schema version.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        InputError: Where the file cannot be read, is not JSON, or is of another schema version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name an existing JSON file") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); make the bundle again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION or not isinstance(content, dict):
        raise InputError(
            f"{path}: schema_version is {version!r}, this version of causal-prune reads "
            f"{SCHEMA_VERSION}; make the bundle again or use the version that wrote it"
        )
    return content


def checked(kind: type[Model], content: dict[str, Any], path: Path) -> Model:
    """Fit a JSON object to its model.

    Args:
        kind: The pydantic model.
        content: The object.
        path: Where it was read, for the message.

    Returns:
        The validated value.

    Raises:
        InputError: Where the object does not fit; names the first place.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        yardstick = content.get("yardstick")
        counts = not isinstance(yardstick, dict) or yardstick.get("kind") == "share"
        names = FIRST_NAMES if counts else {}
        place = ".".join(names.get(str(part), str(part)) for part in first["loc"]) or "the whole"
        raise InputError(f"{path}: {place}: {first['msg']}; make the bundle again") from error


def hits_to_text(hits: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Pack the correctness of each image into text.

    Args:
        hits: One truth value per image, in the order of the test split.

    Returns:
        Base64 of the packed bits, first image in the highest bit of the first byte.

    Example:
        >>> hits_to_text([True, False, True])
        'oA=='
    """
    return base64.b64encode(np.packbits(np.asarray(hits, dtype=bool)).tobytes()).decode("ascii")


def text_to_hits(text: str, total: int) -> NDArray[np.bool_]:
    """Unpack what `hits_to_text` packed.

    Args:
        text: Base64 of the packed bits.
        total: Number of images, 1 or more.

    Returns:
        One truth value per image, shape (total,).

    Raises:
        InputError: Where `text` is not base64 or does not hold exactly `total` images.

    Example:
        >>> text_to_hits("oA==", 3).tolist()
        [True, False, True]
    """
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise InputError(f"hits: not base64 ({error}); use what hits_to_text returned") from error
    if len(packed) != -(-total // 8):
        raise InputError(f"hits: {len(packed)} bytes do not fit {total} images; pass their own total")
    return np.unpackbits(packed, count=total).astype(np.bool_)


def numbers_to_text(numbers: NDArray[np.float64]) -> str:
    """Pack a number of each image into text.

    Args:
        numbers: One per image, in the order of the test split.

    Returns:
        Base64 of little-endian 32-bit floats.

    Example:
        >>> numbers_to_text(np.array([1.0, 2.5]))
        'AACAPwAAIEA='
    """
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode("ascii")


def _count_hits(text: str, total: int) -> int:
    # pydantic collects ValueErrors only, and adds the place in the file to them
    try:
        return int(text_to_hits(text, total).sum())
    except InputError as error:
        raise ValueError(str(error)) from error
