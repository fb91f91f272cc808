"""The board: what processes count together, and whose turn it is to take a connection."""

from __future__ import annotations

import os

from relayd.daemon.net.board import Board


def test_every_process_sees_what_all_have() -> None:
    board = Board.make()
    one, two = board.open_row(1), Board(os.dup(board.fd)).row(2)
    board.open_row(2)
    one.tell_connections(3)
    two.tell_connections(4)
    one.tell_bodies(100)
    two.tell_bodies(50)

    assert one.connections == two.connections == 7
    assert (one.bodies_elsewhere, two.bodies_elsewhere) == (50, 100)

    board.open_row(1)  # its process has died
    assert two.connections == 4
    assert two.bodies_elsewhere == 0


def test_who_has_clearly_more_leaves_the_next_connection_to_the_others() -> None:
    board = Board.make()
    one, two = board.open_row(1), board.open_row(2)
    for row in (one, two):
        row.tell_accepts(True)

    one.tell_connections(1)
    assert one.has_turn()
    one.tell_connections(2)
    assert not one.has_turn()
    assert two.has_turn()

    one.tell_connections(102)
    two.tell_connections(95)
    assert one.has_turn()  # at many connections a few more are no matter
    two.tell_connections(94)
    assert not one.has_turn()

    two.tell_accepts(False)  # it drains, so nothing is left to it
    assert one.has_turn()


def test_connections_taken_in_turn_are_even() -> None:
    board = Board.make()
    rows = [board.open_row(number) for number in range(1, 4)]
    have = [0, 0, 0]
    for row in rows:
        row.tell_accepts(True)
    for _ in range(60):  # the first that may takes it, which is the most uneven way
        taker = next(place for place, row in enumerate(rows) if row.has_turn())
        have[taker] += 1
        rows[taker].tell_connections(have[taker])

    assert max(have) - min(have) <= 3
