# SPDX-License-Identifier: MIT
"""What every message of ours looks like."""

from __future__ import annotations

import re

import pytest

FORM = re.compile(r"^[\w.]+( [-+*])?: .+ must .+, got .+\. \S", re.DOTALL)


def provoke(kind, words, call):
    """The call raises ``kind``; the message has the house form and names every word."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert FORM.match(text), text
    for word in words:
        assert str(word) in text, (word, text)
