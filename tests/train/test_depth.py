from __future__ import annotations

from forwardgrad.train.config import build_config
from forwardgrad.train.depth import memory_by_depth


def test_backprop_holds_more_the_deeper_the_net_and_forward_only_methods_hardly():
    """The claim of the library, and of the demo's picture."""
    grown = {}
    for name in ("backprop", "checkpointed", "forward", "spsa"):
        shallow, deep = memory_by_depth(build_config({"method": name}), depths=(2, 16))
        assert (shallow.blocks, deep.blocks) == (2, 16)
        assert (shallow.tape_bytes > 0) == (name in {"backprop", "checkpointed"})
        grown[name] = deep.peak_bytes / shallow.peak_bytes
    assert grown["backprop"] > 5
    assert grown["checkpointed"] > 2.5
    assert grown["forward"] < 1.3 and grown["spsa"] < 1.3
