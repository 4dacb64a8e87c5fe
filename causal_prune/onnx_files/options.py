"""What a caller may say about ONNX files."""

from typing import Annotated, ClassVar

from pydantic import Field

from causal_prune.options import Must, OptionValues, Switch, Whole


class OnnxForm(OptionValues):
    """How the networks are written as ONNX files."""

    panel: ClassVar[str] = "Output"

    opset: Annotated[
        Whole | None,
        Must("a whole number of at least 17"),
        Field(
            ge=17,
            description="Opset of the ONNX files, 17 at least, for older runtimes; else the exporter's.",
        ),
    ] = None
    dynamic_size: Annotated[
        Switch,
        Field(description="Let the ONNX files take images of any height and width that the network takes."),
    ] = False
