"""`aquatint provenance`, and what `aquatint serve` says of certificates that cannot be used."""

import json
import time

import pytest
from authorities import asked, encoded
from click.testing import CliRunner

from server.cli import main
from server.storage.provenance.claims import Telling, made
from server.storage.provenance.credentials import found
from server.storage.provenance.signing import Signer

TELLING = Telling("demo", "2026-11-22T10:00:00+00:00")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_init_and_check(run, tmp_path):
    home = ("--home", str(tmp_path / "home"))
    folder = tmp_path / "home" / "provenance"
    first = run("provenance", "init", "--organisation", "Studio", *home)
    assert first.exit_code == 0, first.output
    assert f"to trust\t{folder / 'ca.pem'}" in first.output
    again = run("provenance", "init", *home)
    assert (again.exit_code, "--renew replaces it" in again.output) == (1, True)
    before = (folder / "ca.pem").read_bytes()
    assert run("provenance", "init", "--renew", "--organisation", "Studio", *home).exit_code == 0
    assert (folder / "ca.pem").read_bytes() == before

    credentials = found(None, None, folder, time.time())
    signed = Signer(credentials).sign(encoded(), "image/png", made(asked(), (), TELLING))
    (tmp_path / "x.png").write_bytes(signed)
    shown = run("provenance", "check", "x.png", *home)
    assert shown.exit_code == 0
    wanted = {"state\ttrusted", "issuer\tStudio", "model\tdemo", "ai_generated\tyes", "action\tc2pa.created"}
    assert wanted <= set(shown.output.splitlines())
    elsewhere = ("--home", str(tmp_path / "other"))
    valid = run("provenance", "check", "--json", "x.png", *elsewhere)
    assert (valid.exit_code, json.loads(valid.output)["state"]) == (0, "valid")
    trusting = run("provenance", "check", "x.png", *elsewhere, "--provenance-trust", str(folder / "ca.pem"))
    assert trusting.output.startswith("state\ttrusted")


def test_check_of_what_holds_nothing(run, tmp_path):
    (tmp_path / "plain.png").write_bytes(encoded())
    plain = run("provenance", "check", "plain.png", "--home", str(tmp_path))
    assert (plain.exit_code, plain.output) == (1, "state\tnot_present\n")
    (tmp_path / "x.txt").write_text("hello")
    assert "is no PNG" in run("provenance", "check", "x.txt", "--home", str(tmp_path)).output
    wrong = run("provenance", "check", "plain.png", "--home", str(tmp_path), "--provenance-trust", "plain.png")
    assert (wrong.exit_code, "holds no PEM certificates" in wrong.output) == (1, True)


def test_init_where_nothing_can_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    refused = run("provenance", "init", "--home", str(tmp_path / "file"))
    assert (refused.exit_code, "cannot be written to" in refused.output) == (1, True)


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("ours/certificate.pem", "theirs/key.pem", "is not the key of the first certificate"),
        ("ours/certificate.pem", None, "go together"),
        ("ours/nothing.pem", "ours/key.pem", "nothing.pem cannot be read"),
        ("ours/ca.pem", "ours/ca-key.pem", "Nothing can be signed with the certificate of CN=Ours picture authority"),
    ],
)
def test_what_cannot_sign_keeps_the_server_from_starting(run, tmp_path, ours, theirs, *, certificate, key, told):
    folders = {"ours": ours.folder, "theirs": theirs.folder}

    def path(name):
        folder, _, file = name.partition("/")
        return str(folders[folder] / file)

    flags = ["--provenance-certificate", path(certificate), *(["--provenance-key", path(key)] if key else [])]
    refused = run("serve", "--port", "0", "--device", "fake", "--home", str(tmp_path), *flags)
    assert refused.exit_code == 1
    assert told in refused.output
    assert "Traceback" not in refused.output
