"""What a caller may say about the network and its images."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from causal_prune.options import Deviations, Flag, Must, Natural, Numbers, OptionValues, Pairs, Shape, Text


class Source(OptionValues):
    """Where the network and its images come from."""

    panel: ClassVar[str] = "What"

    from_bundle: Annotated[
        Path | None,
        Must("the path of a bundle"),
        Flag("from"),
        Field(description="Go on from a bundle: its network, pruned further, on its data."),
    ] = None
    model: Annotated[
        Text | None,
        Must("the name of a model, such as torchvision:resnet18"),
        Flag(default="a small residual CNN, trained on the spot"),
        Field(description="torchvision:NAME, timm:NAME, path/file.py:factory or package.module:factory."),
    ] = None
    model_arg: Annotated[
        Pairs,
        Must("of the form k=v, such as num_classes=10"),
        Flag(repeated=True),
        Field(
            description="Argument of the factory, as k=v; v is JSON or a text; may be repeated.",
            default_factory=dict,
        ),
    ]
    weights: Annotated[
        Path | None,
        Must("the path of a file"),
        Field(
            description=".safetensors, or a checkpoint that loads with weights_only=True; wrappers come off."
        ),
    ] = None
    data: Annotated[
        Text,
        Must("the name of data, such as imagefolder:DIR"),
        Field(
            description="digits, noisy-digits, imagefolder:DIR, npz:FILE, torchvision:NAME:ROOT or "
            "path/file.py:factory."
        ),
    ] = "digits"
    mean: Annotated[
        Numbers | None,
        Must("one number per channel, such as 0.485,0.456,0.406"),
        Field(description="Subtracted from images in [0, 1]; one number per channel."),
    ] = None
    std: Annotated[
        Deviations | None,
        Must("one number above 0 per channel, such as 0.229,0.224,0.225"),
        Field(description="Images are divided by it; one number per channel."),
    ] = None
    input_shape: Annotated[
        Shape | None,
        Must("channels,height,width of at least 1, such as 3,224,224"),
        Field(description="channels,height,width that images are resized to."),
    ] = None
    calibration_images: Annotated[
        Natural, Field(description="Training images that statistics are estimated on.")
    ] = 2048
