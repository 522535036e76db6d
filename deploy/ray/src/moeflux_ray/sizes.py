"""Sizes in bytes, as moeflux's own flags take them."""

from __future__ import annotations

import re

from moeflux_ray.errors import SettingsError

UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1 << 10 * power for power, unit in enumerate("kmgt", start=1)},
    **{f"{unit}ib": 1 << 10 * power for power, unit in enumerate("kmgt", start=1)},
    **{f"{unit}b": 1000**power for power, unit in enumerate("kmgt", start=1)},
}


def parse_size(text: str) -> int:
    """Bytes of ``8GiB``, ``1.5GB``, ``64k`` or ``1024``.

    Raises:
        SettingsError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in UNITS:
        raise SettingsError(f"{text!r} is no size; write it as 8GiB")
    return int(float(match[1]) * UNITS[match[2]])
