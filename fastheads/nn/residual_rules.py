"""The classes of residual blocks of torchvision and timm: which layers are branch and shortcut.

Classes are known by name, so that neither library is imported.
"""

from __future__ import annotations

from typing import NamedTuple


class Parts(NamedTuple):
    """Names of the layers in a class of residual blocks, as its ``forward`` reads them."""

    body: str  # of the branch, in the order of their calls
    act: str = ""  # behind the sum
    shortcut: str = ""  # None if it is the identity
    when: str = ""  # whether there is a sum at all
    first: str = ""  # of the body, if the shortcut begins behind it too where it is a projection


_BOTTLENECK = "conv1 bn1 relu conv2 bn2 relu conv3 bn3"
BLOCKS = {
    "torchvision.models.resnet.BasicBlock": Parts("conv1 bn1 relu conv2 bn2", "relu", "downsample"),
    "torchvision.models.resnet.Bottleneck": Parts(_BOTTLENECK, "relu", "downsample"),
    "torchvision.models.regnet.ResBottleneckBlock": Parts("f", "activation", "proj"),
    "torchvision.models.mobilenetv2.InvertedResidual": Parts("conv", when="use_res_connect"),
    "torchvision.models.mobilenetv3.InvertedResidual": Parts("block", when="use_res_connect"),
    "torchvision.models.efficientnet.MBConv": Parts(
        "block stochastic_depth", when="use_res_connect"
    ),
    "torchvision.models.efficientnet.FusedMBConv": Parts(
        "block stochastic_depth", when="use_res_connect"
    ),
    "timm.models.resnet.BasicBlock": Parts(
        "conv1 bn1 drop_block act1 aa conv2 bn2 se drop_path", "act2", "downsample"
    ),
    "timm.models.resnet.Bottleneck": Parts(
        "conv1 bn1 act1 conv2 bn2 drop_block act2 aa conv3 bn3 se drop_path", "act3", "downsample"
    ),
    "timm.models.sknet.SelectiveKernelBasic": Parts(
        "conv1 conv2 se drop_path", "act", "downsample"
    ),
    "timm.models.sknet.SelectiveKernelBottleneck": Parts(
        "conv1 conv2 conv3 se drop_path", "act", "downsample"
    ),
    "timm.models.senet.Bottleneck": Parts(f"{_BOTTLENECK} se_module", "relu", "downsample"),
    "timm.models.senet.SEResNetBlock": Parts(
        "conv1 bn1 relu conv2 bn2 relu se_module", "relu", "downsample"
    ),
    "timm.models.regnet.Bottleneck": Parts(
        "conv1 conv2 se conv3 drop_path", "act3", "downsample", when="downsample"
    ),
    "timm.models.resnetv2.Bottleneck": Parts(
        "conv1 norm1 conv2 norm2 conv3 norm3 drop_path", "act3", "downsample"
    ),
    "timm.models.resnetv2.PreActBasic": Parts(
        "norm1 conv1 norm2 conv2 drop_path", "", "downsample", first="norm1"
    ),
    "timm.models.resnetv2.PreActBottleneck": Parts(
        "norm1 conv1 norm2 conv2 norm3 conv3 drop_path", "", "downsample", first="norm1"
    ),
    "timm.models._efficientnet_blocks.InvertedResidual": Parts(
        "conv_s2d bn_s2d conv_pw bn1 conv_dw bn2 aa se conv_pwl bn3 drop_path", when="has_skip"
    ),
    "timm.models._efficientnet_blocks.DepthwiseSeparableConv": Parts(
        "conv_s2d bn_s2d conv_dw bn1 aa se conv_pw bn2 drop_path", when="has_skip"
    ),
    "timm.models._efficientnet_blocks.EdgeResidual": Parts(
        "conv_exp bn1 aa se conv_pwl bn2 drop_path", when="has_skip"
    ),
}
# Networks whose forward runs their children in the order in which they are registered.
CHAINS = (
    "fastheads.models.resnet.ResNet",
    "fastheads.models.staged.Staged",
    "torchvision.models.resnet.ResNet",
    "timm.models.resnet.ResNet",
    "torch.nn.modules.container.Sequential",
)
