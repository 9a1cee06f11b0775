"""A network beside its patched copy, and which operators a call runs."""

import collections
import copy

import timm
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from fastheads.nn import patch


class Calls(TorchDispatchMode):
    """Counts the operators that run within it, by name without overload."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.counts[name] += 1
        self.counts["squeeze_excite"] += name == "squeeze_excite_"
        return function(*args, **(kwargs or {}))

    @property
    def fused(self):
        return self.counts["squeeze_excite"]


def lively(model):
    """Weights that let every branch count, in float64; libraries start the last norms at 0."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.2, generator=generator)
    return model.double()


def patched_copy(model):
    other = copy.deepcopy(model)
    return other, patch(other)


def results(model, x, backward=False):
    """Output, and the gradients of all parameters and of x; the same random numbers each time."""
    torch.manual_seed(1)
    x = x.detach().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        y = model(x)
    if not backward:
        return {"output": y}
    parameters = dict(model.named_parameters())
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    wanted = [x, *parameters.values()]
    gradients = torch.autograd.grad((weight * y).sum(), wanted, materialize_grads=True)
    return {"output": y, **dict(zip(["x", *parameters], gradients, strict=True))}


def assert_same(model, other, x, backward=False):
    """Equal to rounding in float64; gradients to that of PyTorch's hard sigmoid, 1/6 in float32."""
    expected, got = results(model, x, backward), results(other, x, backward)
    largest = max(float(t.detach().abs().max()) for t in expected.values())
    assert float(expected["output"].detach().abs().max()) > 0
    for name, tensor in expected.items():
        size = max(float(tensor.detach().abs().max()), 1e-3 * largest)
        error = float((got[name] - tensor).detach().abs().max())
        assert error <= (1e-10 if name == "output" else 1e-7) * size, (name, error, size)


def seresnet(**options):
    """Four blocks: timm's seresnet18 or another, cut short."""
    return lively(timm.create_model("seresnet18", layers=(1, 1, 1, 1), num_classes=5, **options))


def images(dtype=torch.float64):
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)).to(dtype)


def called(model, x):
    """The names of the modules that run in a call, as hooks on all modules see them."""
    names = {module: name for name, module in model.named_modules()}
    seen = []
    handle = register_module_forward_hook(lambda module, *_: seen.append(names[module]))
    try:
        results(model, x)
    finally:
        handle.remove()
    return seen


def count(model, x):
    with Calls() as calls:
        results(model, x)
    return calls.counts
