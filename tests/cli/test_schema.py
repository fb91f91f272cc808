from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from relayd.cli import main
from relayd.config.model.json_schema import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_printed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0

    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False


def test_without_a_kind_all_are_printed_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(KINDS)


def test_schemas_are_written_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--out", str(tmp_path / "new")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"{kind}.json" for kind in KINDS}
    assert capsys.readouterr().out == ""


def test_one_schema_is_written_when_one_is_named(tmp_path: Path) -> None:
    assert main(["schema", "key", "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")

    assert main(["schema", "--out", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_the_table_lists_every_key_with_type_default_and_reload_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--table"]) == 0

    out = capsys.readouterr().out
    assert '  server.listen  (array of address, default ["127.0.0.1:3000"]; drain)\n' in out
    assert "  realm  (name, required; restart)\n" in out
    assert "  hashes[].sha256  (sha256, required; revoke)\n" in out
    assert "  clients.ID.user_agent  (regex; hot)\n" in out


def test_the_table_comes_as_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "account", "--table", "--json"]) == 0

    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)["account"]}
    assert rows["weight"]["default"] == "1"
    assert rows["kind"]["reload"] == "drain"
    assert "id" not in rows


def test_an_unknown_kind_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["schema", "nonsense"])

    assert caught.value.code == 2
