"""Settings that go together: what a flag such as ``--quick`` or ``--cifar`` of a command sets."""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]

_AUGMENT_FULL: Settings = {
    "seeds": [0, 1, 2, 3, 4],
    "trunk_per_seed": True,
    "heads.classifier": "fresh",
    "heads_training.epochs": 8,
    "heads_training.lr": 0.01,
    "contrast": [8, 32, 64],
    "second_round": True,
    "fine_tune_epochs": 2,
}
# The short runs: what must be seen at least, on two cores in minutes.
_CONCENTRATE_QUICK: Settings = {
    "seeds": [0],
    "students.rows": ["generalist", "fc_fc", "fc_sc", "paced"],
    "trunk.training.epochs": 3,
    "teachers.training.epochs": 5,
    "teachers.min_steps": 150,
}
_ADAPTIVE_QUICK: Settings = {
    "seeds": [0],
    "targets": [0.4, 0.6, 0.8],
    "others": ["plain_continued"],
}
_LESION_QUICK: Settings = {
    "seeds": [0],
    "networks.rows": ["resnet", "vgg"],
    "networks.training.epochs": 5,
    "lesions.pictures": 400,
    "lesions.deleted": [1, 2, 4, 8, 12, 16, 20],
    "lesions.deletions": 2,
    "lesions.swaps": [1, 4, 12, 24],
    "lesions.reorderings": 2,
    "lesions.paths": 8,
}
_STREAM_QUICK: Settings = {
    "seeds": [0],
    "networks.rows": ["resnet", "senet", "senet_2x_r32"],
    "soft_margin": [],
    "arrivals": 3,
    "arriving": ["together"],
}
# "Scalable large scale visual recognition using multi-label image classification", 7 and 8.1.
_STREAM_DOGS: Settings = {
    "data.kind": "stanford_dogs",
    "data.size": 300,
    "training.batch_size": 100,
    "streaming.batch_size": 100,
    "data.channels": 3,
    "networks.width": 64,
    "networks.small": False,
    "augmentation.degrees": 0.0,
    "augmentation.translate": 0.0,
    "augmentation.scale": [1.0, 1.0],
    "augmentation.shear": 0.0,
    "augmentation.blur": 0.0,
    "augmentation.contrast": 0.0,
    "augmentation.noise": 0.0,
    "augmentation.normalize.mean": [0.485, 0.456, 0.406],
    "augmentation.normalize.std": [0.229, 0.224, 0.225],
}
# The recipes of "Conditional networks", sections 5.3.1 and 5.3.2. Images have the network's size
# from the start: shifts and flips are as there, crops of a larger ImageNet picture are not.
_PAPER: Settings = {
    "start": "new",
    "gates.reduction": "sum",
    "gates.weight": 1.0,
    "gates.lr_factor": 1.0,
    "others": ["preactivation", "stochastic_depth", "soft"],
    "data.kind": "folder",
    "data.channels": 3,
    "augmentation.degrees": 0.0,
    "augmentation.translate": 0.125,
    "augmentation.scale": [1.0, 1.0],
    "augmentation.shear": 0.0,
    "augmentation.blur": 0.0,
    "augmentation.contrast": 0.0,
    "augmentation.noise": 0.0,
    "augmentation.flip": 0.5,
    "training.batch_size": 256,
    "training.lr": 0.1,
    "training.optimizer": "sgd",
    "training.momentum": 0.9,
    "training.schedule": "step",
    "training.gamma": 0.1,
    "training.precision": "32-true",
}
_CIFAR: Settings = {
    **_PAPER,
    "data.size": 32,
    "network.model": "resnet110",
    "targets": [0.7],
    "kept": 0.7,
    "training.epochs": 350,
    "training.milestones": [150, 250],
    "training.weight_decay": 5e-4,
}
_IMAGENET: Settings = {
    **_PAPER,
    "others": ["stochastic_depth", "soft"],
    "data.size": 224,
    "augmentation.scale": [0.8, 1.25],
    "augmentation.normalize.mean": [0.485, 0.456, 0.406],
    "augmentation.normalize.std": [0.229, 0.224, 0.225],
    "training.epochs": 100,
    "training.step_epochs": 30,
    "training.weight_decay": 1e-4,
}
_IMAGENET_50: Settings = {
    **_IMAGENET,
    "network.model": "resnet50",
    "targets": [0.4, 0.5, 0.6, 0.7, 0.8],
    "kept": 0.7,
}
_IMAGENET_101: Settings = {
    **_IMAGENET,
    "network.model": "resnet101",
    "targets": [0.3, 0.5, 0.7],
    "kept": 0.5,
    # Up to the second downsampling.
    "gates.always_on": ["layer1", "layer2", "layer3.0"],
}

# For each command: flag, what its help says, settings.
PRESETS: dict[str, dict[str, tuple[str, Settings]]] = {
    "augment": {"--full": ("the thorough run: more seeds, every option", _AUGMENT_FULL)},
    "concentrate": {"--quick": ("the short run: one seed, the four main rows", _CONCENTRATE_QUICK)},
    "adaptive": {
        "--quick": ("the short run: one seed, three target rates", _ADAPTIVE_QUICK),
        "--cifar": ("the paper's recipe for ResNet-110 and a folder of 32x32 pictures", _CIFAR),
        "--imagenet50": ("the paper's recipe for ResNet-50 and a folder of pictures", _IMAGENET_50),
        "--imagenet101": ("the same for ResNet-101", _IMAGENET_101),
    },
    "stream": {
        "--quick": ("the short run: one seed, three networks, three arrivals", _STREAM_QUICK),
        "--dogs": ("the paper's recipe for Stanford Dogs and mixed breeds", _STREAM_DOGS),
    },
    "lesion": {"--quick": ("the short run: one seed, two networks, few draws", _LESION_QUICK)},
}
