"""Seconds of operations and collectives by hand."""

from collections import Counter
from fractions import Fraction

import pytest

from pretrain.planning.devices import Device, Link
from pretrain.planning.memory import Peak
from pretrain.planning.records import Collective, OpCost, Segment
from pretrain.planning.rehearsal import Rehearsal
from pretrain.planning.step_time import Machines, collective_seconds, op_seconds, step_seconds

DEVICE = Device(
    name="toy",
    memory_gib=1,
    memory_gb_s=1,
    tflops={"float32": 1, "bfloat16": 4},
    vector_tflops=0.5,
    efficiency=0.5,
    memory_efficiency=0.5,
    launch_us=1,
    link="string",
)
LINK, NETWORK = Link(gb_s=1, latency_us=10), Link(gb_s=0.1, latency_us=100)
MACHINES = Machines(DEVICE, LINK, NETWORK, per_node=4)


@pytest.mark.parametrize(
    ("cost", "part", "seconds"),
    [
        # half of 1 and of 4 TFLOP/s
        (OpCost("matrix", "torch.float32", 10**9, 100), "matrix products", 2e-3),
        (OpCost("matrix", "torch.bfloat16", 10**9, 100), "matrix products", 0.5e-3),
        (OpCost("fft", "torch.complex64", 10**9, 100), "matrix products", 2e-3),
        # half of 1 GB/s
        (OpCost("matrix", "torch.float32", 10, 10**6), "memory traffic", 2e-3),
        (OpCost("other", "torch.float32", 0, 0), "launches", 1e-6),
    ],
)
def test_an_operation_takes_what_bounds_it(cost: OpCost, part: str, seconds: float) -> None:
    assert op_seconds(cost, DEVICE) == (part, pytest.approx(seconds))


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        # 8 ranks: three rounds of a tree; bytes by a ring
        ("allreduce", 2 * 7 / 8 * 1e-3 + 6e-5),
        ("allgather_base", 7e-3 + 3e-5),
        ("reduce_scatter_base", 7 / 8 * 1e-3 + 3e-5),
        ("alltoall_base", 7 / 8 * 1e-3 + 3e-5),
        ("broadcast", 1e-3 + 3e-5),
        ("send", 1e-3 + 1e-5),
    ],
)
def test_a_collective_takes_its_bytes_and_its_rounds(name: str, seconds: float) -> None:
    collective = Collective(name, 10**6, tuple(range(8)))
    assert collective_seconds(collective, LINK) == pytest.approx(seconds)
    assert collective_seconds(collective._replace(ranks=(3,)), LINK) == 0.0


def test_ranks_of_one_machine_take_its_link_and_others_the_network() -> None:
    assert MACHINES.link_of((4, 5, 7)) == ("within machines", LINK)
    assert MACHINES.link_of((0, 4)) == ("between machines", NETWORK)


def test_passes_count_as_often_as_a_step_has_them_and_stages_wait() -> None:
    passes, step = Segment(), Segment()
    passes.ops = Counter({OpCost("matrix", "torch.float32", 10**9, 0): 3})
    step.collectives = Counter({Collective("allreduce", 10**6, (0, 4)): 1})
    peak = Peak("forward", {}, {})
    repeats = {"pass": Fraction(5, 2), "step": Fraction(1)}
    rehearsal = Rehearsal(1, {"pass": passes, "step": step}, repeats, peak, peak, [])
    alone = step_seconds(rehearsal, MACHINES, stages=1, passes=5)
    assert alone == pytest.approx(
        {
            "matrix products": 3 * 2.5 * 2e-3,
            "allreduce between machines": 2 * 0.5 * 1e6 / 1e8 + 2e-4,
        }
    )
    piped = step_seconds(rehearsal, MACHINES, stages=3, passes=5)
    # two passes' time before the first and after the last
    assert piped == pytest.approx(alone | {"bubble": 2 * 3 * 2.5 * 2e-3 / 5})
    assert rehearsal.sent() == {"allreduce": 10**6}
    # a processor works on an operation only once it has been called
    slow = MACHINES._replace(device=DEVICE.model_copy(update={"overhead_us": 4}))
    called = step_seconds(rehearsal, slow, stages=3, passes=5)
    assert called["launches"] == pytest.approx(3 * 2.5 * 4e-6)
    assert called["bubble"] == pytest.approx(2 * 3 * 2.5 * (2e-3 + 4e-6) / 5)
