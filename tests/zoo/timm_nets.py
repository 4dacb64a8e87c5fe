"""Convolutional networks of timm, one or two of every family, in their smallest sizes."""

from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import nn

from tests.zoo.torchvision_nets import Net

NAMES = (
    "bat_resnext26ts", "botnet26t_256", "convnext_atto", "convnextv2_atto", "cs3darknet_s", "cspdarknet53",
    "cspresnet50", "darknet17", "darknetaa53", "densenet121", "dla34", "dla46_c", "dla60_res2net", "dpn48b",
    "eca_nfnet_l0", "eca_resnet33ts", "ecaresnet26t", "edgenext_xx_small", "efficientnet_b0",
    "efficientnet_lite0", "ese_vovnet19b_dw", "fastvit_t8", "fbnetc_100", "gcresnext26ts", "gernet_s",
    "ghostnet_050", "ghostnetv2_100", "halonet26t", "hardcorenas_a", "hgnet_tiny", "hrnet_w18_small",
    "inception_next_atto", "lambda_resnet26t", "lcnet_050", "legacy_seresnet18", "mixnet_s",
    "mnasnet_small", "mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobileone_s0",
    "nf_regnet_b0", "nfnet_l0", "poolformer_s12", "regnetx_002", "regnety_002", "repghostnet_050",
    "repvgg_a0", "res2net50d", "resnest14d", "resnet10t", "resnet18", "resnetv2_50", "rexnet_100",
    "seresnet33ts", "skresnet18", "spnasnet_100", "starnet_s1", "tf_efficientnet_b0", "tinynet_e",
    "vovnet39a", "wide_resnet50_2", "xception41",
)  # fmt: skip
"""Those that mix attention or lambda layers into convolutions are among them."""
PIXELS = {
    "botnet26t_256": 256,
    "halonet26t": 256,
    "fastvit_t8": 256,
    "lambda_resnet26t": 128,
    "bat_resnext26ts": 256,
}


def _make(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=False)


def _net(name: str) -> Net:
    size = PIXELS.get(name, 96)
    make: Callable[[], nn.Module] = partial(_make, name)
    example = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    return Net(name, make, example)


TIMM: tuple[Net, ...] = tuple(_net(name) for name in NAMES if timm.is_model(name))
