"""What the metrics of several workers come to."""

from __future__ import annotations

from relayd.daemon.net.server import ServerStatistics
from relayd.daemon.workers.figures import PastWorkers, summed
from relayd.daemon.workers.messages import CountedFigures, WorkerReport


def figures(calls: int, open_now: int, counts: tuple[int, ...]) -> tuple[CountedFigures, ...]:
    return (
        CountedFigures(name="x_total", samples=((("a",), calls), (("b",), 1))),
        CountedFigures(name="x_open", samples=(((), open_now),)),
        CountedFigures(name="x_seconds", samples=(((), 0.5),), counts=counts),
    )


def test_samples_add_up_by_their_labels_and_buckets_one_by_one() -> None:
    found = {one.name: one for one in summed([*figures(2, 3, (1, 0, 2)), *figures(5, 4, (0, 1, 1))])}

    assert dict(found["x_total"].samples) == {("a",): 7, ("b",): 2}
    assert dict(found["x_open"].samples) == {(): 7}
    assert found["x_seconds"].counts == (1, 1, 3)
    assert dict(found["x_seconds"].samples) == {(): 1.0}


def test_what_a_worker_has_counted_stays_when_it_ends_and_what_it_had_does_not() -> None:
    past = PastWorkers()
    for _ in range(2):
        had = ServerStatistics(open=3, accepted=10, refused=1)
        past.add(WorkerReport(figures=figures(2, 3, (1, 0, 0)), connections=had))
    found = {one.name: one for one in past.figures}

    assert found.keys() == {"x_total", "x_seconds"}
    assert dict(found["x_total"].samples)[("a",)] == 4
    assert past.connections == ServerStatistics(open=0, accepted=20, refused=2)
