"""Numbers as tables and sentences show them."""

from __future__ import annotations


def number(value: float, form: str) -> str:
    """Format a number; one that is rounded to zero has no minus sign.

    >>> number(-0.04, ".1f"), number(-0.04, "+.1f"), number(-0.06, "+.1f")
    ('0.0', '+0.0', '-0.1')
    """
    text = format(value, form)
    return format(0.0, form) if text.startswith("-") and float(text) == 0 else text


def points(value: float) -> str:
    """Write the end of an interval of points, with up to three decimals if it would look like zero.

    >>> points(1.26), points(-0.01), points(-0.004), points(0.0)
    ('1.3', '-0.01', '-0.004', '0.0')
    """
    texts = [number(value, f".{decimals}f") for decimals in (1, 2, 3)]
    return next((text for text in texts if float(text)), texts[0])
