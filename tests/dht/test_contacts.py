"""Address book and ghosts: bounds, precedence, expiry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.contacts import AddressBook, Ghosts, supersedes
from protocol.messages import Contact


def contact(number: int, incarnation: int = 1, address: str = "a:1") -> Contact:
    return Contact(number.to_bytes(16, "big"), (address,) if address else (), incarnation)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=100))
def test_the_book_keeps_the_last_within_its_bound_and_the_newest_life(puts: list[tuple[int, int]]) -> None:
    book = AddressBook(8)
    for number, incarnation in puts:
        before = book.get(number.to_bytes(16, "big"))
        book.put(contact(number, incarnation))
        after = book.get(number.to_bytes(16, "big"))
        assert after is not None
        assert before is None or after.incarnation >= before.incarnation
        assert len(book) <= 8
    assert len(list(book)) == len(book)


def test_what_a_peer_says_of_itself_beats_an_invented_incarnation() -> None:
    book = AddressBook(8)
    book.put(contact(1, 1 << 60, "liar:1"))
    book.put(contact(1, 3, "hearsay:1"))
    assert book.get(contact(1).id) == contact(1, 1 << 60, "liar:1")
    book.put(contact(1, 3), direct=True)
    assert book.get(contact(1).id) == contact(1, 3)


def test_hearsay_is_better_when_newer_or_reachable() -> None:
    assert supersedes(contact(1, 2), contact(1, 1))
    assert not supersedes(contact(1, 1), contact(1, 1))
    assert supersedes(contact(1, 1), contact(1, 1, ""))
    assert not supersedes(contact(1, 1, ""), contact(1, 1))


def test_ghosts_are_few_and_fade() -> None:
    ghosts = Ghosts(3, life=100)
    for number in range(5):
        ghosts.add(contact(number), now=number, final=number == 4)
    assert len(ghosts) == 3
    assert [ghost.contact for ghost in ghosts.sought()] == [contact(2), contact(3)]
    for passer_by in range(10, 20):
        ghosts.add(contact(passer_by, address=""), now=4)
    assert [ghost.contact for ghost in ghosts.sought()] == [contact(2), contact(3)]
    ghosts.add(contact(4), now=4, final=True)
    assert ghosts.recent(3, limit=1) == (contact(4).id,)
    ghosts.expire(103)
    assert contact(2).id not in ghosts
    assert contact(3).id in ghosts
    assert ghosts.pop(contact(3).id) is not None
    assert ghosts.pop(contact(3).id) is None
