"""A whole network as it is, patched by `fastheads.nn.patch`, and both compiled.

The outputs (with --train: the gradient of the first parameter) are compared with the same network
in float64 before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastheads.metrics import count_bytes, count_macs, count_parameters

from .harness import OURS, Case, parser, run

DTYPES = ("float32", "bfloat16", "float16", "float64")
ZOOS = ("timm", "torchvision")
SPEC = "timm:NAME, torchvision:NAME or package.module:function"


def add_options(group: Any) -> None:
    """What the inputs of a network are, and what is done with it."""
    add = group.add_argument
    add("--batch", type=int, default=8, help="images (default: %(default)s)")
    add("--size", type=int, default=224, help="their height and width (default: %(default)s)")
    add("--channels_last", action="store_true", help="memory format of images and weights")
    add("--train", action="store_true", help="training steps too: both passes and the optimizer")
    add("--no_compile", action="store_true", help="without torch.compile, which takes minutes")


def load(spec: str) -> nn.Module:
    """Makes a network: one of timm's or torchvision's without its weights, or one's own.

    Raises:
        ValueError: if ``spec`` names none.
    """
    place, _, name = spec.partition(":")
    if place and name and place not in ZOOS:
        return _own(place, name, spec)
    if place not in ZOOS or not name:
        raise ValueError(f"model must be {SPEC}, got {spec!r}")
    try:
        zoo = importlib.import_module("timm" if place == "timm" else "torchvision.models")
    except ModuleNotFoundError:
        extra = "bench" if place == "timm" else "pipelines"
        install = f"pip install 'fastheads[{extra}]'"
        raise ValueError(f"model {spec} needs the package {place}: {install}") from None
    if name not in (known := zoo.list_models()):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"model must be one of {place}'s, got {name!r}{hint}")
    make = zoo.create_model if place == "timm" else zoo.get_model
    return make(name)


def _own(module: str, function: str, spec: str) -> nn.Module:
    sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script does not
    try:
        network = getattr(importlib.import_module(module), function)()
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"model {spec!r} is not to be had: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(network, nn.Module):
        raise ValueError(f"model {spec!r} must return a torch.nn.Module, got {type(network)}")
    return network


def enliven(network: nn.Module, x: Tensor) -> None:
    """Makes fresh weights like trained ones: else some branches give zero and nothing is compared.

    Batch norms get scales other than 0 and 1, and the statistics of ``x``.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the statistics of this pass alone
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.normal_(norm.bias, std=0.1)
    with torch.no_grad():
        network.train()(torch.cat([x, -x]))  # two images at least, for the statistics
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def without_dropout(network: nn.Module) -> None:
    """Switches dropout and stochastic depth off: contestants then compute the same in training."""
    for module in network.modules():
        for name in ("p", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def contestants(network: nn.Module, compiled: bool) -> tuple[dict[str, Any], str]:
    """The network by itself and patched, then compiled; and what was patched."""
    from fastheads.nn import patch

    patched = copy.deepcopy(network)
    report = str(patch(patched))
    found: dict[str, Any] = {OURS: patched, "eager": network}
    if compiled:
        found |= {f"{OURS} compiled": patched, "compiled": network}
        for name in (f"{OURS} compiled", "compiled"):
            found[name] = torch.compile(copy.deepcopy(found[name]))
    return found, report


def forward(network: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return first_tensor(network(x))

    network.eval()
    return call


def training_step(network: Any, x: Tensor) -> Callable[[], Tensor]:
    """Both passes and SGD with a rate of 0, so that every step is the same."""
    network.train()
    weight = next(network.parameters())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)

    def call() -> Tensor:
        optimizer.zero_grad()
        first_tensor(network(x)).square().mean().backward()
        optimizer.step()
        return weight.grad

    return call


def first_tensor(result: Any) -> Tensor:
    """Of a network that returns several, or a dictionary."""
    return next(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


def relative_error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).abs().max() / exact.abs().max())


def case(networks: dict[str, Any], exact: nn.Module, x: Tensor, name: str, train: bool) -> Case:
    """One line-up; a contestant may err four times as much as the eager network."""
    start = training_step if train else forward
    wanted = start(exact, x.double())().detach().clone()
    providers = {provider: start(network, x) for provider, network in networks.items()}
    first = providers["eager"]().clone()
    eager = max(relative_error(first, wanted), 1e-13)  # in float64 it is zero
    if relative_error(providers["eager"](), first.double()) > eager / 2:
        raise ValueError(f"model {name} must compute the same every time, to be compared")
    for provider in [name for name in providers if name.endswith("compiled")]:
        print(f"compiling: {provider}", flush=True)
        try:
            providers[provider]()
        except Exception as error:  # the compiler's: anything may be raised
            print(f"left out: {provider} ({type(error).__name__}: {str(error).splitlines()[0]})")
            del providers[provider]
    factor = 3 if train else 1  # both gradients cost a forward pass each
    return Case(
        *(name, str(list(x.shape)), str(x.dtype).removeprefix("torch."), x.device),
        providers=providers,
        error=lambda _, result: relative_error(result, wanted),
        bytes=factor * count_bytes(networks["eager"], x),
        macs=factor * count_macs(networks["eager"], x),
        tolerance=4 * eager,
        pass_="training step" if train else "forward",
    )


def bench(options: argparse.Namespace, out: Path | None) -> None:
    """Measures ``options.model``; the other options are those of the command line."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, name = torch.device(options.device), options.model
    dtype = getattr(torch, options.dtype or "float32")
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    network: Any = load(name).to(device)
    without_dropout(network)
    if name.partition(":")[0] in ZOOS:
        enliven(network, x)
    exact = copy.deepcopy(network).to(dtype).double()
    network, x = network.to(dtype, memory_format=layout), x.to(dtype, memory_format=layout)
    networks, report = contestants(network, not options.no_compile)
    millions, macs = count_parameters(network) / 1e6, count_macs(network, x) / 1e9
    moved, fused = (count_bytes(networks[each], x) / 1e6 for each in ("eager", OURS))
    print(f"{name}: {millions:.2f} M parameters; a forward pass takes {macs:.3f} GMACs and moves "
          f"at least {moved:.1f} MB, {fused:.1f} MB patched")  # fmt: skip
    print(report, flush=True)
    passes = (False, True) if options.train else (False,)
    cases = (case(networks, exact, x, name, train) for train in passes)
    run(cases, out, device=device, quick=options.quick)


def main(argv: list[str] | None = None) -> None:
    form = parser((__doc__ or "").splitlines()[0])
    form.add_argument("--dtype", choices=DTYPES, default="float32")
    form.add_argument("--model", metavar="SPEC", required=True, help=SPEC)
    add_options(form)
    options = form.parse_args(argv)
    bench(options, options.out)


if __name__ == "__main__":
    main()
