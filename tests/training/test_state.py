"""What goes in comes out, types included; nothing else is accepted."""

import math

import pytest
import torch

from fertiray.errors import InputError
from fertiray.training.state import pack, unpack


def test_round_trip_of_an_optimiser():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "tied": [layer.weight, layer.weight],
        "nothing": None,
        "numbers": (1, 2.5, math.inf, True),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
    }
    found = unpack(pack(state), "here")
    assert found["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    for number, own in optimizer.state_dict()["state"].items():
        for key, value in own.items():
            assert torch.equal(found["optimizer"]["state"][number][key], value)
    assert found["numbers"] == (1, 2.5, math.inf, True)
    assert found["nothing"] is None
    assert found["half"].dtype == torch.bfloat16
    assert found["scalar"].shape == ()
    torch.optim.AdamW(layer.parameters(), lr=0.5).load_state_dict(found["optimizer"])


@pytest.mark.parametrize(
    "damage", [lambda b: b[:100], lambda b: b[:-3], lambda b: b"", lambda b: b"\x80\x04pickle" * 9]
)
def test_damaged_states_are_named(damage):
    data = pack({"a": torch.ones(50)})
    with pytest.raises(InputError, match=r"there: not the state of a training"):
        unpack(damage(data), "there")
