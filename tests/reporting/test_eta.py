from lpft.reporting.status import Eta, Pace


def test_the_rest_by_hand() -> None:
    """Rounds: 3 at 2 s. Cells: 2 of ft at mean(4, 6) = 5 s; 1 of lp, of which none has ended, at 5 s."""
    rounds = (Pace("round", 3, [1.0, 3.0]), Pace("round", 0, [2.0]))
    cells = (Pace("ft", 2, [4.0]), Pace("ft", 0, [6.0]), Pace("none", 0, [20.0], typical=False), Pace("lp", 1, []))
    outlook = Eta(rounds, cells, at_work=4)
    assert (outlook.seconds_of_rounds, outlook.seconds_of_cells) == (6, 15)
    assert outlook.seconds_left == 6 + 15 / 4
    assert Eta(rounds, cells).seconds_left == 21
    assert outlook.to_json()["seconds_left"] == 9.75


def test_nothing_left_and_nothing_known() -> None:
    assert Eta().seconds_left == 0
    assert Eta((Pace("round", 0, []),), (Pace("ft", 0, [3.0]),)).seconds_left == 0
    unknown = Eta((), (Pace("ft", 2, []),))
    assert unknown.seconds_of_cells is None
    assert unknown.seconds_left is None
    assert Eta((), (Pace("none", 1, [1.0], typical=False), Pace("ft", 1, []))).seconds_left is None
    assert Eta((), (Pace("none", 1, [1.0], typical=False),)).seconds_left == 1


def test_points_that_have_not_begun_take_as_long_as_the_others() -> None:
    assert (Eta((), (Pace("ft", 0, [3.0]),), 1) + Eta((), (Pace("ft", 2, []),), 1)).seconds_left == 3
