"""Warnings that geotile ignores for a while: in all threads, without a lock, and only those."""

import threading
import warnings

import pytest

from geotile.core.warning_filter import filters_kept, ignore_warnings


class Odd(UserWarning):
    pass


def test_a_block_that_waits_holds_no_other_thread_up():
    inside, leave, done = threading.Event(), threading.Event(), threading.Event()

    def wait():
        with ignore_warnings(Odd):
            inside.set()
            leave.wait(10)

    def pass_by():
        with ignore_warnings(Odd), filters_kept():
            done.set()

    waiting, passing = threading.Thread(target=wait), threading.Thread(target=pass_by)
    waiting.start()
    assert inside.wait(10)
    passing.start()
    assert done.wait(5)
    leave.set()
    waiting.join()
    passing.join()


@pytest.mark.parametrize("action", ["always", "error", "ignore"])
def test_the_filters_are_the_same_afterwards(action):
    with warnings.catch_warnings():
        warnings.simplefilter(action, Odd)
        before = list(warnings.filters)
        with ignore_warnings(Odd):
            with ignore_warnings(Odd):
                warnings.warn("one\nand two", Odd, stacklevel=1)
            warnings.warn("", Odd, stacklevel=1)
            with pytest.warns(RuntimeWarning, match="another"):
                warnings.warn("another", RuntimeWarning, stacklevel=1)
        assert warnings.filters == before


def test_filters_that_others_replace_meanwhile_do_not_keep_it():
    before = list(warnings.filters)
    with warnings.catch_warnings():
        blocks = [ignore_warnings(Odd), ignore_warnings(Odd)]
        blocks[0].__enter__()
        with warnings.catch_warnings():
            blocks[1].__enter__()
            blocks[0].__exit__(None, None, None)
            blocks[1].__exit__(None, None, None)
        assert warnings.filters == before
    assert warnings.filters == before
