import numpy as np

from cryobase.store.epochs import drawn_views, shuffled


def test_every_epoch_and_seed_has_an_order_of_its_own_that_comes_again():
    values = np.arange(100)
    orders = [shuffled(values, *key).tolist() for key in ((0, 0), (0, 1), (1, 0), (2**64 - 1, 0))]
    assert len(set(map(tuple, orders))) == 4
    assert orders[1] == shuffled(values, 0, 1).tolist()
    assert all(sorted(order) == values.tolist() for order in orders)
    assert values.tolist() == list(range(100))  # a copy is put in order


def test_the_order_goes_by_place_and_not_by_value():
    values = np.arange(100)
    assert (shuffled(values * 2, 3, 4) == shuffled(values, 3, 4) * 2).all()
    assert (shuffled(values.reshape(50, 2), 3, 4)[:, 1] % 2 == 1).all()


def test_views_come_from_the_range_and_do_not_follow_the_order():
    views = drawn_views(10_000, 5, 6, range(1, 4))
    counts = np.bincount(views, minlength=4)
    assert counts[0] == 0
    assert (np.abs(counts[1:] / 10_000 - 1 / 3) < 0.03).all()
    order = shuffled(np.arange(10_000), 5, 6)
    assert abs(np.corrcoef(order, views)[0, 1]) < 0.05
    assert (views == drawn_views(10_000, 5, 6, range(1, 4))).all()
