"""Sealed values: they open for their recipients at their place, and nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import attrs
import pytest
import second_sealer as second
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.secrets.binding import (
    UNNAMED_TOKEN_URL,
    Binding,
    account_binding,
    alert_binding,
    endpoint_of,
    origin_of,
    totp_binding,
)
from relayd.config.secrets.identity import (
    identity_paths,
    load_identities,
    read_identities,
    usual_identity,
    write_identity,
)
from relayd.config.secrets.recipients import PublicKey, SealError, active_keys, check_recipients, checksum, parse_public
from relayd.config.secrets.seal import Identity, inspect, new_identity, open_sealed, parse_identity, parse_sealed, seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import OAuth, Recipient

CANARY = "sk-ant-api03-canary-55c1"
DOCUMENT = Path(__file__).parents[3] / "docs" / "sealed-format.md"
VECTORS: dict[str, Any] = json.loads(DOCUMENT.read_text().rsplit("```json\n", 1)[1].split("```")[0])
MAIN = account_binding("example", "main", "https://api.anthropic.com/v1")


def identity(name: str, suite: int = 1) -> Identity:
    return new_identity(lambda size: hashlib.sha256(name.encode()).digest()[:size], 2 if suite == 2 else 1)


A, B, C, Q = identity("a"), identity("b"), identity("c"), identity("q", 2)


def recipient(name: str, owner: Identity, state: str = "active") -> Recipient:
    return Recipient(name=name, public=owner.public.text, state=state)  # type: ignore[arg-type]


def sealed(*owners: Identity, text: str = CANARY, binding: Binding = MAIN) -> str:
    return seal(Secret(text), binding, [owner.public for owner in owners])


def code_of(value: str, binding: Binding = MAIN, *identities: Identity) -> str:
    with pytest.raises(SealError) as caught:
        open_sealed(value, binding, identities or (A,))
    assert value not in str(caught.value)
    assert CANARY not in str(caught.value)
    return caught.value.code


def with_checksum(text: str) -> str:
    return f"{text}.{checksum(text)}"


# --- round trips ----------------------------------------------------------------------------------------------------


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=50)
def test_every_recipient_opens_what_was_sealed_and_a_stranger_does_not(text: str) -> None:
    value = sealed(A, B, text=text)
    assert open_sealed(value, MAIN, [A]).reveal() == open_sealed(value, MAIN, [C, B]).reveal() == text
    assert code_of(value, MAIN, C) == "E-SEAL-NO-IDENTITY"


@pytest.mark.parametrize("size", [0, 61, 62, 63, 126, 127, 16384])
def test_lengths_around_the_padding_come_back_whole(size: int) -> None:
    assert open_sealed(sealed(A, text="x" * size), MAIN, [A]).reveal() == "x" * size


def test_the_length_of_a_value_tells_no_more_than_a_multiple_of_64() -> None:
    assert len({len(sealed(A, text="x" * size)) for size in range(63)}) == 1
    assert len(sealed(A, text="x" * 108)) < 340


def test_a_value_is_one_line_of_plain_characters() -> None:
    value = sealed(A, B)
    assert value.startswith("rlsec1.")
    assert set(value) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


def test_sealing_twice_gives_two_values_with_recipients_in_one_order() -> None:
    one, two = sealed(A, B, C), sealed(C, B, A)
    assert one != two
    assert [kid for kid, _ in parse_sealed(one).wraps] == [kid for kid, _ in parse_sealed(two).wraps]


def test_too_long_a_secret_no_recipient_or_seventeen_of_them_are_refused() -> None:
    many = [identity(str(number)).public for number in range(17)]
    for keys, text, code in (
        ([A.public], "x" * 16385, "E-SEAL-SIZE"), ([], "x", "E-SEAL-NO-RECIPIENT"), (many, "x", "E-RECIPIENT-COUNT")
    ):  # fmt: skip
        with pytest.raises(SealError) as caught:
            seal(Secret(text), MAIN, keys)
        assert caught.value.code == code
    assert len(parse_sealed(seal(Secret("x"), MAIN, many[:16])).wraps) == 16


def test_a_low_order_public_key_is_refused() -> None:
    with pytest.raises(SealError) as caught:
        seal(Secret(CANARY), MAIN, [PublicKey(1, bytes(32))])
    assert caught.value.code == "E-RECIPIENT-FORMAT"


# --- post-quantum recipients ----------------------------------------------------------------------------------------


def test_one_post_quantum_recipient_makes_an_rlsec2_value_that_all_recipients_open() -> None:
    for owners in ([Q], [A, Q]):
        value = sealed(*owners)
        assert value.startswith("rlsec2.")
        assert [open_sealed(value, MAIN, [owner]).reveal() for owner in owners] == [CANARY] * len(owners)
        assert inspect(value, MAIN, [recipient(str(n), owner) for n, owner in enumerate(owners)]) == []


def test_an_rlsec2_value_is_not_passed_off_as_rlsec1() -> None:
    head = sealed(A, Q).rsplit(".", 1)[0]
    assert code_of(with_checksum("rlsec1" + head[6:])) == "E-SEAL-FORMAT"
    head = sealed(A, B).rsplit(".", 1)[0]
    assert code_of(with_checksum("rlsec2" + head[6:])) == "E-SEAL-FORMAT"


def test_the_hybrid_key_is_that_of_x_wing() -> None:
    # draft-connolly-cfrg-xwing-kem, appendix C, first vector: the seed and the start and end of pk. X-Wing's pk ends
    # with the X25519 key of the last 32 of 96 bytes of SHAKE256(seed), computed here by other means.
    seed = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
    public = new_identity(lambda _: seed, 2).public.raw
    assert len(public) == 1216
    assert public.hex().startswith("e2236b35a8c24b39b10aa1323a96a919")
    classic = X25519PrivateKey.from_private_bytes(hashlib.shake_256(seed).digest(96)[64:])
    assert public[-32:] == classic.public_key().public_bytes_raw()


# --- binding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        attrs.evolve(MAIN, realm="other"),
        attrs.evolve(MAIN, id="main2"),
        attrs.evolve(MAIN, kind="alert"),
        attrs.evolve(MAIN, field="credential.file"),
        attrs.evolve(MAIN, origin="https://relay.example.net"),
        attrs.evolve(MAIN, origin="http://api.anthropic.com"),
        attrs.evolve(MAIN, origin="https://api.anthropic.com:8443"),
        attrs.evolve(MAIN, token_url="https://evil.example/token"),
    ],
)
def test_a_value_opens_at_no_other_place_even_with_a_forged_tag(other: Binding) -> None:
    value = sealed(A)
    assert code_of(value, other) == "E-SEAL-CONTEXT"
    assert [finding.code for finding in inspect(value, other, [recipient("a", A)])] == ["E-SEAL-CONTEXT"]
    parts, there = value.split("."), sealed(A, binding=other).split(".")
    forged = with_checksum(".".join([parts[0], there[1], *parts[2:-1]]))
    assert inspect(forged, other, [recipient("a", A)]) == []  # the lint is fooled, the cipher is not
    assert code_of(forged, other) == "E-SEAL-TAMPERED"


@given(st.lists(st.text(max_size=8), min_size=6, max_size=6), st.lists(st.text(max_size=8), min_size=6, max_size=6))
@settings(deadline=None)
def test_different_bindings_have_different_bytes(one: list[str], two: list[str]) -> None:
    names = ("realm", "kind", "id", "field", "origin", "token_url")
    first, second = (Binding(**dict(zip(names, parts, strict=True))) for parts in (one, two))
    assert (first.encode() == second.encode()) == (one == two)
    assert first.encode().isascii()


def test_the_origin_is_scheme_host_and_port_and_the_rest_of_the_url_is_free() -> None:
    assert origin_of("https://API.Anthropic.com") == origin_of("https://api.anthropic.com:443/v1?x") == MAIN.origin
    assert origin_of("https://relay.example:8443/x") == "https://relay.example:8443"
    assert origin_of("http://127.0.0.1:3000/") == "http://127.0.0.1:3000"
    assert origin_of("http://[::1]:80") == "http://[::1]"
    assert origin_of("http://localhost:80") == "http://localhost"
    assert origin_of("https://bücher.example") == "https://xn--bcher-kva.example"


@pytest.mark.parametrize(
    "url",
    ["http://api.anthropic.com", "ftp://x", "", "https://", "api.anthropic.com", "https://x:99999", "https://[::1"],
)
def test_a_url_that_cannot_carry_a_secret_has_no_origin(url: str) -> None:
    with pytest.raises(SealError) as caught:
        origin_of(url)
    assert caught.value.code == "E-SEAL-ORIGIN"


def test_tokens_are_bound_to_the_whole_token_endpoint_but_the_one_of_the_first_values_goes_unnamed() -> None:
    """So that values which were sealed before there was a place for it open as before, and there alone."""
    base = "https://api.anthropic.com"
    first, preset = account_binding("r", "a", base), account_binding("r", "a", base, OAuth().token_url)
    assert OAuth().token_url == UNNAMED_TOKEN_URL
    assert preset == first == account_binding("r", "a", base, "https://PLATFORM.claude.com:443/v1/oauth/token/")
    others = [UNNAMED_TOKEN_URL + "2", "https://platform.claude.com/", "http://localhost/v1/oauth/token"]
    places = {account_binding("r", "a", base, url).encode() for url in (*others, "https://evil.example/v1/oauth/token")}
    assert len({*places, first.encode()}) == 5
    assert endpoint_of("https://ID.example:443/a/token/") == "https://id.example/a/token"
    with pytest.raises(SealError, match=r"http://evil\.example would carry the credential in clear"):
        account_binding("r", "a", base, "http://evil.example/token")


def test_alerts_and_admins_have_places_of_their_own() -> None:
    places = {MAIN, alert_binding("example", "main"), totp_binding("example", "main")}
    assert len({place.encode() for place in places}) == 3


# --- damage ---------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_changed_character_is_noticed_without_a_key(data: st.DataObject) -> None:
    value = sealed(A, B)
    at = data.draw(st.integers(0, len(value) - 1))
    char = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    damaged = value[:at] + char + value[at + 1 :]
    findings = inspect(damaged, MAIN, [recipient("a", A), recipient("b", B)])
    assert bool(findings) == (damaged != value)
    assert all(finding.is_error for finding in findings)


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_any_changed_character_with_a_fitting_checksum_does_not_open(data: st.DataObject) -> None:
    head = sealed(A, B).rsplit(".", 1)[0]
    at = data.draw(st.integers(0, len(head) - 1))
    char = data.draw(st.sampled_from("Aa0-_.~"))
    damaged = head[:at] + char + head[at + 1 :]
    if damaged != head:
        with pytest.raises(SealError):
            open_sealed(with_checksum(damaged), MAIN, [A, B])


@given(st.integers(0, 400))
@settings(deadline=None, max_examples=40)
def test_a_cut_value_is_noticed(length: int) -> None:
    value = sealed(A)
    if length < len(value):
        assert inspect(value[:length], MAIN, [])[0].code in ("E-SEAL-FORMAT", "E-SEAL-CORRUPT")


def test_what_is_not_sealed_is_refused_and_not_quoted() -> None:
    for text in (CANARY, "", "rlsec", "rlsec1.", "rlsec3.abcdefgh.x", sealed(A) + "\n", " " + sealed(A)):
        (finding,) = inspect(text, MAIN, [])
        assert finding.code == "E-SEAL-FORMAT"
        assert CANARY not in finding.message
    assert "never written in clear" in inspect(CANARY, MAIN, [])[0].message
    assert "update relayd" in inspect("rlsec3.abcdefgh.x", MAIN, [])[0].message


def test_a_second_wrap_of_the_same_kid_does_not_keep_the_value_from_opening() -> None:
    # Two keys may share the six bytes of a kid: every wrap with that kid is tried, and the head stays authenticated.
    value = sealed(A)
    parts = value.split(".")
    assert code_of(with_checksum(".".join([*parts[:3], parts[2], *parts[3:-1]]))) == "E-SEAL-TAMPERED"


def test_no_secret_is_in_a_traceback_with_locals() -> None:
    parts = sealed(A).split(".")
    for value, owners in (
        (with_checksum(".".join([*parts[:-2], "A" + parts[-2][1:]])), [A]), (sealed(B), [A]), (sealed(A), [A])
    ):  # fmt: skip
        try:
            open_sealed(value, attrs.evolve(MAIN), owners)
            seal(Secret(CANARY), MAIN, [])
        except SealError as error:
            text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "SealError" in text
        assert not any(canary in text for canary in (CANARY, A.secret.reveal(), A.secret.reveal().split(".")[1]))


# --- recipients -----------------------------------------------------------------------------------------------------


def test_findings_name_the_recipients_that_are_missing_or_too_many() -> None:
    listed = [recipient("old", A, "retiring"), recipient("new", B), recipient("gone", Q, "removed")]
    findings = inspect(sealed(A, C), MAIN, listed)
    assert [finding.code for finding in findings] == [
        "E-SEAL-RECIPIENT-MISSING",
        "W-SEAL-RECIPIENT-STALE",
        "W-SEAL-RECIPIENT-STALE",
    ]
    text = " ".join(finding.message for finding in findings)
    assert "not sealed for recipient new" in text
    assert "retiring recipient old" in text
    assert f"unknown recipient {C.public.kid}" in text
    assert inspect(sealed(B), MAIN, listed) == []


def test_an_error_says_who_could_open_and_which_identity_is_loaded() -> None:
    listed = [recipient("k1", A), recipient("k2", B)]
    with pytest.raises(SealError, match="sealed for recipient k2, but only k1 is loaded"):
        open_sealed(sealed(B), MAIN, [A], listed)
    with pytest.raises(SealError, match="sealed for recipient k2, but no identity is loaded"):
        open_sealed(sealed(B), MAIN, [], listed)


def test_a_list_of_recipients_is_checked() -> None:
    assert check_recipients([recipient("a", A), recipient("b", B)]) == []
    broken = Recipient(name="x", public="rlpub1.abc.abcdef")
    private = Recipient(name="p", public=A.secret.reveal())
    listed = [recipient("a", A), recipient("again", A), broken, private, recipient("q", Q)]
    findings = check_recipients(listed)
    assert [finding.code for finding in findings] == [
        "E-RECIPIENT-TWICE", "E-RECIPIENT-FORMAT", "E-RECIPIENT-FORMAT", "W-RECIPIENT-MIXED"
    ]  # fmt: skip
    assert A.secret.reveal() not in repr(findings)
    many = [recipient(str(number), identity(str(number))) for number in range(17)]
    assert [finding.code for finding in check_recipients(many)] == ["E-RECIPIENT-COUNT"]
    assert active_keys([recipient("a", A), recipient("b", B, "retiring")]) == [A.public]


def test_the_rotation_drill_leaves_every_value_open_at_every_step() -> None:
    """docs/sealed-secrets.md, "Rotating an identity"."""

    def state(value: str, listed: list[Recipient]) -> tuple[set[str], list[bool | None]]:
        opens: list[bool | None] = []
        for one in (A, B):
            try:
                opens.append(open_sealed(value, MAIN, [one], listed).reveal() == CANARY)
            except SealError as error:
                opens.append(False if error.code == "E-SEAL-NO-IDENTITY" else None)
        return {finding.code for finding in inspect(value, MAIN, listed)}, opens

    def reseal(value: str, by: Identity, listed: list[Recipient]) -> str:
        return seal(open_sealed(value, MAIN, [by]), MAIN, active_keys(listed))

    listed = [recipient("old", A)]
    value = seal(Secret(CANARY), MAIN, active_keys(listed))
    assert state(value, listed) == (set(), [True, False])
    listed = [recipient("old", A), recipient("new", B)]
    assert state(value, listed) == ({"E-SEAL-RECIPIENT-MISSING"}, [True, False])
    value = reseal(value, A, listed)
    assert state(value, listed) == (set(), [True, True])
    listed = [recipient("old", A, "retiring"), recipient("new", B)]
    assert state(value, listed) == ({"W-SEAL-RECIPIENT-STALE"}, [True, True])
    value = reseal(value, B, listed)
    assert state(value, listed) == (set(), [False, True])
    listed = [recipient("new", B)]
    assert state(value, listed) == (set(), [False, True])


# --- keys and identity files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [A, Q])
def test_keys_come_back_from_their_text(one: Identity) -> None:
    assert parse_identity(one.secret.reveal()) == one
    assert parse_public(one.public.text) == one.public
    assert one.secret.reveal() not in repr(one)


def test_a_mistyped_key_is_noticed_and_not_quoted() -> None:
    text = A.secret.reveal()
    for wrong in (text[:-1], text.replace("rlkey1", "rlkey2"), text[:12] + "_" + text[13:], "", A.public.text):
        with pytest.raises(SealError) as caught:
            parse_identity(wrong)
        assert caught.value.code == "E-IDENTITY-FORMAT"
        assert text[8:20] not in str(caught.value)
    with pytest.raises(SealError, match="private key where a public one belongs"):
        parse_public(text)


def test_an_identity_file_is_written_once_for_its_owner_only_and_read_back(tmp_path: Path) -> None:
    tree, path = tmp_path / "tree", tmp_path / "identity"
    tree.mkdir()
    write_identity(path, tree, A)
    assert path.stat().st_mode & 0o777 == 0o400
    assert read_identities(path, tree) == [A]
    with pytest.raises(FileExistsError):
        write_identity(path, tree, B)


def test_several_identities_in_several_files_are_read(tmp_path: Path) -> None:
    tree, one, two = tmp_path / "tree", tmp_path / "one", tmp_path / "two"
    tree.mkdir()
    one.write_text(f"# old\n\n  {A.secret.reveal()}  \n{B.secret.reveal()}\n")
    two.write_text(Q.secret.reveal())
    one.chmod(0o600)
    two.chmod(0o400)
    paths = identity_paths(None, {"RELAYD_IDENTITY": f"{one}:{two}"}, "test")
    assert load_identities(paths, tree, {}) == [A, B, Q]
    assert identity_paths(str(two), {"RELAYD_IDENTITY": str(one)}, "test") == [two]


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o644, 0o620, 0o500])
def test_an_identity_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity"
    path.write_text(A.secret.reveal())
    path.chmod(mode)
    with pytest.raises(SealError, match="chmod 0400") as caught:
        read_identities(path, tmp_path / "tree")
    assert caught.value.code == "E-IDENTITY-ACCESS"


def test_an_identity_in_the_tree_is_refused_also_through_a_link(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with pytest.raises(SealError) as caught:
        write_identity(tree / "identity", tree, A)
    assert caught.value.code == "E-IDENTITY-IN-TREE"
    (tree / "identity").write_text(A.secret.reveal())
    (tmp_path / "link").symlink_to(tree / "identity")
    with pytest.raises(SealError) as caught:
        read_identities(tmp_path / "link", tree)
    assert caught.value.code == "E-IDENTITY-IN-TREE"


def test_systemds_credential_is_found_and_its_acl_mask_is_no_offence(tmp_path: Path) -> None:
    credential = tmp_path / "credentials" / "identity"
    credential.parent.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credential.parent)}
    assert identity_paths(None, environ, "test") == []
    credential.write_text(A.secret.reveal())
    credential.chmod(0o440)
    assert load_identities(identity_paths(None, environ, "test"), tmp_path / "tree", environ) == [A]
    credential.chmod(0o444)
    with pytest.raises(SealError, match="mode 0444"):
        load_identities(identity_paths(None, environ, "test"), tmp_path / "tree", environ)


def test_the_identities_of_a_realm_are_found_in_the_usual_places(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    own = tmp_path / ".config" / "relayd"
    own.mkdir(parents=True)
    for name in ("prod.identity", "prod.2027.identity", "prod-eu.identity", "prod.identity.old", "notes"):
        (own / name).write_text("")
    assert identity_paths(None, environ, "prod") == [own / "prod.identity", own / "prod.2027.identity"]
    assert identity_paths(None, environ, "prod-eu") == [own / "prod-eu.identity"]
    assert identity_paths(None, {**environ, "XDG_CONFIG_HOME": str(tmp_path / "none")}, "prod") == []
    assert identity_paths(None, {**environ, "XDG_CONFIG_HOME": "relative"}, "prod-eu") == [own / "prod-eu.identity"]
    assert identity_paths("", environ, "prod") == []
    assert identity_paths(None, environ, "../relayd/prod") == []
    assert identity_paths(None, {**environ, "RELAYD_IDENTITY": "/x"}, "prod") == [Path("/x")]


def test_a_new_identity_is_put_where_the_tree_is_not(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert usual_identity("prod", tmp_path / "tree", environ) == tmp_path / "config" / "relayd" / "prod.identity"
    there = usual_identity("prod", tmp_path / "config" / "relayd", environ)
    assert there == Path("/etc/relayd/prod.identity")


def test_a_first_look_of_root_needs_no_directory_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, system = tmp_path / "home", tmp_path / "system"
    monkeypatch.setattr("relayd.config.secrets.identity.SYSTEM", system)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    environ = {"HOME": str(home)}
    assert usual_identity("prod", tmp_path / "tree", environ) == home / ".config/relayd/prod.identity"
    system.mkdir()
    assert usual_identity("prod", tmp_path / "tree", environ) == system / "prod.identity"


def test_errors_of_identity_files_name_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_text(f"{A.secret.reveal()}\n{A.secret.reveal()[:-2]}\n")
    path.chmod(0o600)
    with pytest.raises(SealError, match=r"identity:2: identity: ") as caught:
        read_identities(path, tmp_path / "tree")
    assert A.secret.reveal()[10:30] not in str(caught.value)
    for content, code in (("", "E-IDENTITY-EMPTY"), ("é" * 9, "E-IDENTITY-FORMAT"), ("#" * 70000, "E-IDENTITY-FORMAT")):
        path.write_text(content)
        with pytest.raises(SealError) as caught:
            read_identities(path, tmp_path / "tree")
        assert caught.value.code == code
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(SealError) as caught:
            read_identities(missing, tmp_path / "tree")
        assert caught.value.code == "E-IDENTITY-FILE"


# --- the document ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["open"], ids=lambda vector: vector["title"])
def test_the_documents_values_open_with_the_documents_identities(vector: dict[str, Any]) -> None:
    realm, kind, name, field, origin, *token_url = vector["binding"]
    binding = Binding(realm=realm, kind=kind, id=name, field=field, origin=origin, token_url="".join(token_url))
    assert binding.encode().decode() == vector["encoded_binding"]
    assert parse_sealed(vector["sealed"]).tag == vector["tag"]
    assert len(vector["recipients"]) == len(parse_sealed(vector["sealed"]).wraps)
    for owner in vector["recipients"]:
        one = parse_identity(VECTORS["identities"][owner]["private"])
        assert open_sealed(vector["sealed"], binding, [one]).reveal() == vector["secret"]


@pytest.mark.parametrize("vector", VECTORS["refuse"], ids=lambda vector: vector["title"])
def test_the_documents_bad_values_are_refused_with_the_documents_codes(vector: dict[str, Any]) -> None:
    one = parse_identity(VECTORS["identities"]["one"]["private"])
    assert code_of(vector["sealed"], MAIN, one) == vector["code"]


def test_the_documents_keys_are_spelt_as_it_says() -> None:
    for entry in VECTORS["identities"].values():
        one = parse_identity(entry["private"])
        assert (one.public.text, one.public.kid) == (entry["public"], entry["kid"])


def test_every_code_of_sealed_values_is_explained_to_operators() -> None:
    text = DOCUMENT.with_name("sealed-secrets.md").read_text()
    for code in ("E-SEAL-FORMAT", "E-SEAL-CORRUPT", "E-SEAL-CONTEXT", "E-SEAL-RECIPIENT-MISSING", "E-SEAL-SIZE",
                 "W-SEAL-RECIPIENT-STALE", "E-SEAL-NO-IDENTITY", "E-SEAL-TAMPERED", "E-SEAL-ORIGIN",
                 "E-SEAL-NO-RECIPIENT", "W-RECIPIENT-MIXED", "E-IDENTITY-IN-TREE"):  # fmt: skip
        assert code in text


def second_keys(*owners: str) -> list[second.Key]:
    return [second.Key(VECTORS["identities"][owner]["private"]) for owner in owners]


@pytest.mark.parametrize("vector", VECTORS["open"], ids=lambda vector: vector["title"])
def test_a_second_implementation_after_the_document_opens_the_same_values(vector: dict[str, Any]) -> None:
    assert second.encoded(*vector["binding"]) == vector["encoded_binding"].encode()
    for key in second_keys(*vector["recipients"]):
        assert second.unseal(vector["sealed"], second.encoded(*vector["binding"]), [key]) == vector["secret"]


@pytest.mark.parametrize("vector", VECTORS["refuse"], ids=lambda vector: vector["title"])
def test_a_second_implementation_refuses_the_same_values_with_the_same_codes(vector: dict[str, Any]) -> None:
    with pytest.raises(second.Refused) as caught:
        second.unseal(vector["sealed"], MAIN.encode(), second_keys("one"))
    assert caught.value.args == (vector["code"],)


@pytest.mark.parametrize("owners", [("one",), ("two", "one"), ("three",), ("one", "three", "two")], ids="-".join)
@pytest.mark.parametrize("text", ["", "x", "a secret " * 20, "h\N{LATIN SMALL LETTER E WITH ACUTE}llo \N{SNOWMAN}"])
def test_each_implementation_opens_what_the_other_sealed(owners: tuple[str, ...], text: str) -> None:
    identities = [parse_identity(VECTORS["identities"][owner]["private"]) for owner in owners]
    theirs = second.seal(text, MAIN.encode(), [one.public.text for one in identities])
    ours = seal(Secret(text), MAIN, [one.public for one in identities])
    assert len(theirs) == len(ours)
    assert inspect(theirs, MAIN, [Recipient(name=one.public.kid, public=one.public.text) for one in identities]) == []
    for one, key in zip(identities, second_keys(*owners), strict=True):
        assert open_sealed(theirs, MAIN, [one]).reveal() == text
        assert second.unseal(ours, MAIN.encode(), [key]) == text


def test_inspecting_does_not_load_cryptography() -> None:
    program = (
        "import sys\nfrom relayd.config.secrets.seal import inspect\n"
        f"assert inspect({VECTORS['open'][0]['sealed']!r}, None, []) != []\n"
        "assert 'cryptography' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
