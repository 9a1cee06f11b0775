"""Writes a CUDA source as C++ for the emulator: python translate.py SOURCE TARGET."""

import re
import sys
from pathlib import Path

# kernel<types><<<grid, block, bytes, stream>>>
LAUNCH = re.compile(
    r"(?P<kernel>(?P<name>[A-Za-z_]\w*)(?:<[^;{}()]*?>)?)\s*<<<(?P<sizes>.*?)>>>", re.S
)
DYNAMIC = re.compile(
    r"extern __shared__ (?:__align__\(\d+\) )?(?P<type>[\w ]+?) (?P<name>\w+)\[\];"
)
SHARED = re.compile(
    r"(?:alignas\(\d+\) )?__shared__ (?P<type>[^;]+?) (?P<name>\w+)(?P<sizes>(?:\[[^\]]*\])*);"
)
REPLACEMENTS = [
    (
        LAUNCH,
        r'::emulator::configured("\g<name>", [=](auto... arguments) {'
        r" \g<kernel>(arguments...); }, \g<sizes>)",
    ),
    (DYNAMIC, r"auto* \g<name> = static_cast<\g<type>*>(::emulator::dynamic_shared());"),
    (SHARED, r"auto& \g<name> = ::emulator::shared<\g<type>\g<sizes>>([] {});"),
    (re.compile(r"const torch::stable::accelerator::DeviceGuard guard\([^;]*;"), ""),
    (re.compile(r"(STABLE_TORCH_LIBRARY_IMPL\(fastheads, )CUDA"), r"\g<1>CPU"),
]


def translate(source: str) -> str:
    for pattern, replacement in REPLACEMENTS:
        source = pattern.sub(replacement, source)
    return source


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(f'#line 1 "{source.resolve()}"\n{translate(source.read_text())}')
