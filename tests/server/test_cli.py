import pytest
from click.testing import CliRunner

from server.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Else commands would open the database of whoever runs the tests.
    monkeypatch.setenv("AQUATINT_HOME", str(tmp_path / "home"))
    for name in ("AQUATINT_API_KEY", "AQUATINT_API_KEYS", "AQUATINT_MODELS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_version(run):
    assert run("--version").output.startswith("aquatint, version 0.")


def test_models_are_listed(run, tmp_path):
    lines = run("models", "list").output.splitlines()
    assert lines[:2] == ["demo (default)\tsd\tbundled:demo\t", "auto\t\tthe server chooses\tdall-e-2 dall-e-3 gpt-image-1"]


def test_upstreams_are_listed(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert "upstreams.openai\topenai\thttps://api.openai.com/v1\tgpt-image-2.6-flare" in run("models", "list").output


def test_a_wrong_catalog_is_told_with_its_line(run, tmp_path):
    (tmp_path / "models.yaml").write_text("server: {default_model: a}\nmodels:\n  a: {source: 'fake:', family: fkae}\n")
    for command in (("models", "list"), ("serve", "--port", "0")):
        result = run(*command)
        assert result.exit_code == 1
        assert "models.yaml:3: models.a.family: Invalid enum value 'fkae'" in result.output


def test_a_wrong_setting_is_told(run):
    result = run("serve", "--port", "many")
    assert (result.exit_code, "--port='many'" in result.output) == (1, True)


def test_other_machines_are_not_served_without_a_key(run):
    result = run("serve", "--host", "0.0.0.0", "--port", "0")
    assert result.exit_code == 1
    assert "--open-access" in result.output


def test_a_taken_port_is_told(run):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("serve", "--port", str(taken.getsockname()[1]), "--device", "fake")
    assert result.exit_code == 1
    assert "in use" in result.output
