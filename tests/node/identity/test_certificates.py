"""The certificate chain: what it binds together, and every way of bending it that we know."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from node.identity.certificates import (
    NONCE_OID,
    ONE_POSITION,
    VOUCHER_OID,
    Limits,
    check_authority,
    node_name,
    node_of,
    peer_of,
    public_key_of,
    verify_chain,
    verify_endorsement,
)
from node.identity.issuing import AUTHORITY_LIFE, BACKDATE, endorse, make_authority, make_leaf, nonce_for
from node.identity.keys import Key
from protocol.errors import AuthError, UsageError
from protocol.ids import ring_id
from protocol.membership import vouch
from tests.node.identity.lab import Lab, chain, forge_leaf, forgeries, with_extension

NOW = 1_800_000_000


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(NOW)


def test_an_honest_chain_names_its_node(lab: Lab) -> None:
    member = lab.member()
    assert verify_chain(*chain(member.leaf(NOW)), lab.document.authorities, NOW) == member.node
    said = verify_endorsement(member.endorsement, lab.document.authorities, NOW)
    assert said == (member.node, member.key.nonce, vouch(lab.authority.key, member.node), ONE_POSITION)
    assert public_key_of(member.endorsement) == member.key.public_key


def test_the_zone_is_part_of_the_name_and_limits_travel() -> None:
    lab = Lab(NOW, zone=0xBEEF)
    key = Key.generate()
    authority = lab.authority
    endorsement = endorse(authority.key, authority.certificate, key.public_key, 0xBEEF, Limits(positions=8), NOW)
    node, nonce, _, limits = verify_endorsement(endorsement, [authority.certificate], NOW)
    assert node == ring_id(0xBEEF, key.public_key, nonce)
    assert limits == Limits(positions=8)


def test_the_issuer_chooses_the_place_and_the_same_key_always_gets_the_same(lab: Lab) -> None:
    key, other = Key.generate(), Key.generate()
    places = [
        verify_endorsement(lab.authority.endorse(key.public_key, 0, now), lab.document.authorities, now)
        for now in (NOW, NOW + 1000)
    ]
    assert places[0] == places[1]
    assert places[0].node == lab.authority.node(key.public_key, 0) != ring_id(0, key.public_key)
    elsewhere = Lab(NOW).authority
    nonces = [places[0].nonce, nonce_for(lab.authority.key, other.public_key), nonce_for(elsewhere.key, key.public_key)]
    assert len(set(nonces)) == 3


@pytest.mark.parametrize("voucher", [None, b"", bytes(72), "another node", "another authority"])
def test_an_endorsement_whose_voucher_is_for_another_is_refused(lab: Lab, voucher: bytes | str | None) -> None:
    member = lab.member()
    given = {
        "another node": vouch(lab.authority.key, lab.member().node),
        "another authority": vouch(Key.generate(), member.node),
    }.get(str(voucher), voucher)
    forged = with_extension(lab, member, VOUCHER_OID, given)  # type: ignore[arg-type]
    with pytest.raises(AuthError, match="voucher"):
        verify_endorsement(forged, lab.document.authorities, NOW)


@pytest.mark.parametrize("nonce", [None, b"", b"short", bytes(16), bytes(17)])
def test_an_endorsement_whose_nonce_does_not_give_its_name_is_refused(lab: Lab, nonce: bytes | None) -> None:
    member = lab.member()
    forged = with_extension(lab, member, NONCE_OID, nonce)
    with pytest.raises(AuthError, match="nonce"):
        verify_endorsement(forged, lab.document.authorities, NOW)
    assert verify_endorsement(with_extension(lab, member, NONCE_OID, member.key.nonce), lab.document.authorities, NOW)


@pytest.mark.parametrize("authorities", [1, 2])
def test_a_foreign_authority_counts_for_nothing(lab: Lab, authorities: int) -> None:
    foreign = [Lab(NOW).authority.certificate for _ in range(authorities)]
    member = lab.member()
    with pytest.raises(AuthError, match="another fabric"):
        verify_chain(*chain(member.leaf(NOW)), foreign, NOW)


def test_an_authority_of_the_same_name_but_another_key_is_found_out(lab: Lab) -> None:
    member = lab.member()
    impostor = Key.generate()
    subject = x509.load_der_x509_certificate(lab.authority.certificate).subject
    lookalike = make_authority(impostor, "lab", NOW)
    assert x509.load_der_x509_certificate(lookalike).subject != subject
    forged = endorse(impostor, lab.authority.certificate, member.key.public_key, 0, ONE_POSITION, NOW)
    with pytest.raises(AuthError, match="did not sign"):
        verify_endorsement(forged, lab.document.authorities, NOW)


def test_any_of_several_authorities_will_do(lab: Lab) -> None:
    authorities = [Lab(NOW).authority.certificate, *lab.document.authorities]
    member = lab.member()
    assert verify_chain(*chain(member.leaf(NOW)), authorities, NOW) == member.node


@pytest.mark.parametrize("trick", sorted(forgeries(Lab(NOW).member(), bytes(16), NOW)))
def test_a_leaf_that_claims_another_id_is_refused(lab: Lab, trick: str) -> None:
    leaf = forgeries(lab.member(), lab.issuer.node, NOW)[trick]
    with pytest.raises(AuthError):
        verify_chain(*chain(leaf), lab.document.authorities, NOW)


def test_a_leaf_from_another_intermediate_is_refused(lab: Lab) -> None:
    one, other = lab.member(), lab.member()
    leaf, _ = chain(one.leaf(NOW))
    with pytest.raises(AuthError, match="did not sign"):
        verify_chain(leaf, other.endorsement, lab.document.authorities, NOW)


def test_ed25519_leaves_and_leaves_that_sign_are_refused(lab: Lab) -> None:
    member = lab.member()
    names = [x509.DNSName(node_name(member.node))]
    with pytest.raises(AuthError, match="P-256"):
        verify_chain(*chain(forge_leaf(member, NOW, names, ed25519=True)), lab.document.authorities, NOW)
    with pytest.raises(AuthError, match="may sign"):
        verify_chain(*chain(forge_leaf(member, NOW, names, ca=True)), lab.document.authorities, NOW)


@pytest.mark.parametrize(
    ("offset", "valid"),
    [(-BACKDATE - 1, False), (-BACKDATE, True), (0, True), (3599, True), (3600, False)],
)
def test_a_leaf_is_valid_within_its_window_which_forgives_slow_clocks(lab: Lab, offset: int, valid: bool) -> None:
    member = lab.member()
    links = chain(member.leaf(NOW, life=3600))
    if valid:
        assert verify_chain(*links, lab.document.authorities, NOW + offset) == member.node
    else:
        with pytest.raises(AuthError, match="not valid yet" if offset < 0 else "expired"):
            verify_chain(*links, lab.document.authorities, NOW + offset)


@pytest.mark.parametrize(("days", "accepted"), [(1, True), (6, True), (7, False), (3650, False)])
def test_a_leaf_that_lives_for_years_is_refused_by_peers(lab: Lab, days: int, *, accepted: bool) -> None:
    member = lab.member()
    leaf = member.leaf(NOW, life=days * 86400)
    context = {"transport_security_type": [b"ssl"], "x509_pem_cert": [leaf.chain_pem]}
    if accepted:
        assert verify_chain(*chain(leaf), lab.document.authorities, NOW) == peer_of(context) == member.node
        return
    with pytest.raises(AuthError, match="lives longer"):
        verify_chain(*chain(leaf), lab.document.authorities, NOW)
    with pytest.raises(AuthError, match="lives longer"):
        peer_of(context)


def test_an_endorsement_ends_with_its_authority(lab: Lab) -> None:
    member = lab.member()
    verify_endorsement(member.endorsement, lab.document.authorities, NOW + AUTHORITY_LIFE - 1)
    with pytest.raises(AuthError, match="expired"):
        verify_endorsement(member.endorsement, lab.document.authorities, NOW + AUTHORITY_LIFE)
    with pytest.raises(UsageError, match="expired"):
        make_leaf(member.key, member.endorsement, NOW + AUTHORITY_LIFE)


def test_a_member_cannot_endorse_others(lab: Lab) -> None:
    member, outsider = lab.member(), Key.generate()
    below = endorse(member.key, member.endorsement, outsider.public_key, 0, ONE_POSITION, NOW)
    with pytest.raises(AuthError, match="another fabric"):
        verify_endorsement(below, lab.document.authorities, NOW)
    with pytest.raises(AuthError, match="rank"):
        verify_endorsement(below, [member.endorsement], NOW)


def test_a_leaf_needs_the_key_that_was_endorsed(lab: Lab) -> None:
    with pytest.raises(UsageError, match="another key"):
        make_leaf(Key.generate(), lab.member().endorsement, NOW)


def test_only_authorities_pass_for_authorities(lab: Lab) -> None:
    check_authority(lab.authority.certificate)
    leaf, intermediate = chain(lab.member().leaf(NOW))
    for impostor in (leaf, intermediate, b"", b"\x30\x03\x02\x01\x00"):
        with pytest.raises(AuthError):
            check_authority(impostor)


def test_names_are_exact(lab: Lab) -> None:
    node = lab.issuer.node
    assert node_of(node_name(node)) == node
    for name in (
        "",
        ".mycelia",
        node.hex(),
        node.hex() + ".mycelia.",
        node.hex() + ".Mycelia",
        node.hex().upper() + "A.mycelia",
        node.hex()[:-2] + ".mycelia",
        "x." + node_name(node),
        " ".join(node.hex()) + ".mycelia",
        "ÿ" * 32 + ".mycelia",
    ):
        with pytest.raises(AuthError):
            node_of(name)


def test_who_is_at_the_other_end_is_read_from_the_leaf_alone(lab: Lab) -> None:
    member = lab.member()
    pem = member.leaf(NOW).chain_pem
    assert peer_of({"transport_security_type": [b"ssl"], "x509_pem_cert": [pem]}) == member.node
    for context in (
        {},
        {"transport_security_type": [b"insecure"], "x509_pem_cert": [pem]},
        {"transport_security_type": [b"ssl"]},
        {"transport_security_type": [b"ssl"], "x509_pem_cert": [b"nonsense"]},
        {"transport_security_type": [b"ssl"], "x509_subject_alternative_name": [node_name(member.node).encode()]},
    ):
        with pytest.raises(AuthError):
            peer_of(context)


@pytest.mark.parametrize("trick", sorted(forgeries(Lab(NOW).member(), bytes(16), NOW)))
def test_even_if_tls_let_it_through_a_forged_name_is_no_identity(lab: Lab, trick: str) -> None:
    victim = lab.issuer.node
    leaf = forgeries(lab.member(), victim, NOW)[trick]
    try:
        taken_for = peer_of({"transport_security_type": [b"ssl"], "x509_pem_cert": [leaf.chain_pem]})
    except AuthError:
        return
    assert trick == "dns", "only the one form is read; that its name is the signer's own is TLS's part"
    assert taken_for == victim


def verify_all(leaf: bytes, intermediate: bytes, authority: bytes) -> None:
    verify_chain(leaf, intermediate, [authority], NOW)
    check_authority(authority)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(position=st.integers(0, 5000), value=st.integers(0, 255), which=st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_damaged_certificates_are_refused_with_one_kind_of_error(position: int, value: int, which: int) -> None:
    parts = [*chain(_HONEST.leaf(NOW)), _LAB.authority.certificate]
    damaged = bytearray(parts[which])
    position %= len(damaged)
    if damaged[position] == value:
        return
    damaged[position] = value
    parts[which] = bytes(damaged)
    with pytest.raises(AuthError):
        verify_all(*parts)


@given(st.binary(max_size=4096))
@settings(max_examples=100)
def test_random_bytes_are_no_certificate(content: bytes) -> None:
    with pytest.raises(AuthError):
        verify_endorsement(content, _LAB.document.authorities, NOW)
    with pytest.raises(AuthError):
        public_key_of(content)


_LAB = Lab(NOW)
_HONEST = _LAB.member()
