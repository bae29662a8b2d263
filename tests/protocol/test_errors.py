"""The error tree: who is to blame, under which code, and what the shell sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol import errors
from protocol.errors import Code, MyceliaError, PeerError


def tree(root: type[MyceliaError]) -> Iterator[type[MyceliaError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


OURS = [cls for cls in tree(MyceliaError) if cls.__module__ == errors.__name__]


def test_codes_keep_their_numbers() -> None:
    """They travel in metrics, so that a number, once given, means the same for ever."""
    first = (
        "MALFORMED OVERSIZE VERSION UNKNOWN_KIND BAD_SIGNATURE UNAUTHORISED NON_FINITE BAD_DIGEST UNEXPECTED OVERLAP"
    )
    assert [code.name for code in Code][:13] == [*first.split(), "FLOOD", "EXPIRED", "REVOKED"]
    assert list(Code) == list(range(1, len(Code) + 1))


def test_each_family_has_its_own_exit_code() -> None:
    families = [cls for cls in OURS if cls.__bases__ == (MyceliaError,)]
    codes = [MyceliaError.exit_code, *(cls.exit_code for cls in families)]
    assert len(set(codes)) == len(codes)
    assert all(1 <= code < 64 for code in codes)


def test_peer_errors_are_told_apart_by_code() -> None:
    codes = [cls.code for cls in PeerError.__subclasses__() if cls.__module__ == errors.__name__]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_an_error_carries_a_sentence_and_a_remedy(cls: type[MyceliaError]) -> None:
    error = cls("It broke.", "Mend it.")
    assert (str(error), error.remedy) == ("It broke.", "Mend it.")
    assert cls("It broke.").remedy == ""
    assert cls.__doc__ or issubclass(cls, PeerError)
